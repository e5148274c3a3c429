"""Rows of a batch in JSON: one object per line, or an array of objects, whatever the file is called."""

from __future__ import annotations

import json as json_format
import math
from typing import TYPE_CHECKING, Any

from joyimage.cli.entries import Entry
from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path


def read_json(text: str, source: Path) -> list[Entry]:
    """Read a JSON array of objects, or JSON Lines.

    Args:
        text: The content.
        source: What messages call it.

    Raises:
        InvalidInputError: The file holds something else.
    """
    start = text.lstrip()[:1]
    try:
        rows = json_format.loads(text, object_pairs_hook=_to_fields)
    except (ValueError, RecursionError) as error:
        if start != "[":
            return _read_lines(text)
        raise InvalidInputError(f"`SOURCE` is {source}; it is not JSON: {_explain(error)}.") from None
    if isinstance(rows, dict):  # the only row, maybe on several lines
        return [_checked(1 + text[: text.index("{")].count("\n"), rows)]
    is_array = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
    if source.suffix.lower() != ".json" and not is_array:
        return _read_lines(text)
    if not isinstance(rows, list):
        raise InvalidInputError(f"`SOURCE` is {source}; expected a JSON array with one object per row.")
    return [_checked(number, row) for number, row in enumerate(rows, start=1)]


def _read_lines(text: str) -> list[Entry]:
    # Not `splitlines`: U+2028 and its like may stand inside of a JSON string.
    lines = enumerate((line.strip() for line in text.split("\n")), start=1)
    return [_from_json(number, line) for number, line in lines if line]


def _from_json(number: int, line: str) -> Entry:
    try:
        # As copied out of an array, with the comma behind it.
        fields = json_format.loads(line.removesuffix(","), object_pairs_hook=_to_fields)
    except _RepeatedFieldError as error:
        return Entry(number=number, problem=str(error))
    except (ValueError, RecursionError) as error:
        return Entry(number=number, problem=f"it is not JSON: {_explain(error)}.")
    return _checked(number, fields)


class _RepeatedFieldError(ValueError):
    """A row has a field twice."""


def _to_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of a row, whose names may be in any case.

    Raises:
        _RepeatedFieldError: A field is there twice; which one is meant is not known.
    """
    fields: dict[str, Any] = {}
    for name, value in pairs:
        key = name.strip().lower()
        if key in fields:
            raise _RepeatedFieldError(f"it has the field `{key}` twice; give it once.")
        fields[key] = value
    return fields


def _checked(number: int, fields: Any) -> Entry:
    if not isinstance(fields, dict):
        return Entry(number=number, problem=f"it is {fields!r}; expected an object such as {{'image': ...}}.")
    given = {
        name: value
        for name, value in fields.items()
        if value is not None and value != "" and not (isinstance(value, float) and math.isnan(value))
    }
    return Entry(number=number, fields=given)


def _explain(error: Exception) -> str:
    """Return why a text is not JSON, without the terms of Python's reader."""
    if isinstance(error, json_format.JSONDecodeError):
        where = f"line {error.lineno}, " if error.lineno > 1 else ""
        return f"{error.msg[:1].lower()}{error.msg[1:]}, {where}character {error.colno}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error) if isinstance(error, _RepeatedFieldError) else "it holds a number with too many digits"
