"""Move an object into a red box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from joyimage.errors import InvalidInputError
from joyimage.spatial.prompts import check_name, check_style, without_article

if TYPE_CHECKING:
    from joyimage.spatial.box import Box

RED = (255, 0, 0)


@dataclass(frozen=True)
class ObjectMove:
    """A move of one object to a place, with the size that it shall have there.

    Attributes:
        object: What to move.
        box: Where it shall end, (left, top, right, bottom) in pixels; None where only the prompt is known.

    Raises:
        InvalidInputError: `object` is empty or the box has no area.
    """

    object: str
    box: Box | None

    def __post_init__(self) -> None:
        """Refuse an empty object or box.

        Raises:
            InvalidInputError: One of them is.
        """
        object.__setattr__(self, "object", check_name(self.object))
        if self.box is not None:
            object.__setattr__(self, "box", tuple(self.box))
            _check_box(self.box)

    @property
    def prompt(self) -> str:
        """Return the documented wording; a leading article of the object is dropped."""
        return self.prompt_in("documented")

    def prompt_in(self, style: str) -> str:
        """Return the wording of a style.

        Args:
            style: "documented", or "benchmark" as in the benchmark's files, the article as given.

        Returns:
            The prompt.

        Raises:
            InvalidInputError: There is no such style.
        """
        check_style(style)
        what = f"the {without_article(self.object)}" if style == "documented" else self.object
        return f"Move {what} into the red box and finally remove the red box."


def line_width(size: tuple[int, int]) -> int:
    """Return the width in pixels of the box's line in a picture of a size.

    Source: measured on the published samples of SpatialEdit, arXiv 2604.04911.
    """
    return max(2, round(0.004 * max(size)))


def draw_red_box(image: Image.Image, box: Box) -> Image.Image:
    """Draw the box as the model was trained to see it: pure red, unfilled, square corners.

    Args:
        image: RGB picture; it stays as it is.
        box: Outer edge of the line, (left, top, right, bottom) in pixels, right and bottom exclusive.

    Returns:
        A copy with the box.

    Raises:
        InvalidInputError: The box has no area or reaches over the picture's edge.
    """
    _check_box(box)
    left, top, right, bottom = box
    if left < 0 or top < 0 or right > image.width or bottom > image.height:
        raise InvalidInputError(
            f"`box` is {tuple(box)}; "
            f"expected one inside the picture of {image.width} x {image.height} pixels."
        )
    picture = image.copy()
    ImageDraw.Draw(picture).rectangle(
        (left, top, right - 1, bottom - 1), outline=RED, width=line_width(image.size)
    )
    return picture


def _check_box(box: Box) -> None:
    if len(box) != 4 or box[2] <= box[0] or box[3] <= box[1]:
        raise InvalidInputError(
            f"`box` is {tuple(box)}; expected (left, top, right, bottom) with right > left, bottom > top."
        )
