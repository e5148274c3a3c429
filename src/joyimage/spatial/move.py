"""Move an object into a red box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from joyimage.errors import InvalidInputError
from joyimage.spatial.prompts import check_style, checked_name, without_article

if TYPE_CHECKING:
    from joyimage.spatial.box import Box

RED = (255, 0, 0)


@dataclass(frozen=True)
class ObjectMove:
    """A move of one object into a box, which also sets the object's new size.

    Attributes:
        object: Name of the object to move, such as "green heart".
        box: Where the object should end up, (left, top, right, bottom) in pixels; None if only the prompt is known.

    Raises:
        InvalidInputError: `object` is empty, or `box` has no area.
    """

    object: str
    box: Box | None

    def __post_init__(self) -> None:
        """Reject an empty name and a box without area.

        Raises:
            InvalidInputError: `object` is empty, or `box` has no area.
        """
        object.__setattr__(self, "object", checked_name(self.object))
        if self.box is not None:
            object.__setattr__(self, "box", tuple(self.box))
            _check_box(self.box)

    @property
    def prompt(self) -> str:
        """The prompt in the "documented" style, which drops the article of the object's name."""
        return self.prompt_in("documented")

    def prompt_in(self, style: str) -> str:
        """Return the prompt in a given style.

        Args:
            style: "documented", or "benchmark", which keeps the article as SpatialEdit-Bench does.

        Returns:
            The prompt.

        Raises:
            InvalidInputError: `style` is unknown.
        """
        check_style(style)
        what = f"the {without_article(self.object)}" if style == "documented" else self.object
        return f"Move {what} into the red box and finally remove the red box."


def line_width(size: tuple[int, int]) -> int:
    """Return the line width of the red box, in pixels, for an image size (width, height).

    Source: measured on the published samples of SpatialEdit, arXiv 2604.04911.
    """
    return max(2, round(0.004 * max(size)))


def draw_red_box(image: Image.Image, box: Box) -> Image.Image:
    """Draw the box as the model was trained to see it: pure red, unfilled, square corners.

    Args:
        image: RGB image; it is not changed.
        box: Outer edge of the line, (left, top, right, bottom) in pixels, right and bottom exclusive.

    Returns:
        A copy of the image with the box drawn on it.

    Raises:
        InvalidInputError: The box has no area or extends beyond the image.
    """
    _check_box(box)
    left, top, right, bottom = box
    if left < 0 or top < 0 or right > image.width or bottom > image.height:
        raise InvalidInputError(
            f"`box` is {tuple(box)}; "
            f"expected a box inside the image of {image.width} x {image.height} pixels."
        )
    drawn = image.copy()
    ImageDraw.Draw(drawn).rectangle(
        (left, top, right - 1, bottom - 1), outline=RED, width=line_width(image.size)
    )
    return drawn


def _check_box(box: Box) -> None:
    if len(box) != 4 or box[2] <= box[0] or box[3] <= box[1]:
        raise InvalidInputError(
            f"`box` is {tuple(box)}; expected (left, top, right, bottom) with right > left, bottom > top."
        )
