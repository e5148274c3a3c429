"""What a pipeline call returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusers.utils.outputs import BaseOutput


@dataclass
class JoyImageEditPipelineOutput(BaseOutput):
    """Edited pictures.

    Attributes:
        images: PIL images, a numpy array `[B, H, W, 3]` in [0, 1], a tensor `[B, 3, H, W]` in [0, 1], or
            latents `[B, C, H/8, W/8]`; empty after an interrupt.
        height: Chosen height in pixels.
        width: Chosen width in pixels.
        interrupted: Whether `pipe._interrupt` ended the call early.
        masks: Where `preserve` or `region` took the result (255) and not the picture; None without them.
        checks: Of a spatial edit, what changed in each picture (`joyimage.spatial.checks.SpatialChecks`).
        prompt: Of a spatial edit, the words that were sent.
    """

    images: Any
    height: int | None = None
    width: int | None = None
    interrupted: bool = False
    masks: Any = None
    checks: Any = None
    prompt: str | None = None
