"""Names of objects, and the two wordings that a template has."""

from __future__ import annotations

from joyimage.errors import InvalidInputError

STYLES = ("documented", "benchmark")


def check_name(name: str) -> str:
    """Return the name of an object without blanks around it.

    Raises:
        InvalidInputError: It is empty, only an article, or has a line break.
    """
    stripped = name.strip()
    if not without_article(stripped) or "\n" in stripped:
        raise InvalidInputError(f"`object` is {name!r}; expected the name of one object, such as 'blue car'.")
    return stripped


def without_article(name: str) -> str:
    """Drop a leading "the", "a" or "an"."""
    first, _, rest = name.partition(" ")
    if first.lower() in {"the", "a", "an"}:
        return rest.strip()
    return name


def check_style(style: str) -> None:
    """Refuse a wording that doesn't exist.

    Raises:
        InvalidInputError: `style` is none of `STYLES`.
    """
    if style not in STYLES:
        raise InvalidInputError(f"`style` is {style!r}; expected {' or '.join(STYLES)}.")
