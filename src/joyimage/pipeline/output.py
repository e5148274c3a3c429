"""What a pipeline call returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffusers.utils.outputs import BaseOutput

if TYPE_CHECKING:
    from PIL import Image

    from joyimage.spatial.checks import SpatialChecks


@dataclass
class JoyImageEditPipelineOutput(BaseOutput):
    """Edited pictures.

    Attributes:
        images: PIL images, as the type says. Other values of `output_type` give a numpy array `[B, H, W, 3]`
            in [0, 1], a tensor `[B, 3, H, W]` in [0, 1], or latents `[B, C, H/8, W/8]`. Empty after an
            interrupt.
        height: Chosen height in pixels.
        width: Chosen width in pixels.
        interrupted: Whether `pipe._interrupt` ended the call early; the images are what was there then.
        masks: Where `preserve` or `region` took the result (255) and not the picture; None without them.
        checks: Of a spatial edit, what changed in each picture (`joyimage.spatial.checks.SpatialChecks`).
        prompt: Of a spatial edit, the words that were sent.
    """

    images: list[Image.Image]
    height: int | None = None
    width: int | None = None
    interrupted: bool = False
    masks: list[Image.Image] | None = None
    checks: list[SpatialChecks] | None = None
    prompt: str | None = None
