"""Turn an object to one of eight views."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from joyimage.errors import InvalidInputError
from joyimage.spatial.prompts import check_name, check_style, without_article


class View(StrEnum):
    """The eight views, in the order of their heading: 45° times the place in this list.

    They are directions in the picture: LEFT means that the object's front points to the left edge.

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
        """Return the direction of the object's front in degrees, 0 to the right, 90 to the viewer."""
        return 45 * list(View).index(self)

    @classmethod
    def _missing_(cls, value: object) -> View | None:
        """Understand "rear-left", "REAR_LEFT" and "back left"."""
        if not isinstance(value, str):
            return None
        words = value.lower().replace("-", " ").replace("_", " ").split()
        spelling = " ".join("rear" if word == "back" else word for word in words)
        return next((view for view in cls if view.value == spelling), None)


@dataclass(frozen=True)
class ObjectRotation:
    """A turn of one object; camera and background stay.

    Attributes:
        object: What to turn.
        view: The view wanted, a `View` or one of its usual spellings.

    Raises:
        InvalidInputError: `object` is empty or `view` is none of the eight.
    """

    object: str
    view: View | str

    def __post_init__(self) -> None:
        """Bring both fields to their canonical form.

        Raises:
            InvalidInputError: The object has no name, or the view is unknown.
        """
        object.__setattr__(self, "object", check_name(self.object))
        try:
            object.__setattr__(self, "view", View(self.view))
        except ValueError:
            names = ", ".join(view.value for view in View)
            raise InvalidInputError(f"`view` is {self.view!r}; expected one of {names}.") from None

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
        view = View(self.view)
        if style == "documented":
            return f"Rotate the {without_article(self.object)} to show the {view.value} side view."
        side = "" if view in {View.FRONT, View.REAR} else " side"
        return f"Rotate {self.object} to show the {view.value}{side} view."
