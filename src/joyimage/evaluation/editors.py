"""Editors to evaluate: a pipeline, and its bounds (targets through the VAE, untouched sources)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from joyimage.evaluation.suites import Case

if TYPE_CHECKING:
    from joyimage.pipeline.base import JoyImagePipeline

Editor = Callable[[Sequence[Case]], Sequence[Image.Image]]


def pipeline_editor(
    pipe: Any,
    *,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    speed: str | None = None,
    schedule: str | None = None,
) -> Editor:
    """Edit with a pipeline; each case has its own generator, so the batch size does not matter.

    Args:
        pipe: The pipeline.
        num_inference_steps: Denoising steps; None uses the default of the active turbo adapter or of the checkpoint.
        guidance_scale: Guidance scale; None uses the default of the adapter or checkpoint.
        speed: Speed preset; None uses that of the adapter or checkpoint.
        schedule: Noise levels, one of `SCHEDULES`; None uses those of the adapter or checkpoint.

    Returns:
        The editor.
    """
    given = {
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "speed": speed,
        "schedule": schedule,
    }
    given = {name: value for name, value in given.items() if value is not None}
    pipe.set_progress_bar_config(disable=True)

    def edit(cases: Sequence[Case]) -> Sequence[Image.Image]:
        images = [case.source_image for case in cases]
        return pipe(
            image=None if images[0] is None else images,
            prompt=[case.prompt for case in cases],
            height=cases[0].size,
            width=cases[0].size,
            **given,
            generator=[torch.Generator().manual_seed(case.seed) for case in cases],
        ).images

    return edit


def round_trip_editor(pipe: JoyImagePipeline) -> Editor:
    """Encode and decode every target with the pipeline's VAE: the upper bound of the edit model.

    Args:
        pipe: The pipeline whose VAE is used.

    Returns:
        The editor.
    """

    @torch.inference_mode()
    def edit(cases: Sequence[Case]) -> Sequence[Image.Image]:
        vae: Any = pipe.vae
        targets = torch.from_numpy(np.stack([case.target for case in cases])).permute(
            0, 3, 1, 2
        )  # [B, 3, H, W]
        targets = targets.to(vae.device, vae.dtype)[:, :, None] / 127.5 - 1  # [B, 3, 1, H, W]
        decoded = vae.decode(vae.encode(targets).latent_dist.mode()).sample[:, :, 0]  # [B, 3, H, W]
        pixels = ((decoded.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
        return [Image.fromarray(image) for image in pixels.cpu().numpy()]

    return edit


def copy_editor(cases: Sequence[Case]) -> Sequence[Image.Image]:
    """Return every source unchanged, and white where there is none: the lower bound."""
    return [case.source_image or Image.new("RGB", (case.size, case.size), "white") for case in cases]
