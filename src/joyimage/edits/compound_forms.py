"""The forms of values that are more than one word or number: a size, a box, a region, a list of texts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from joyimage.edits.forms import FormError, Number, Text
from joyimage.errors import InvalidInputError
from joyimage.types import ImageSize

if TYPE_CHECKING:
    from collections.abc import Sequence

_LARGEST_SIDE = 16_384


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


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
