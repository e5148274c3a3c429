"""Names of objects in prompts, and the two styles of each prompt template."""

from __future__ import annotations

from joyimage.errors import InvalidInputError, InvalidTypeError

STYLES = ("documented", "benchmark")


def checked_name(name: object) -> str:
    """Return the name of an object without surrounding whitespace.

    Raises:
        InvalidTypeError: The name is not text.
        InvalidInputError: The name is empty, consists of an article only, or contains a line break.
    """
    if not isinstance(name, str):
        raise InvalidTypeError(
            f"`object` is {name!r}; expected the name of an object, for example 'blue car'."
        )
    stripped = name.strip()
    if not without_article(stripped) or "\n" in stripped:
        raise InvalidInputError(
            f"`object` is {name!r}; expected the name of an object, for example 'blue car'."
        )
    return stripped


def without_article(name: str) -> str:
    """Return a name without a leading "the", "a" or "an"."""
    first, _, rest = name.partition(" ")
    if first.lower() in {"the", "a", "an"}:
        return rest.strip()
    return name


def check_style(style: str) -> None:
    """Reject an unknown prompt style.

    Raises:
        InvalidInputError: `style` is not in `STYLES`.
    """
    if style not in STYLES:
        raise InvalidInputError(f"`style` is {style!r}; expected {' or '.join(STYLES)}.")
