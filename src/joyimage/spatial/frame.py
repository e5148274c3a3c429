"""Convert coordinates between an image and the target size at which the model sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from joyimage.spatial.box import Box

Size = tuple[int, int]
"""Width and height in pixels."""

FITS = ("crop", "pad", "exact")
STEP = 16
_LARGEST_RATIO = 200


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How an image is scaled, then cropped or padded: target = original * scaled / original size - offset, per axis.

    Attributes:
        original: Size of the image.
        scaled: Size of the image after scaling.
        target: Size at which the model sees it.
        offset: Pixels cropped at the left and at the top after scaling; negative if that much is padded.
    """

    original: Size
    scaled: Size
    target: Size
    offset: tuple[int, int]

    @classmethod
    def crop(cls, original: Size, target: Size) -> Placement:
        """Scale to cover the target and crop the center; offsets are rounded down, as in training."""
        scale = max(side / own for side, own in zip(target, original, strict=True))
        scaled = math.ceil(original[0] * scale), math.ceil(original[1] * scale)
        offset = (scaled[0] - target[0]) // 2, (scaled[1] - target[1]) // 2
        return cls(original=original, scaled=scaled, target=target, offset=offset)

    @classmethod
    def pad(cls, original: Size, target: Size) -> Placement:
        """Scale to fit inside the target and pad equally on both sides."""
        scale = min(side / own for side, own in zip(target, original, strict=True))
        width, height = (
            max(1, min(side, round(own * scale))) for side, own in zip(target, original, strict=True)
        )
        offset = -((target[0] - width) // 2), -((target[1] - height) // 2)
        return cls(original=original, scaled=(width, height), target=target, offset=offset)

    @classmethod
    def exact(cls, original: Size, target: Size) -> Placement:
        """Scale both sides to the target, whose aspect ratio is nearly that of the image."""
        return cls(original=original, scaled=target, target=target, offset=(0, 0))

    @property
    def factors(self) -> tuple[float, float]:
        """Target pixels per pixel of the image, horizontally and vertically."""
        return self.scaled[0] / self.original[0], self.scaled[1] / self.original[1]

    @property
    def in_target(self) -> Box:
        """The part of the target that shows the image, without padding."""
        return (
            max(0, -self.offset[0]),
            max(0, -self.offset[1]),
            min(self.target[0], self.scaled[0] - self.offset[0]),
            min(self.target[1], self.scaled[1] - self.offset[1]),
        )

    @property
    def visible(self) -> Box:
        """The part of the image that the target shows, in whole pixels."""
        across, down = self.factors
        left, top, right, bottom = self.in_target
        return (
            math.ceil(round((left + self.offset[0]) / across, 6)),
            math.ceil(round((top + self.offset[1]) / down, 6)),
            math.floor(round((right + self.offset[0]) / across, 6)),
            math.floor(round((bottom + self.offset[1]) / down, 6)),
        )

    def to_target(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Convert a box (left, top, right, bottom) from the image to the target, without rounding."""
        across, down = self.factors
        left, top = self.offset
        return box[0] * across - left, box[1] * down - top, box[2] * across - left, box[3] * down - top

    def to_original(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Convert a box from the target to the image: the inverse of `to_target`."""
        across, down = self.factors
        left, top = self.offset
        return (
            (box[0] + left) / across,
            (box[1] + top) / down,
            (box[2] + left) / across,
            (box[3] + top) / down,
        )

    def cuts(self, box: tuple[float, float, float, float]) -> bool:
        """Tell whether a box of the image, rounded to pixels of the target, extends beyond the target."""
        left, top, right, bottom = (round(side) for side in self.to_target(box))
        return left < 0 or top < 0 or right > self.target[0] or bottom > self.target[1]


def exact_size(original: Size, base_size: int) -> Size:
    """Return the size (width, height) that keeps an image's aspect ratio and has about the area of a base size.

    Args:
        original: Size of the image (width, height).
        base_size: Side of a square with the wanted area.

    Returns:
        Multiples of 16: of the four sizes around the exact one, that with the nearest aspect ratio.

    Raises:
        InvalidInputError: One side is more than 200 times the other, which Qwen3-VL does not accept.
    """
    if max(original) > _LARGEST_RATIO * min(original):
        raise InvalidInputError(
            f"`fit` is 'exact' for an image of {original[0]}x{original[1]} pixels, whose sides are more than "
            f"{_LARGEST_RATIO} to 1; use 'crop' or 'pad'."
        )
    ratio = original[0] / original[1]
    ideal = base_size * math.sqrt(ratio), base_size / math.sqrt(ratio)
    widths, heights = (
        {max(STEP, math.floor(side / STEP) * STEP), max(STEP, math.ceil(side / STEP) * STEP)}
        for side in ideal
    )
    return min(
        ((width, height) for width in sorted(widths) for height in sorted(heights)),
        key=lambda size: abs(math.log(size[0] / size[1] / ratio)),
    )
