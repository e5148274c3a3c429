"""Read what a batch is given: a folder of images, or a table as people's programs write it.

Tables come from text editors, pandas, Excel and Windows: with a byte-order mark, in UTF-16 or Windows-1252, with
semicolons or tabs, with upper-case suffixes and headers, with "1.0" for 1 and nothing for "not given".
"""

from __future__ import annotations

import csv
import io
import json as json_format
import math
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from joyimage.errors import InvalidInputError
from joyimage.imaging import RECORD_KEY

JSON_LINES = (".jsonl", ".ndjson")
STANDARD_INPUT = Path("-")
_LONGEST_SHOWN = 300
TABLES = (*JSON_LINES, ".json", ".csv", ".tsv")
IMAGE_SUFFIXES = frozenset(
    (
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".webp",
        ".bmp",
        ".tif",
        ".tiff",
        ".gif",
        ".avif",
        ".heic",
        ".heif",
        ".hif",
        ".jp2",
        ".tga",
        ".ppm",
        ".pgm",
        ".pnm",
        ".ico",
    )
)
_DELIMITERS = (",", ";", "\t", "|")
# Columns of free text: there "None" is a word.
_TEXT_COLUMNS = ("prompt", "object", "negative_prompt", "negative")
_MISSING = {"", "nan", "na", "n/a", "#n/a", "<na>", "nat", "none", "null"}
_UNNAMED = re.compile(r"(unnamed: \d+)?", re.IGNORECASE)  # how pandas writes the header of an index
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
# A prompt may be longer than the 128 KiB that Python's reader takes by default.
csv.field_size_limit(2**24)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row, as it was read.

    Attributes:
        number: Line of the row in its file, or its place in the folder, from 1.
        fields: Values by field; None where the row could not be read.
        is_text: Whether all values are text, as in CSV.
        problem: Why the row could not be read.
    """

    number: int
    fields: dict[str, Any] | None = None
    is_text: bool = False
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All rows of a batch.

    Attributes:
        entries: The rows.
        left_out: Files of a folder that are not rows, each with the reason.
    """

    entries: list[Entry]
    left_out: dict[str, str] = field(default_factory=dict)


def read_manifest(source: Path) -> Manifest:
    """Read a folder or a table.

    Args:
        source: A folder of images, a .jsonl, .ndjson, .json, .csv or .tsv file, or "-" for standard input.

    Raises:
        InvalidInputError: The source is missing, of another kind, or empty.
    """
    suffix = source.suffix.lower()
    if source == STANDARD_INPUT:
        manifest = Manifest(entries=_read_stream(sys.stdin.buffer.read(), source))
    elif source.is_dir():
        manifest = _read_folder(source)
    elif not source.is_file():
        raise InvalidInputError(f"`SOURCE` is {source}; there is no such file or folder.")
    elif suffix not in TABLES:
        raise InvalidInputError(
            f"`SOURCE` is {source}; expected a folder or a file with {', '.join(TABLES)}."
        )
    else:
        text = _decode(_read_bytes(source), source)
        if suffix in JSON_LINES:
            entries = _read_json_lines(text)
        elif suffix == ".json":
            entries = _read_json(text, source)
        else:
            entries = _read_csv(text, source)
        manifest = Manifest(entries=entries)
    if not manifest.entries:
        reasons = "".join(f" Left out {name}: {reason}." for name, reason in manifest.left_out.items())
        raise InvalidInputError(
            f"`SOURCE` is {source}; it holds no row and no image.{reasons[:_LONGEST_SHOWN]}"
        )
    return manifest


def _read_folder(folder: Path) -> Manifest:
    entries: list[Entry] = []
    left_out: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            left_out[path.name] = "a hidden file"
        elif path.is_dir():
            left_out[path.name] = "a folder; give it as SOURCE of its own"
        elif not path.is_file():  # a named pipe would be waited for, without end
            left_out[path.name] = "a dangling link" if path.is_symlink() else "no regular file"
        elif path.suffix.lower() not in IMAGE_SUFFIXES:
            left_out[path.name] = "no image file by its suffix"
        elif _is_own_result(path):
            left_out[path.name] = "made by `joyimage batch`"
        else:
            entries.append(Entry(number=len(entries) + 1, fields={"image": path.name}))
    return Manifest(entries=entries, left_out=left_out)


def _is_own_result(path: Path) -> bool:
    """Tell whether a batch made an image, without decoding its pixels."""
    try:
        with Image.open(path) as image:
            return '"key"' in str(image.info.get(RECORD_KEY, "")) or "joyimage-contact" in image.info
    except Exception:  # noqa: BLE001 - a broken file is reported where the row is read
        return False


