"""What a pipeline call returns."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from diffusers.utils.outputs import BaseOutput
from PIL import Image

if TYPE_CHECKING:
    from joyimage.pipeline.candidates import Candidate
    from joyimage.spatial.checks import SpatialChecks
    from joyimage.understanding.judge import Verdict


@dataclass
class JoyImageEditPipelineOutput(BaseOutput):
    """Edited images.

    Attributes:
        images: PIL images, as the type says. Other values of `output_type` give a numpy array `[B, H, W, 3]`
            in [0, 1], a tensor `[B, 3, H, W]` in [0, 1], or latents `[B, C, H/8, W/8]`.
        height: Target height in pixels.
        width: Target width in pixels.
        interrupted: Whether `pipe._interrupt` ended the call early; the images are decoded from the latents of
            the last step that ran.
        masks: Where `preserve` or `region` took the result (255) and not the input (0); None without them.
        checks: What changed in each image of a spatial edit (`joyimage.spatial.checks.SpatialChecks`); None for
            other edits.
        prompt: Prompt of a spatial edit; None for other edits.
        verdicts: What was judged of each image, where candidates were asked for; the best comes first.
        candidates: All candidates (`joyimage.pipeline.candidates.Candidate`) with seed and verdict, those of `images`
            first, where candidates were asked for.
    """

    images: list[Image.Image]
    height: int | None = None
    width: int | None = None
    interrupted: bool = False
    masks: list[Image.Image] | None = None
    checks: list[SpatialChecks] | None = None
    prompt: str | None = None
    verdicts: list[Verdict] | None = None
    candidates: list[Candidate] | None = None

    def _repr_png_(self) -> bytes | None:
        """Show the first image in a notebook."""
        images = cast("object", self.images)  # arrays and tensors, which `output_type` may give, stay text
        first = cast("list[object]", images)[0] if isinstance(images, list) and images else None
        if not isinstance(first, Image.Image):
            return None
        file = io.BytesIO()
        first.save(file, "PNG")
        return file.getvalue()
