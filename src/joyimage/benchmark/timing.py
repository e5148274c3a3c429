"""Seconds, stage by stage: both implementations in one process, alternating, on the same random draws."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from joyimage.benchmark.models import PROMPT
from joyimage.benchmark.stages import STAGES, STEP, watch
from joyimage.errors import JoyImageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL.Image import Image

WHOLE = "whole edit"

TOLERANCES = {torch.float32: 2e-4, torch.bfloat16: 0.05, torch.float16: 0.05}
"""Most that two results may differ, in [0, 1]: the largest difference in fp32, else the mean one.

Half precision rounds every sum anew: two exact implementations of this model are 35-50 dB apart there.
"""


class DisagreementError(JoyImageError, ValueError):
    """Two implementations gave different images; seconds would mean nothing."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """The edit that both implementations run.

    Attributes:
        image: The image, of the model's base size.
        latents: Starting noise, `[1, 1, C, 1, H/8, W/8]`.
        steps: Denoising steps.
        prompt: What to change.
        guidance_scale: Classifier-free guidance scale.
        seed: Seed of the posterior noise.
    """

    image: Image
    latents: torch.Tensor
    steps: int
    prompt: str = PROMPT
    guidance_scale: float = 4.0
    seed: int = 7


@dataclass(frozen=True, kw_only=True)
class Run:
    """One edit.

    Attributes:
        seconds: By stage, and of the whole.
        image: The result, in [0, 1].
        peak_bytes: Most device memory; 0 on a CPU.
    """

    seconds: dict[str, float]
    image: NDArray[np.float32]
    peak_bytes: int


def make_edit(pipe: Any, image: Image, steps: int, seed: int = 0) -> Edit:
    """Draw the starting noise of an edit.

    Args:
        pipe: Pipeline whose device, dtype and sizes are used.
        image: Square, of the model's base size.
        steps: Denoising steps.
        seed: Seed of the noise.

    Returns:
        The edit.
    """
    scale, channels = pipe.vae_scale_factor_spatial, pipe.transformer.config.in_channels
    shape = (1, 1, channels, 1, image.height // scale, image.width // scale)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    parameter = next(pipe.vae.parameters())
    return Edit(image=image, latents=noise.to(parameter.device, parameter.dtype), steps=steps)


def run(pipe: Any, edit: Edit) -> Run:
    """Run an edit once.

    Args:
        pipe: Ours or diffusers'.
        edit: What to do.

    Returns:
        Seconds by stage and the result.
    """
    torch.manual_seed(edit.seed)  # diffusers draws the posterior from the global generator
    return run_call(
        pipe,
        edit.latents.device,
        image=edit.image,
        prompt=edit.prompt,
        num_inference_steps=edit.steps,
        guidance_scale=edit.guidance_scale,
        latents=edit.latents.clone(),
    )


def run_call(pipe: Any, device: torch.device, **call: Any) -> Run:
    """Run a call of a pipeline once.

    Args:
        pipe: Ours or diffusers'.
        device: Device of the pipeline.
        **call: Arguments of the edit, without `output_type`.

    Returns:
        Seconds by stage and the result.
    """
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    marks: list[tuple[str, Any]] = []

    def mark(stage: str) -> None:
        if stage != STEP:
            marks.append((stage, _now(is_cuda=is_cuda)))

    with watch(pipe, mark):
        image = pipe(**call, output_type="np").images
        marks.append((WHOLE, _now(is_cuda=is_cuda)))
    if is_cuda:
        torch.cuda.synchronize(device)
    assert [name for name, _ in marks] == [*STAGES, WHOLE], "stages came in another order"
    seconds = {name: _between(begin, end) for (name, begin), (_, end) in pairwise(marks)}
    seconds[WHOLE] = _between(marks[0][1], marks[-1][1])
    peak = torch.cuda.max_memory_allocated(device) if is_cuda else 0
    return Run(seconds=seconds, image=np.asarray(image, dtype=np.float32), peak_bytes=peak)


def compare(reference: Any, ours: Any, edit: Edit, rounds: int) -> tuple[list[Run], list[Run]]:
    """Run both in the order A B B A, again and again, so that what drifts meets both alike.

    Args:
        reference: Warmed up.
        ours: Warmed up.
        edit: What to do.
        rounds: Times that the four runs are made.

    Returns:
        Runs of the reference and ours, two per round.
    """
    runs: tuple[list[Run], list[Run]] = ([], [])
    for _ in range(rounds):
        for side in (0, 1, 1, 0):
            runs[side].append(run((reference, ours)[side], edit))
    return runs


def run_again(ours: Any, edit: Edit, times: int) -> list[Run]:
    """Edit one image in a session, each time with another prompt.

    Args:
        ours: Our pipeline, warmed up.
        edit: The first edit, which isn't among what is returned.
        times: Edits after the first.

    Returns:
        One run for each.
    """
    with ours.session() as session, session.caching():
        run(ours, edit)
        return [run(ours, replace(edit, prompt=f"{edit.prompt} {number}")) for number in range(times)]


def measure_agreement(reference: Run, ours: Run, dtype: torch.dtype) -> dict[str, float | str]:
    """Check that both implementations returned the same image.

    Args:
        reference: A run of diffusers.
        ours: A run of joyimage with the same edit.
        dtype: Precision of the weights.

    Returns:
        Largest and mean difference in [0, 1], PSNR in dB, spread of the image, and what was allowed.

    Raises:
        DisagreementError: The images differ by more than `TOLERANCES` allows, or contain NaN.
    """
    difference = np.abs(ours.image - reference.image)
    error = float(np.square(difference.astype(np.float64)).mean())
    result: dict[str, float | str] = {
        "max": float(difference.max()),
        "mean": float(difference.mean()),
        "psnr_db": 10 * float(np.log10(1 / error)) if error else float("inf"),
        "image_std": float(reference.image.std()),
    }
    kind = "max" if dtype == torch.float32 else "mean"
    result["allowed"] = f"{kind} {TOLERANCES[dtype]:g}"
    if not float(result[kind]) <= TOLERANCES[dtype]:
        raise DisagreementError(
            f"The {kind} difference between joyimage's and diffusers' image is {result[kind]:.2g} of 1; "
            f"expected {TOLERANCES[dtype]:g} at most, so their seconds can't be compared."
        )
    return result


def summarize(values: Sequence[float]) -> dict[str, Any]:
    """Return median, least and most of some seconds or ratios, and all of them."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "samples": list(values),
    }


def seconds_by_stage(runs: Sequence[Run]) -> dict[str, Any]:
    """Summarize each stage over several runs."""
    return {name: summarize([one.seconds[name] for one in runs]) for name in (*STAGES, WHOLE)}


def ratios(reference: Sequence[Run], ours: Sequence[Run]) -> dict[str, Any]:
    """Return how many times faster joyimage is: within each round, then over the rounds.

    Args:
        reference: Two runs per round.
        ours: Two runs per round.

    Returns:
        By stage, with the VAE's two as one more.
    """
    groups = {name: (name,) for name in (*STAGES, WHOLE)} | {"VAE": (STAGES[1], STAGES[3])}

    def of(runs: Sequence[Run], names: tuple[str, ...], number: int) -> float:
        return sum(one.seconds[name] for one in runs[2 * number : 2 * number + 2] for name in names)

    rounds = range(len(ours) // 2)
    return {
        group: summarize([of(reference, names, number) / of(ours, names, number) for number in rounds])
        for group, names in groups.items()
    }


def _now(*, is_cuda: bool) -> Any:
    if not is_cuda:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(begin: Any, end: Any) -> float:
    return end - begin if isinstance(begin, float) else begin.elapsed_time(end) / 1000
