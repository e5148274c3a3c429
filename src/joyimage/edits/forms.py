"""The forms that a field of an edit can have: how its value is parsed, checked, written and described.

A form does not depend on where a value comes from. Text (command line, CSV, HTML form) goes through `parse`,
values from JSON and from Python through `check`; both return the one canonical value or raise `FormError`.
"""

from __future__ import annotations

import json
import math
import numbers
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from joyimage.errors import InvalidInputError
from joyimage.types import ImageSize

if TYPE_CHECKING:
    from collections.abc import Sequence

_LARGEST_SIDE = 16_384


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
        if _is_real(value):
            number = float(value)
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
        if _is_real(value):
            number = float(value)
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
        may_be_blank: Whether text that is empty or only whitespace is accepted.
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
        if not isinstance(value, str) or not (self.may_be_blank or value.strip()):
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
        """Read true/false, yes/no, on/off or 1/0, in upper or lower case.

        Raises:
            FormError: The text is something else.
        """
        word = text.strip().lower()
        if word in {"true", "yes", "on", "1"}:
            return True
        if word in {"false", "no", "off", "0"}:
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


@dataclass(frozen=True)
class Size:
    """A size in pixels, `ImageSize` in Python and "WIDTHxHEIGHT" in JSON and text."""

    @property
    def expected(self) -> str:
        """What is accepted."""
        return f"WIDTHxHEIGHT with sides from 1 to {_LARGEST_SIDE}, for example 1024x768"

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema."""
        return {"type": "string", "pattern": "^[1-9][0-9]{0,4}[xX][1-9][0-9]{0,4}$"}

    def parse(self, text: str) -> ImageSize:
        """Read "WIDTHxHEIGHT"; raises `FormError`."""
        return self.check(text)

    def check(self, value: Any) -> ImageSize:
        """Return an `ImageSize`.

        Raises:
            FormError: The value is neither an `ImageSize` nor its text, or a side is out of range.
        """
        try:
            size = ImageSize.parse(value) if isinstance(value, str) else value
        except InvalidInputError:
            raise FormError(self.expected) from None
        if not isinstance(size, ImageSize) or max(size.width, size.height) > _LARGEST_SIDE:
            raise FormError(self.expected)
        return size

    def to_json(self, value: ImageSize) -> str:
        """Return "WIDTHxHEIGHT"."""
        return str(value)

    def to_text(self, value: ImageSize) -> str:
        """Return "WIDTHxHEIGHT"."""
        return str(value)


@dataclass(frozen=True)
class Box:
    """Four finite numbers: pixels, or fractions of the sides if none exceeds 1."""

    @property
    def expected(self) -> str:
        """What is accepted."""
        return "four numbers, for example 120,80,360,300 or 0.1,0.2,0.5,0.6"

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema."""
        return {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}

    def parse(self, text: str) -> tuple[float, ...]:
        """Read four numbers separated by commas, with or without brackets.

        Raises:
            FormError: The text is something else.
        """
        stripped = text.strip()
        if stripped[:1] in {"[", "("} and stripped[-1:] in {"]", ")"}:
            stripped = stripped[1:-1]
        try:
            return self.check([float(number) for number in stripped.split(",")])
        except ValueError:
            raise FormError(self.expected) from None

    def check(self, value: Any) -> tuple[float, ...]:
        """Return four numbers.

        Raises:
            FormError: The value is not a sequence of four finite numbers.
        """
        number = Number(-1e6, 1e6)
        if isinstance(value, (str, bytes, dict)) or not hasattr(value, "__iter__"):
            raise FormError(self.expected)
        try:
            numbers_ = tuple(number.check(one) for one in value)
        except FormError:
            raise FormError(self.expected) from None
        if len(numbers_) != 4:
            raise FormError(self.expected)
        return numbers_

    def to_json(self, value: Sequence[float]) -> list[float]:
        """Return a list of four numbers."""
        return list(value)

    def to_text(self, value: Sequence[float]) -> str:
        """Return "LEFT,TOP,RIGHT,BOTTOM"."""
        return ",".join(repr(number) for number in value)


@dataclass(frozen=True)
class Region:
    """A box, or the path of a mask file; only its white area may change."""

    box: Box = Box()

    @property
    def expected(self) -> str:
        """What is accepted."""
        return "four numbers, for example 120,80,360,300, or the path of a mask file"

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema."""
        return {"anyOf": [self.box.schema, {"type": "string", "minLength": 1}]}

    def parse(self, text: str) -> tuple[float, ...] | str:
        """Read a box; any other text is taken as the path of a file.

        Raises:
            FormError: The text is empty, or consists of numbers that are not a box.
        """
        try:
            return self.box.parse(text)
        except FormError:
            if not text.strip() or all(_is_number(part) for part in text.split(",")):
                raise FormError(self.expected) from None
            return text

    def check(self, value: Any) -> tuple[float, ...] | str:
        """Return four numbers or a path.

        Raises:
            FormError: The value is neither a box nor a path.
        """
        if isinstance(value, str):
            return self.parse(value)
        try:
            return self.box.check(value)
        except FormError:
            raise FormError(self.expected) from None

    def to_json(self, value: Sequence[float] | str) -> list[float] | str:
        """Return a list of four numbers, or the path."""
        return value if isinstance(value, str) else list(value)

    def to_text(self, value: Sequence[float] | str) -> str:
        """Return the box or the path as text."""
        return value if isinstance(value, str) else self.box.to_text(value)


@dataclass(frozen=True)
class Texts:
    """A list of texts; a single text is taken as a list of one."""

    @property
    def expected(self) -> str:
        """What is accepted."""
        return "text, or a list of texts"

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema."""
        return {"type": "array", "items": {"type": "string", "minLength": 1}}

    def parse(self, text: str) -> tuple[str, ...]:
        """Read one text, or a JSON list of texts.

        Raises:
            FormError: The text is blank, or a list of something other than text.
        """
        if not text.strip().startswith("["):
            return self.check(text)
        try:
            return self.check(json.loads(text))
        except ValueError:
            raise FormError(self.expected) from None

    def check(self, value: Any) -> tuple[str, ...]:
        """Return a tuple of texts.

        Raises:
            FormError: An entry is not text, or is blank.
        """
        entries: Any = (value,) if isinstance(value, str) else value
        if not isinstance(entries, (list, tuple)) or not entries:
            raise FormError(self.expected)
        try:
            return tuple(Text().check(entry) for entry in cast("Sequence[Any]", entries))
        except FormError:
            raise FormError(self.expected) from None

    def to_json(self, value: Sequence[str]) -> list[str]:
        """Return a list."""
        return list(value)

    def to_text(self, value: Sequence[str]) -> str:
        """Return a single text as it is, and several as a JSON list."""
        return value[0] if len(value) == 1 else json.dumps(list(value), ensure_ascii=False)


def _is_real(value: Any) -> bool:
    """Tell whether a value is a real number of any type, numpy's included, other than a bool."""
    return isinstance(value, numbers.Real) and not isinstance(cast("object", value), bool)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
