"""Rotate an object to one of eight views."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from joyimage.errors import InvalidInputError
from joyimage.spatial.prompts import check_style, checked_name, without_article


class View(StrEnum):
    """The eight views in the order of their headings, which are 45° apart.

    A view is a direction in the image: LEFT means that the object's front points to the left edge.

    Source: SpatialEdit, arXiv 2604.04911.
    """

    RIGHT = "right"
    FRONT_RIGHT = "front right"
    FRONT = "front"
    FRONT_LEFT = "front left"
    LEFT = "left"
    REAR_LEFT = "rear left"
    REAR = "rear"
    REAR_RIGHT = "rear right"

    @property
    def heading(self) -> int:
        """Direction of the object's front in degrees: 0 points right, 90 toward the viewer."""
        return 45 * list(View).index(self)

    @classmethod
    def _missing_(cls, value: object) -> View | None:
        """Accept other spellings: "rear-left", "REAR_LEFT", "back left"."""
        if not isinstance(value, str):
            return None
        words = value.lower().replace("-", " ").replace("_", " ").split()
        spelling = " ".join("rear" if word == "back" else word for word in words)
        return next((view for view in cls if view.value == spelling), None)


@dataclass(frozen=True)
class ObjectRotation:
    """A rotation of one object; camera and background stay as they are.

    Attributes:
        object: Name of the object to rotate, such as "car".
        view: The view to show: a `View`, or a name that `View` accepts.

    Raises:
        InvalidInputError: `object` is empty, or `view` is not one of the eight.
    """

    object: str
    view: View | str

    def __post_init__(self) -> None:
        """Store both fields in their canonical form.

        Raises:
            InvalidInputError: `object` is empty, or `view` is not one of the eight.
        """
        object.__setattr__(self, "object", checked_name(self.object))
        try:
            object.__setattr__(self, "view", View(self.view))
        except ValueError:
            names = ", ".join(view.value for view in View)
            raise InvalidInputError(f"`view` is {self.view!r}; expected one of {names}.") from None

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
        view = View(self.view)
        if style == "documented":
            return f"Rotate the {without_article(self.object)} to show the {view.value} side view."
        side = "" if view in {View.FRONT, View.REAR} else " side"
        return f"Rotate {self.object} to show the {view.value}{side} view."
