"""Measure speed presets on a user's own images: the largest threshold of each that keeps a stated agreement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from joyimage.acceleration.presets import EXACT, PRESETS, SpeedPreset
from joyimage.errors import InvalidInputError
from joyimage.evaluation.metrics import psnr
from joyimage.evaluation.prices import ForwardCounter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from PIL.Image import Image

    from joyimage.evaluation.metrics import Pixels

THRESHOLDS = (0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05)
"""Thresholds that are tried, the fastest first."""


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A preset with the threshold that was found for it.

    Attributes:
        preset: The preset.
        lowest_psnr: PSNR against the exact image, in dB, of the image that differs most; 60 at most.
        forwards: Forwards through all blocks per edit, each guidance branch counted once.
        exact_forwards: Those of the exact edit.
    """

    preset: SpeedPreset
    lowest_psnr: float
    forwards: float
    exact_forwards: float


def calibrate(
    pipe: Any,
    images: Sequence[Image],
    prompts: Sequence[str],
    targets_db: Mapping[str, float],
    *,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> dict[str, Calibrated]:
    """Find for each preset the largest threshold at which every image agrees with its exact edit.

    Args:
        pipe: The pipeline.
        images: The user's images.
        prompts: A prompt for each of them.
        targets_db: Lowest PSNR, in dB, that any image may have, by preset.
        num_inference_steps: Denoising steps; None uses the checkpoint's own default.
        guidance_scale: Guidance scale; None uses the checkpoint's own default.
        announce: Called with a sentence after each measurement.

    Returns:
        What was found, by preset. A preset that reaches its target with no threshold computes all blocks.

    Raises:
        InvalidInputError: There are no images, or not one prompt for each.
    """
    if not images or len(images) != len(prompts):
        raise InvalidInputError(
            f"`prompts` holds {len(prompts)} prompts for {len(images)} images; expected one for each, and one or more."
        )
    settings = {
        name: value
        for name, value in (("num_inference_steps", num_inference_steps), ("guidance_scale", guidance_scale))
        if value is not None
    }

    def run(speed: str) -> tuple[list[Pixels], float]:
        with ForwardCounter().watching(pipe) as counter:
            made = [
                _edit(pipe, image, prompt, number, speed=speed, **settings)
                for number, (image, prompt) in enumerate(zip(images, prompts, strict=True))
            ]
        return made, counter.count / len(images)

    def measure(name: str, preset: SpeedPreset) -> Calibrated:
        pipe.speed_presets = {**before, name: preset}
        made, forwards = run(name)
        lowest = min(psnr(a, b) for a, b in zip(exact, made, strict=True))
        announce(
            f"{name}, {preset}: {forwards:.1f} of {exact_forwards:.1f} forwards, lowest PSNR {lowest:.1f} dB."
        )
        return Calibrated(preset=preset, lowest_psnr=lowest, forwards=forwards, exact_forwards=exact_forwards)

    exact, exact_forwards = run(EXACT)
    before = pipe.speed_presets
    found: dict[str, Calibrated] = {}
    try:
        for name, target in targets_db.items():
            for threshold in THRESHOLDS:
                found[name] = measure(name, replace(PRESETS[name], threshold=threshold))
                if found[name].lowest_psnr >= target:
                    break
            else:
                # Without a threshold all guidance runs too: nothing is left out.
                found[name] = measure(name, SpeedPreset())
    finally:
        pipe.speed_presets = before
    return found


def _edit(pipe: Any, image: Image, prompt: str, seed: int, **call: Any) -> Pixels:
    name = "images" if pipe.takes_several_images else "image"
    generator = torch.Generator().manual_seed(seed)
    made = pipe(**{name: [image]}, prompt=[prompt], generator=generator, **call).images[0]
    return np.asarray(made.convert("RGB"))
