"""Turn an object to one of eight views."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class View(str, Enum):
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
        object: What to turn; a leading article is dropped.
        view: The view wanted, a `View` or one of its usual spellings.

    Raises:
        ValueError: `object` is empty or `view` is none of the eight.
    """

    object: str
    view: View | str

    def __post_init__(self) -> None:
        """Bring both fields to their canonical form.

        Raises:
            ValueError: The object has no name, or the view is unknown.
        """
        object.__setattr__(self, "object", without_article(self.object))
        try:
            object.__setattr__(self, "view", View(self.view))
        except ValueError:
            names = ", ".join(view.value for view in View)
            raise ValueError(f"`view` is {self.view!r}; expected one of {names}.") from None

    @property
    def prompt(self) -> str:
        """Return the trained wording."""
        return f"Rotate the {self.object} to show the {View(self.view).value} side view."


def without_article(name: str) -> str:
    """Drop a leading "the", "a" or "an" from the name of an object.

    Raises:
        ValueError: Nothing is left, or the name has a line break.
    """
    words = name.split(" ")
    if len(words) > 1 and words[0].lower() in {"the", "a", "an"}:
        words = words[1:]
    rest = " ".join(words).strip()
    if not rest or "\n" in rest:
        raise ValueError(f"`object` is {name!r}; expected the name of one object, such as 'blue car'.")
    return rest
