"""What a job does: an edit with everything decided, and what only the server needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from joyimage.edits import AnyEdit, Describe, from_dict
from joyimage.errors import JoyImageError
from joyimage.types import ImageSize

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 2
"""Version of the dict that a job's row holds; a migration rewrites rows of older versions."""


class UnreadableJobError(JoyImageError, ValueError):
    """A job's row cannot be read: it was damaged, or written by another version."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One job, everything decided: what is stored, and what a worker is given.

    Attributes:
        edit: The edit, resolved.
        given: `to_dict` of the edit as the client gave it, for opening it again.
        output_format: "png", "jpeg" or "webp".
        output_compression: Quality of JPEG and WebP, 0 to 100.
        num_inputs: Number of input images.
        has_mask: Whether a mask file came with the request.
        has_previews: Whether previews of steps are made.
        target_size: Size of an output before it is mapped back; None where the model decides.
        warnings: What the client should know: values without effect or hardly trained, images read in part.
    """

    edit: AnyEdit
    given: dict[str, Any] = field(default_factory=dict)
    output_format: str = "png"
    output_compression: int = 100
    num_inputs: int = 0
    has_mask: bool = False
    has_previews: bool = True
    target_size: ImageSize | None = None
    warnings: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Kind of the edit, such as "move"."""
        return self.edit.kind

    @property
    def num_images(self) -> int:
        """Number of images that the job makes."""
        return 0 if isinstance(self.edit, Describe) else self.edit.sampling.num_images or 1

    @property
    def cost(self) -> int:
        """Share of the device that the job takes, beside other jobs: forwards times pixels, in thousands."""
        if isinstance(self.edit, Describe):
            return self.edit.max_new_tokens or 1
        sampling = self.edit.sampling
        forwards = (sampling.num_inference_steps or 1) * (2 if (sampling.guidance_scale or 1) > 1 else 1)
        pixels = 2**20 if self.target_size is None else self.target_size.num_pixels
        number = max(self.num_images, sampling.most_candidates)
        return max(1, forwards * number * pixels // 1000)

    def to_dict(self) -> dict[str, Any]:
        """Return the task as JSON values."""
        return {
            "version": VERSION,
            "edit": self.edit.to_dict(),
            "given": self.given,
            "output_format": self.output_format,
            "output_compression": self.output_compression,
            "num_inputs": self.num_inputs,
            "has_mask": self.has_mask,
            "has_previews": self.has_previews,
            "target_size": None if self.target_size is None else str(self.target_size),
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Task:
        """Read a task from its dict.

        Raises:
            UnreadableJobError: The dict is damaged or of another version.
        """
        try:
            size = {VERSION: data["target_size"]}[data["version"]]
            return cls(
                edit=from_dict(data["edit"]),
                given=dict(data["given"]),
                output_format=str(data["output_format"]),
                output_compression=int(data["output_compression"]),
                num_inputs=int(data["num_inputs"]),
                has_mask=bool(data["has_mask"]),
                has_previews=bool(data["has_previews"]),
                target_size=None if size is None else ImageSize.parse(size),
                warnings=tuple(map(str, data.get("warnings", ()))),  # rows of older servers have none
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UnreadableJobError(
                f"The job's record cannot be read ({type(error).__name__}); submit the job again."
            ) from error
