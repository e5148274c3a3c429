"""What a pipeline returns."""

from dataclasses import dataclass
from typing import Any

from diffusers.utils import BaseOutput


@dataclass
class JoyImageEditPipelineOutput(BaseOutput):
    """Pictures, and what was made to get them.

    Attributes:
        images: PIL pictures, an array `[B, H, W, 3]` or tensor `[B, 3, H, W]` in [0, 1], or latents
            `[B, C, H/8, W/8]`, as `output_type` asked.
        height: Of the pictures in pixels: the size that was chosen.
        width: Of the pictures in pixels.
        num_steps: Steps that were run.
        interrupted: Whether the loop was stopped before its last step.
    """

    images: Any
    height: int
    width: int
    num_steps: int
    interrupted: bool = False
