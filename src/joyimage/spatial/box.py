"""Boxes in an image: in pixels or fractions, as two corners or as a corner and a size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from joyimage.advice import advise
from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are exclusive."""

FORMS = ("xyxy", "xywh")
_CORNERS = {"xyxy": "left, top, right, bottom", "xywh": "left, top, width, height"}
# Training had hardly any boxes with a side below this share of the image.
SMALLEST_SHARE = 0.02


def resolve_box(box: Sequence[float], size: tuple[int, int], form: str = "xyxy") -> Box:
    """Convert a box to whole pixels of an image.

    Args:
        box: Four numbers: pixels, or, if none exceeds 1, fractions of the image's sides.
        size: Width and height of the image in pixels.
        form: "xyxy" (left, top, right, bottom) or "xywh" (left, top, width, height).

    Returns:
        The box, rounded to whole pixels.

    Raises:
        InvalidInputError: The box is not four finite numbers, has no area, or extends beyond the image.
    """
    if form not in FORMS:
        raise InvalidInputError(f"`form` is {form!r}; expected {' or '.join(FORMS)}.")
    try:
        values = [] if isinstance(box, str) else [float(value) for value in box]
    except (TypeError, ValueError):
        values = []
    if not values:
        raise InvalidInputError(f"`box` is {box!r}; expected four numbers, for example (120, 80, 360, 300).")
    if len(values) != 4 or not all(math.isfinite(value) for value in values):
        raise InvalidInputError(f"`box` is {tuple(box)}; expected four finite numbers.")
    if form == "xywh":
        values[2:] = values[0] + values[2], values[1] + values[3]
    given = f"{', '.join(f'{value:g}' for value in box)} ({_CORNERS[form]})"
    width, height = size
    if max(values) <= 1:
        values = [value * side for value, side in zip(values, (width, height, width, height), strict=True)]
    left, top, right, bottom = (round(value) for value in values)
    if right <= left or bottom <= top:
        raise InvalidInputError(
            f"`box` is {given}; expected a box with an area: right > left and bottom > top."
        )
    if left < 0 or top < 0 or right > width or bottom > height:
        raise InvalidInputError(
            f"`box` is {given}; expected one inside the image of {width}x{height} pixels."
        )
    if min((right - left) / width, (bottom - top) / height) < SMALLEST_SHARE:
        advise(
            f"`box` is {right - left}x{bottom - top} pixels in an image of {width}x{height}: training had hardly any "
            "boxes with a side under 2% of the image, and the move may fail.",
        )
    return left, top, right, bottom


def intersection_over_union(first: Box, second: Box) -> float:
    """Return the area that two boxes share, divided by the area of their union: 0 to 1."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(0, width) * max(0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return shared / (areas - shared)
