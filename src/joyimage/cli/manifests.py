"""Read what a batch is given: a folder of images, or a table as people's programs write it.

Tables come from text editors, pandas, Excel and Windows: with a byte-order mark, in UTF-16 or Windows-1252, with
semicolons or tabs, with upper-case suffixes and headers, with "1.0" for 1 and nothing for "not given".
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from joyimage.cli.csv_rows import read_csv
from joyimage.cli.entries import Entry
from joyimage.cli.json_rows import read_json
from joyimage.errors import InvalidInputError
from joyimage.imaging import RECORD_KEY

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
STANDARD_INPUT = Path("-")
_LONGEST_SHOWN = 300
TABLES = (*JSON_SUFFIXES, ".csv", ".tsv")
_SHEETS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")
_SHEET_CONTENT = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # a ZIP archive (.xlsx, .ods); Excel before 2007
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
            f"{' Export the sheet as CSV.' if suffix in _SHEETS else ''}"
        )
    else:
        text = _decode(_read_bytes(source), source)
        read = read_json if suffix in JSON_SUFFIXES else read_csv
        manifest = Manifest(entries=read(text, source))
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
    return read_json(text, source) if text.lstrip()[:1] in {"{", "["} else read_csv(text, source)


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
        InvalidInputError: Its encoding is not known, or it is a spreadsheet of another program.
    """
    if content.startswith(_SHEET_CONTENT):
        raise InvalidInputError(
            f"`SOURCE` is {path}; it is a spreadsheet or an archive, not text. Export it as CSV."
        )
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
