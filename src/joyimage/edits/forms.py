"""The forms that a field of an edit can have: how its value is parsed, checked, written and described.

A form does not depend on where a value comes from. Text (command line, CSV, HTML form) goes through `parse`,
values from JSON and from Python through `check`; both return the one canonical value or raise `FormError`.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any, Protocol, cast


class FormError(ValueError):
    """A value does not have the form that its field needs.

    Args:
        expected: What is accepted, as the end of the sentence "expected ...".
    """

    def __init__(self, expected: str) -> None:
        super().__init__(expected)
        self.expected = expected


class Form(Protocol):
    """What all forms have in common."""

    @property
    def expected(self) -> str:
        """What is accepted, as the end of the sentence "expected ..."."""
        ...

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of the value in `to_json` form."""
        ...

    def parse(self, text: str) -> Any:
        """Read a value from text; raises `FormError`."""
        ...

    def check(self, value: Any) -> Any:
        """Return the canonical value of a Python or JSON value; raises `FormError`."""
        ...

    def to_json(self, value: Any) -> Any:
        """Return a canonical value as a JSON value."""
        ...

    def to_text(self, value: Any) -> str:
        """Return the text that `parse` reads as this canonical value."""
        ...


class _PlainForm:
    """A form whose canonical values are JSON values."""

    def to_json(self, value: Any) -> Any:
        """Return the value itself."""
        return value

    def to_text(self, value: Any) -> str:
        """Return the value as text."""
        return str(value)


@dataclass(frozen=True)
class Integer(_PlainForm):
    """A whole number.

    Attributes:
        minimum: Smallest accepted value.
        maximum: Largest accepted value.
    """

    minimum: int
    maximum: int

    @property
    def expected(self) -> str:
        """What is accepted."""
        return f"a whole number from {self.minimum} to {self.maximum}"

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema."""
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}

    def parse(self, text: str) -> int:
        """Read a whole number, or one such as "4.0", which pandas writes for columns with empty cells.

        Raises:
            FormError: The text is not a whole number in the range.
        """
        text = text.strip()
        try:
            # Not through a float, which would round a seed of 16 digits.
            return self.check(int(text) if text.lstrip("+-").isdecimal() else float(text))
        except ValueError:
            raise FormError(self.expected) from None

    def check(self, value: Any) -> int:
        """Return a Python int.

        Raises:
            FormError: The value is not a whole number in the range.
        """
        number = _to_float(value)
        if math.isfinite(number) and number.is_integer() and self.minimum <= value <= self.maximum:
            return int(value)
        raise FormError(self.expected)


@dataclass(frozen=True)
class Number(_PlainForm):
    """A finite number.

    Attributes:
        minimum: Smallest accepted value.
        maximum: Largest accepted value.
        unit: Unit for messages, such as "degrees"; empty if the number has none.
    """

    minimum: float
    maximum: float
    unit: str = ""

    @property
    def expected(self) -> str:
        """What is accepted."""
        unit = f" {self.unit}" if self.unit else ""
        return f"a number from {self.minimum:g} to {self.maximum:g}{unit}"

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema."""
        return {"type": "number", "minimum": self.minimum, "maximum": self.maximum}

    def parse(self, text: str) -> float:
        """Read a number.

        Raises:
            FormError: The text is not a finite number in the range.
        """
        try:
            return self.check(float(text))
        except ValueError:
            raise FormError(self.expected) from None

    def check(self, value: Any) -> float:
        """Return a Python float, or an int where one was given.

        Raises:
            FormError: The value is not a finite number in the range.
        """
        number = _to_float(value)
        if math.isfinite(number) and self.minimum <= number <= self.maximum:
            return value if type(value) is int else number
        raise FormError(self.expected)

    def to_text(self, value: Any) -> str:
        """Return the shortest text that reads as the same number."""
        return repr(value)


@dataclass(frozen=True)
class Text(_PlainForm):
    """Text.

    Attributes:
        may_be_blank: Whether empty text, or text of invisible characters only, is accepted.
    """

    may_be_blank: bool = False

    @property
    def expected(self) -> str:
        """What is accepted."""
        return "text" if self.may_be_blank else "text that is not empty"

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema."""
        return {"type": "string"} if self.may_be_blank else {"type": "string", "minLength": 1}

    def parse(self, text: str) -> str:
        """Return the text; raises `FormError` if it is blank or not valid Unicode."""
        return self.check(text)

    def check(self, value: Any) -> str:
        """Return the text.

        Raises:
            FormError: The value is not text, is blank, or contains half of a surrogate pair.
        """
        if not isinstance(value, str) or not (self.may_be_blank or _is_visible(value)):
            raise FormError(self.expected)
        try:
            value.encode()
        except UnicodeEncodeError:
            raise FormError("text in valid Unicode, without single surrogates") from None
        return value


@dataclass(frozen=True)
class Flag(_PlainForm):
    """Yes or no."""

    @property
    def expected(self) -> str:
        """What is accepted."""
        return "true or false"

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema."""
        return {"type": "boolean"}

    def parse(self, text: str) -> bool:
        """Read true/false, yes/no, on/off or 1/0, in upper or lower case; pandas writes 1.0 next to empty cells.

        Raises:
            FormError: The text is something else.
        """
        word = text.strip().lower()
        if word in {"true", "yes", "on", "1", "1.0"}:
            return True
        if word in {"false", "no", "off", "0", "0.0"}:
            return False
        raise FormError(self.expected)

    def check(self, value: Any) -> bool:
        """Return a bool.

        Raises:
            FormError: The value is not a bool.
        """
        if not isinstance(value, bool):
            raise FormError(self.expected)
        return value

    def to_text(self, value: Any) -> str:
        """Return "true" or "false"."""
        return "true" if value else "false"


@dataclass(frozen=True)
class Choice(_PlainForm):
    """One of a fixed set of words.

    Attributes:
        values: The words, as they are stored.
        synonyms: Other accepted words, each with the word that is stored. Case, hyphens and underscores are ignored.
    """

    values: tuple[str, ...]
    synonyms: tuple[tuple[str, str], ...] = ()

    @property
    def expected(self) -> str:
        """What is accepted."""
        return "one of " + ", ".join(self.values)

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema."""
        return {"type": "string", "enum": list(self.values)}

    def parse(self, text: str) -> str:
        """Return the word as it is stored; raises `FormError` for an unknown word."""
        return self.check(text)

    def check(self, value: Any) -> str:
        """Return the word as it is stored.

        Raises:
            FormError: The value is not one of `values` or `synonyms`.
        """
        if isinstance(value, str):  # also members of string enumerations
            word = " ".join(
                str(getattr(value, "value", value)).lower().replace("-", " ").replace("_", " ").split()
            )
            for spelling, stored in (*((one, one) for one in self.values), *self.synonyms):
                if word == spelling.replace("-", " ").replace("_", " "):
                    return stored
        raise FormError(self.expected)


def _is_visible(text: str) -> bool:
    """Tell whether a text has a character that is seen; spaces of no width and control characters are not."""
    return (
        any(one.isprintable() and not one.isspace() for one in text)
        or "\ud800" <= max(text, default="") <= "\udfff"
    )


def _to_float(value: Any) -> float:
    """Return a real number of any type, numpy's included, as a float; NaN for anything else, bools too."""
    if not isinstance(value, numbers.Real) or isinstance(cast("object", value), bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf
