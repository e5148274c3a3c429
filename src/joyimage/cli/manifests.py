"""Read what a batch is given: a folder of images, or a table as people's programs write it.

Tables come from text editors, pandas, Excel and Windows: with a byte-order mark, in UTF-16 or Windows-1252, with
semicolons or tabs, with upper-case suffixes and headers, with "1.0" for 1 and nothing for "not given".
"""

from __future__ import annotations

import csv
import io
import json as json_format
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image

from joyimage.errors import InvalidInputError
from joyimage.imaging import RECORD_KEY

if TYPE_CHECKING:
    from pathlib import Path

JSON_LINES = (".jsonl", ".ndjson")
TABLES = (*JSON_LINES, ".json", ".csv", ".tsv")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".jp2")
_DELIMITERS = (",", ";", "\t")


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
        left_out: Files of a folder that are no rows, each with the reason.
    """

    entries: list[Entry]
    left_out: dict[str, str] = field(default_factory=dict)


def read_manifest(source: Path) -> Manifest:
    """Read a folder or a table.

    Args:
        source: A folder of images, or a .jsonl, .ndjson, .json, .csv or .tsv file.

    Raises:
        InvalidInputError: The source is missing, of another kind, or empty.
    """
    suffix = source.suffix.lower()
    if source.is_dir():
        manifest = _read_folder(source)
    elif not source.is_file():
        raise InvalidInputError(f"`SOURCE` is {source}; there is no such file or folder.")
    elif suffix not in TABLES:
        raise InvalidInputError(
            f"`SOURCE` is {source}; expected a folder or a file with {', '.join(TABLES)}."
        )
    else:
        text = _decode(source)
        if suffix in JSON_LINES:
            entries = _read_json_lines(text)
        elif suffix == ".json":
            entries = _read_json(text, source)
        else:
            entries = _read_csv(text)
        manifest = Manifest(entries=entries)
    if not manifest.entries:
        raise InvalidInputError(f"`SOURCE` is {source}; it holds no row and no image.")
    return manifest


def _read_folder(folder: Path) -> Manifest:
    entries: list[Entry] = []
    left_out: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            left_out[path.name] = "a hidden file"
        elif path.is_dir():
            left_out[path.name] = "a folder; give it as SOURCE of its own"
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


def _decode(path: Path) -> str:
    """Return the text of a table.

    Raises:
        InvalidInputError: The file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"`SOURCE` is {path}; it can't be read: {error.strerror or error}.") from None
    is_utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16",) if is_utf16 else ("utf-8-sig", "cp1252"):
        try:
            return content.decode(encoding)
        except UnicodeError:
            continue
    raise InvalidInputError(f"`SOURCE` is {path}; its text is in no known encoding. Save it as UTF-8.")


def _read_json_lines(text: str) -> list[Entry]:
    # Not `splitlines`: U+2028 and its like may stand inside of a JSON string.
    lines = enumerate((line.strip() for line in text.split("\n")), start=1)
    return [_from_json(number, line) for number, line in lines if line]


def _from_json(number: int, line: str) -> Entry:
    try:
        fields = json_format.loads(line)
    except (ValueError, RecursionError) as error:
        return Entry(number=number, problem=f"it is no JSON: {error}.")
    return _checked(number, fields)


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
        rows = json_format.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"`SOURCE` is {source}; it is no JSON: {error}.") from None
    if not isinstance(rows, list):
        raise InvalidInputError(f"`SOURCE` is {source}; expected a JSON array with one object per row.")
    return [_checked(number, row) for number, row in enumerate(rows, start=1)]


def _read_csv(text: str) -> list[Entry]:
    first_row = 2
    if text.lower().startswith("sep="):  # Excel's own way to name the delimiter
        text = text.partition("\n")[2]
        first_row = 3
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_find_delimiter(text))
    header: list[str] | None = None
    entries: list[Entry] = []
    for cells in reader:
        number = reader.line_num + first_row - 2
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [cell.strip().lower() for cell in cells]
        elif len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
            entries.append(
                Entry(number=number, problem=f"it has {len(cells)} cells; expected {len(header)}.")
            )
        else:
            given = {
                name: cell for name, cell in zip(header, cells, strict=False) if name and not _is_blank(cell)
            }
            entries.append(Entry(number=number, fields=given, is_text=True))
    return entries


def _find_delimiter(text: str) -> str:
    """Return the delimiter that splits the header into most cells."""
    header = text.lstrip().partition("\n")[0]
    return max(_DELIMITERS, key=lambda one: len(next(csv.reader([header], delimiter=one), [])))


def _is_blank(cell: str) -> bool:
    """Tell whether a cell means "not given": empty, or how pandas may write a missing number."""
    return cell.strip().lower() in {"", "nan"}
