"""Between the coordinates of a picture and those of the canvas that the model sees."""

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
    """A picture, scaled and laid on a canvas: canvas = picture * scaled / original - offset, per axis.

    Attributes:
        original: Size of the picture.
        scaled: Its size after scaling.
        canvas: Size of the canvas.
        offset: What is cropped at the left and at the top; negative where that much is padded.
    """

    original: Size
    scaled: Size
    canvas: Size
    offset: tuple[int, int]

    @classmethod
    def crop(cls, original: Size, canvas: Size) -> Placement:
        """Cover the canvas and crop the middle; offsets rounded down, as the model was trained."""
        scale = max(side / own for side, own in zip(canvas, original, strict=True))
        scaled = math.ceil(original[0] * scale), math.ceil(original[1] * scale)
        offset = (scaled[0] - canvas[0]) // 2, (scaled[1] - canvas[1]) // 2
        return cls(original=original, scaled=scaled, canvas=canvas, offset=offset)

    @classmethod
    def pad(cls, original: Size, canvas: Size) -> Placement:
        """Put the whole picture on the canvas, in its middle."""
        scale = min(side / own for side, own in zip(canvas, original, strict=True))
        width, height = (
            max(1, min(side, round(own * scale))) for side, own in zip(canvas, original, strict=True)
        )
        offset = -((canvas[0] - width) // 2), -((canvas[1] - height) // 2)
        return cls(original=original, scaled=(width, height), canvas=canvas, offset=offset)

    @classmethod
    def exact(cls, original: Size, canvas: Size) -> Placement:
        """Scale both sides to the canvas, whose aspect ratio is nearly the picture's own."""
        return cls(original=original, scaled=canvas, canvas=canvas, offset=(0, 0))

    @property
    def factors(self) -> tuple[float, float]:
        """Return canvas pixels per pixel of the picture, across and down."""
        return self.scaled[0] / self.original[0], self.scaled[1] / self.original[1]

    @property
    def on_canvas(self) -> Box:
        """Return the part of the canvas that shows the picture."""
        return (
            max(0, -self.offset[0]),
            max(0, -self.offset[1]),
            min(self.canvas[0], self.scaled[0] - self.offset[0]),
            min(self.canvas[1], self.scaled[1] - self.offset[1]),
        )

    @property
    def kept(self) -> Box:
        """Return the whole pixels of the picture that the canvas shows."""
        across, down = self.factors
        left, top, right, bottom = self.on_canvas
        return (
            math.ceil(round((left + self.offset[0]) / across, 6)),
            math.ceil(round((top + self.offset[1]) / down, 6)),
            math.floor(round((right + self.offset[0]) / across, 6)),
            math.floor(round((bottom + self.offset[1]) / down, 6)),
        )

    def to_canvas(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Carry a box (left, top, right, bottom) on the picture to the canvas, fractions of pixels kept."""
        across, down = self.factors
        left, top = self.offset
        return box[0] * across - left, box[1] * down - top, box[2] * across - left, box[3] * down - top

    def to_original(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Undo `to_canvas`."""
        across, down = self.factors
        left, top = self.offset
        return (
            (box[0] + left) / across,
            (box[1] + top) / down,
            (box[2] + left) / across,
            (box[3] + top) / down,
        )

    def cuts(self, box: tuple[float, float, float, float]) -> bool:
        """Tell whether a box on the picture, rounded to the canvas's pixels, reaches over its edge."""
        left, top, right, bottom = (round(side) for side in self.to_canvas(box))
        return left < 0 or top < 0 or right > self.canvas[0] or bottom > self.canvas[1]


def exact_size(original: Size, base_size: int) -> Size:
    """Return the size (width, height) of a picture's own aspect ratio at a base's area.

    Args:
        original: Of the picture.
        base_size: Side of the square of that area.

    Returns:
        Multiples of 16; of the four around the exact size, the one whose aspect ratio is nearest.

    Raises:
        InvalidInputError: One side is more than 200 times the other; Qwen3-VL takes no such image.
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