def _read_stream(content: bytes, source: Path) -> list[Entry]:
    """Read a table from standard input: JSON, JSON Lines or CSV, by how it starts."""
    text = _decode(content, source)
    start = text.lstrip()[:1]
    if start == "{":
        return _read_json_lines(text)
    return _read_json(text, source) if start == "[" else _read_csv(text, source)


def _read_bytes(path: Path) -> bytes:
    """Return the content of a table.

    Raises:
        InvalidInputError: The file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"`SOURCE` is {path}; it can't be read: {error.strerror or error}.") from None


def _decode(content: bytes, path: Path) -> str:
    """Return the text of a table.

    Raises:
        InvalidInputError: Its encoding is not known.
    """
    for encoding in _guess_encodings(content):
        try:
            return content.decode(encoding)
        except UnicodeError:
            continue
    raise InvalidInputError(f"`SOURCE` is {path}; its text is in no known encoding. Save it as UTF-8.")


def _guess_encodings(content: bytes) -> tuple[str, ...]:
    """Return the encodings to try: by the byte-order mark, or by where the zeros of ASCII letters stand."""
    if content.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return ("utf-32",)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return ("utf-16",)
    if content[1:2] == b"\0":
        return ("utf-16-le",)
    return ("utf-16-be",) if content[:1] == b"\0" else ("utf-8-sig", "cp1252")


def _read_json_lines(text: str) -> list[Entry]:
    # Not `splitlines`: U+2028 and its like may stand inside of a JSON string.
    lines = enumerate((line.strip() for line in text.split("\n")), start=1)
    return [_from_json(number, line) for number, line in lines if line]


def _from_json(number: int, line: str) -> Entry:
    try:
        fields = json_format.loads(line, object_pairs_hook=_to_fields)
    except _RepeatedFieldError as error:
        return Entry(number=number, problem=str(error))
    except (ValueError, RecursionError) as error:
        return Entry(number=number, problem=f"it is not JSON: {error}.")
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


def _read_json(text: str, source: Path) -> list[Entry]:
    """Read a JSON array of objects.

    Raises:
        InvalidInputError: The file holds something else.
    """
    try:
        rows = json_format.loads(text, object_pairs_hook=_to_fields)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"`SOURCE` is {source}; it is not JSON: {error}.") from None
    if not isinstance(rows, list):
        raise InvalidInputError(f"`SOURCE` is {source}; expected a JSON array with one object per row.")
    return [_checked(number, row) for number, row in enumerate(rows, start=1)]


def _read_csv(text: str, source: Path) -> list[Entry]:
    """Read a CSV table.

    Raises:
        InvalidInputError: A quotation mark is never closed, or a column is there twice.
    """
    first_row = 2
    if text.lower().startswith("sep="):  # Excel's own way to name the delimiter
        text = text.partition("\n")[2]
        first_row = 3
    delimiter = _find_delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    entries: list[Entry] = []
    try:
        for cells in reader:
            number = reader.line_num + first_row - 2
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = _read_header(cells, source)
            elif len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
                problem = f"it has {len(cells)} cells; expected {len(header)}."
                entries.append(Entry(number=number, problem=problem))
            else:
                named = zip(header, cells, strict=False)
                given = {
                    name: text for name, cell in named if name and (text := _read_cell(name, cell, delimiter))
                }
                entries.append(Entry(number=number, fields=given, is_text=True))
    except csv.Error as error:
        raise InvalidInputError(
            f"`SOURCE` is {source}; line {reader.line_num + first_row - 2} is not CSV: {error}."
        ) from None
    return entries


def _read_header(cells: list[str], source: Path) -> list[str]:
    """Return the names of the columns; "" for those without one, which are left out.

    Raises:
        InvalidInputError: A column is there twice.
    """
    header = ["" if _UNNAMED.fullmatch(cell.strip()) else cell.strip().lower() for cell in cells]
    for name in header:
        if name and header.count(name) > 1:
            raise InvalidInputError(f"`SOURCE` is {source}; it has the column `{name}` twice.")
    return header


def _read_cell(name: str, cell: str, delimiter: str) -> str:
    """Return a cell's text; "" where it means "not given".

    Args:
        name: Its column.
        cell: What it holds.
        delimiter: What stands between cells: where it is a semicolon, numbers have a decimal comma.
    """
    text = cell.strip()
    if name in _TEXT_COLUMNS:
        return "" if text.lower() == "nan" else text
    if text.lower() in _MISSING:
        return ""
    return text.replace(",", ".") if delimiter == ";" and _DECIMAL_COMMA.fullmatch(text) else text


def _find_delimiter(text: str) -> str:
    """Return the delimiter that splits the header into most cells."""
    header = text.lstrip().partition("\n")[0]
    return max(_DELIMITERS, key=lambda one: len(next(csv.reader([header], delimiter=one), [])))
