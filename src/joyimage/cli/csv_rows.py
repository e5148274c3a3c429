"""Rows of a batch in CSV, as spreadsheets and pandas write it: any delimiter, decimal commas, empty columns."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING

from joyimage.cli.entries import Entry
from joyimage.edits import KINDS
from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

_DELIMITERS = (",", ";", "\t", "|")
# Columns of free text and of paths: there "None" is a word, and 1.000 no number.
_TEXT_COLUMNS = ("prompt", "object", "negative_prompt", "negative")
_PATH_COLUMNS = ("image", "refs", "output", "lora", "loras", "region")
_MISSING = {"", "nan", "na", "n/a", "#n/a", "<na>", "nat", "none", "null"}
_UNNAMED = re.compile(r"(unnamed:.*)?", re.IGNORECASE)  # how pandas writes the header of an index
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+")
_EXCEL_DELIMITER = re.compile(r'"?sep=(.)"?[\r\n]+', re.IGNORECASE)
# A prompt may be longer than the 128 KiB that Python's reader takes by default.
csv.field_size_limit(2**24)
_LONGEST_SHOWN = 60


def read_csv(text: str, source: Path) -> list[Entry]:
    """Read a CSV table.

    Args:
        text: The content.
        source: What messages call it.

    Raises:
        InvalidInputError: A quotation mark is never closed, or the header names no field, or one twice.
    """
    first_row = 2
    if (named := _EXCEL_DELIMITER.match(text)) is not None:
        text = text[named.end() :]
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
                entries.append(_read_row(number, dict(zip(header, cells, strict=False)), delimiter))
    except csv.Error as error:
        raise InvalidInputError(
            f"`SOURCE` is {source}; line {reader.line_num + first_row - 2} is not CSV: {error}."
        ) from None
    return entries


def _read_header(cells: list[str], source: Path) -> list[str]:
    """Return the names of the columns; "" for those without one, which are left out.

    Raises:
        InvalidInputError: A column is there twice, or none is a field: the row is a title, or the first edit.
    """
    names = [re.sub(r"[\s-]+", "_", cell.strip().lower()) for cell in cells]
    header = ["" if _UNNAMED.fullmatch(name) else name for name in names]
    if not _known_columns().intersection(header):
        shown = ", ".join(cell.strip() for cell in cells)[:_LONGEST_SHOWN]
        raise InvalidInputError(
            f"`SOURCE` is {source}; its first row is {shown!r}, which names no field. Expected a header such as "
            "image,prompt."
        )
    for name in header:
        if name and header.count(name) > 1:
            raise InvalidInputError(f"`SOURCE` is {source}; it has the column `{name}` twice.")
    return header


def _known_columns() -> set[str]:
    settings = [kind.settings() for kind in KINDS.values()]
    named = {name for one in settings for name in one}
    return {
        "kind",
        *_PATH_COLUMNS,
        *named,
        *(alias for one in settings for it in one.values() for alias in it.aliases),
    }


def _read_row(number: int, cells: dict[str, str], delimiter: str) -> Entry:
    given = {
        name: text for name, cell in cells.items() if name and (text := _read_cell(name, cell, delimiter))
    }
    for name, text in given.items():
        # Programs that write semicolons group digits by a point; others mean a decimal point by it.
        if (
            delimiter == ";"
            and name not in (*_TEXT_COLUMNS, *_PATH_COLUMNS)
            and _GROUPED.fullmatch(cells[name].strip())
        ):
            plain = text.replace(".", "")
            return Entry(
                number=number,
                problem=f"its `{name}` is {text!r}, which may mean {plain} or {float(text):g}; write one of them.",
            )
    return Entry(number=number, fields=given, is_text=True)


def _read_cell(name: str, cell: str, delimiter: str) -> str:
    """Return a cell's text; "" where it means "not given".

    Args:
        name: Column of the cell.
        cell: What it holds.
        delimiter: What stands between cells: where it is no comma, numbers may have a decimal comma.
    """
    text = cell.strip()
    if name in _TEXT_COLUMNS:
        return "" if text.lower() == "nan" else text
    if text.lower() in _MISSING:
        return ""
    return text.replace(",", ".") if delimiter != "," and _DECIMAL_COMMA.fullmatch(text) else text


def _find_delimiter(text: str) -> str:
    """Return the delimiter that splits the header into most cells; those inside of quotes do not count."""
    header = re.split(r"[\r\n]", re.sub(r'"[^"]*"', "", text.lstrip()), maxsplit=1)[0]
    return max(_DELIMITERS, key=header.count)
