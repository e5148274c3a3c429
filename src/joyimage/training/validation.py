"""Measure an adapter during training: losses of held-out pairs at fixed noise levels, and sample edits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from joyimage.imaging.psnr import psnr_of
from joyimage.training.adapter_loss import Batch, predict_loss
from joyimage.training.order import sample_generator
from joyimage.training.sheet import write_sheet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL import Image

    from joyimage.training.features import FeatureCache, Features
    from joyimage.training.framing import FramedExample

SIGMAS = (1.0, 0.75, 0.5, 0.25)
"""Noise levels at which the losses are measured."""

# Pixels of the target that differ by more than this from the reference, of 255, are the edit.
_CHANGED = 16
_LARGEST_PSNR = 99.0


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An edit that is made at every validation.

    Attributes:
        framed: Images as the network sees them; of an edit without a known result the target is the input.
        key: Hash of its features.
        seed: Random seed.
        has_target: Whether the target is known.
    """

    framed: FramedExample
    key: str
    seed: int
    has_target: bool


def measure_losses(
    transformer: Any,
    cache: FeatureCache,
    keys: Sequence[str],
    device: torch.device,
    precision: torch.dtype,
    seed: int,
) -> dict[str, float]:
    """Return the mean losses of held-out pairs, each beside that of copying the reference.

    Args:
        transformer: The transformer with its adapter.
        cache: Has the pairs' features.
        keys: Hashes of the pairs.
        device: Where to run.
        precision: bfloat16 or float32.
        seed: Seed of the noise, which is the same at every validation.
    """
    losses: dict[str, float] = {}
    with torch.no_grad():
        for sigma in SIGMAS:
            found: list[float] = []
            copied: list[float] = []
            for number, key in enumerate(keys):
                features = cache.read(key)
                batch = Batch.collate([features], [False], device)
                noise = torch.randn(features.target.shape, generator=sample_generator(seed, -1, number))
                level = torch.full((1,), sigma, device=device)
                _, mse = predict_loss(transformer, batch, noise[None].to(device), level, precision=precision)
                found.append(float(mse))
                copied += _copy_loss(features, sigma)
            losses[f"loss@{sigma:g}"] = float(np.mean(found))
            if copied:
                losses[f"copy@{sigma:g}"] = float(np.mean(copied))
    return losses


def make_samples(
    pipe: Any, cache: FeatureCache, samples: Sequence[Sample], *, takes_several: bool
) -> tuple[list[Image.Image], dict[str, float]]:
    """Make the sample edits with the pipeline.

    Args:
        pipe: Pipeline with the trained transformer; it needs no text encoder.
        cache: Has the samples' features.
        samples: The edits.
        takes_several: Whether the pipeline is an Edit-Plus.

    Returns:
        The images, and mean numbers: PSNR against the target, and outside of what the edit changes, each beside that
        of the unedited reference.
    """
    images: list[Image.Image] = []
    numbers: dict[str, list[float]] = {}
    for sample in samples:
        features = cache.read(sample.key)
        prompt, empty = features.prompt[None], features.empty[None]
        references = list(sample.framed.references)
        width, height = sample.framed.target.size
        image = pipe(
            **({"images": references} if takes_several else {"image": references[0] if references else None}),
            prompt_embeds=prompt,
            prompt_embeds_mask=torch.ones(prompt.shape[:2], dtype=torch.long),
            negative_prompt_embeds=empty,
            negative_prompt_embeds_mask=torch.ones(empty.shape[:2], dtype=torch.long),
            width=width,
            height=height,
            generator=torch.Generator().manual_seed(sample.seed),
        ).images[0]
        images.append(image)
        if sample.has_target and references and references[-1].size == sample.framed.target.size:
            for name, value in _compare(image, references[-1], sample.framed.target).items():
                numbers.setdefault(name, []).append(value)
    return images, {name: float(np.mean(values)) for name, values in numbers.items()}


def write_samples(path: Path, samples: Sequence[Sample], images: Sequence[Image.Image]) -> None:
    """Write a sheet with references, result and target of each sample.

    Args:
        path: PNG to write.
        samples: The edits.
        images: Results of the edits, in their order.

    Raises:
        ImageError: The file cannot be written.
    """
    write_sheet(
        path,
        [
            (
                [*one.framed.references, image, *([one.framed.target] if one.has_target else [])],
                one.framed.example.caption,
            )
            for one, image in zip(samples, images, strict=True)
        ],
    )


def _copy_loss(features: Features, sigma: float) -> list[float]:
    """Return the loss of predicting the reference, as a list of none or one."""
    if not features.references or features.references[-1].shape != features.target.shape:
        return []
    difference = features.target - features.references[-1]
    return [float(difference.square().mean()) / sigma**2]


def _compare(image: Image.Image, reference: Image.Image, target: Image.Image) -> dict[str, float]:
    made, before, after = (
        np.asarray(one.convert("RGB"), dtype=np.float64) for one in (image, reference, target)
    )
    kept = np.abs(after - before).max(axis=2) <= _CHANGED
    numbers = {"psnr": _psnr(made - after), "copy_psnr": _psnr(before - after)}
    if kept.any():
        numbers["psnr_outside"] = _psnr((made - after)[kept])
        numbers["copy_psnr_outside"] = _psnr((before - after)[kept])
    return numbers


def _psnr(error: np.ndarray) -> float:
    return psnr_of(float(np.square(error).mean()), peak=255, largest=_LARGEST_PSNR)
