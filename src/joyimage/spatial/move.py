"""Move an object into a red box."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw

from joyimage.spatial.rotation import without_article

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are exclusive."""

RED = (255, 0, 0)


@dataclass(frozen=True)
class ObjectMove:
    """A move of one object to a place, with the size that it shall have there.

    Attributes:
        object: What to move; a leading article is dropped.
        box: Where it shall end, (left, top, right, bottom) in pixels of the picture.

    Raises:
        ValueError: `object` is empty or the box has no area.
    """

    object: str
    box: Box

    def __post_init__(self) -> None:
        """Refuse an empty object or box."""
        object.__setattr__(self, "object", without_article(self.object))
        _check_box(self.box)

    @property
    def prompt(self) -> str:
        """Return the trained wording."""
        return f"Move the {self.object} into the red box and finally remove the red box."


def draw_red_box(image: Image.Image, box: Box) -> Image.Image:
    """Draw the box as the model was trained to see it: pure red, unfilled, square corners.

    Args:
        image: RGB picture; it stays as it is.
        box: Outer edge of the line, (left, top, right, bottom) in pixels, right and bottom exclusive.

    Returns:
        A copy with the box, the line max(2, round(0.004 * longer side)) pixels wide.

    Raises:
        ValueError: The box has no area or reaches over the picture's edge.

    Source: measured on the published samples of SpatialEdit, arXiv 2604.04911.
    """
    _check_box(box)
    left, top, right, bottom = box
    if left < 0 or top < 0 or right > image.width or bottom > image.height:
        raise ValueError(
            f"`box` is {tuple(box)}; "
            f"expected one inside the picture of {image.width} x {image.height} pixels."
        )
    picture = image.copy()
    width = max(2, round(0.004 * max(image.size)))
    ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), outline=RED, width=width)
    return picture


def _check_box(box: Box) -> None:
    if len(box) != 4 or box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError(
            f"`box` is {tuple(box)}; expected (left, top, right, bottom) with right > left, bottom > top."
        )
