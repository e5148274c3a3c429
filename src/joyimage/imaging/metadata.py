"""The record of an edit inside of an image file: PNG text, or the EXIF user comment elsewhere."""

from __future__ import annotations

import io
import json
import warnings
from typing import TYPE_CHECKING, Any

from PIL import Image, PngImagePlugin

from joyimage.errors import ImageError

if TYPE_CHECKING:
    from pathlib import Path

RECORD_KEY = "joyimage"
"""Key of the PNG text, and start of the EXIF user comment."""

_EXIF_IFD, _USER_COMMENT, _DATE_TAKEN, _SOFTWARE = 0x8769, 0x9286, 0x9003, 0x0131
_ASCII = b"ASCII\0\0\0"
_MOST_EXIF_BYTES = 65_000  # of a JPEG's segment, with a margin


def read_record(path: Path, content: bytes | None = None) -> dict[str, Any] | None:
    """Return the record of an edit in an image file; None where there is none. No pixel is decoded.

    Args:
        path: The file.
        content: What it holds, if it was read already; then the path is only its name in messages.

    Raises:
        ImageError: The file is not an image, or what is recorded is not a JSON object.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path if content is None else io.BytesIO(content)) as image:
                text = image.info.get(RECORD_KEY) or _read_comment(image)
                if text is None and image.format == "PNG":
                    image.load()  # other programs write text behind the pixels
                    text = image.info.get(RECORD_KEY)
    except OSError as error:
        reason = error.strerror.lower() if error.strerror else "it is not an image"
        raise ImageError(f"{path} can't be read: {reason}.") from None
    except Exception as error:  # noqa: BLE001 - decoders of damaged files raise whatever they stumble over
        raise ImageError(f"{path} can't be read: it is damaged ({error}).") from None
    return _parse(str(text), path) if text else None


def png_info(record: dict[str, Any] | None) -> PngImagePlugin.PngInfo:
    """Return the PNG text that holds a record."""
    info = PngImagePlugin.PngInfo()
    if record is not None:
        info.add_itxt(RECORD_KEY, json.dumps(record, ensure_ascii=False))
    return info


def exif(record: dict[str, Any] | None, date: str | None = None) -> Image.Exif | None:
    """Return EXIF data with a record and the date that an image was taken; None where there is neither.

    Args:
        record: The record. One that does not fit is left out, with a warning.
        date: As EXIF writes it.
    """
    data = Image.Exif()
    data[_SOFTWARE] = RECORD_KEY  # without a main entry AVIF and TIFF lose the others
    details = data.get_ifd(_EXIF_IFD)
    data[_EXIF_IFD] = 0  # Pillow sets the offset; TIFF leaves the entries out where there is none
    if date is not None:
        details[_DATE_TAKEN] = date
    if record is not None:
        comment = _ASCII + f"{RECORD_KEY}:{json.dumps(record)}".encode("ascii")
        if len(comment) <= _MOST_EXIF_BYTES:
            details[_USER_COMMENT] = comment
        else:
            warnings.warn(
                f"The record of the edit has {len(comment):,} bytes and does not fit into this format; only PNG "
                "holds it.",
                stacklevel=3,
            )
    return data if details else None


def _read_comment(image: Image.Image) -> str | None:
    try:
        comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT)
    except Exception:  # noqa: BLE001 - damaged metadata is none
        return None
    start = _ASCII + f"{RECORD_KEY}:".encode("ascii")
    if not isinstance(comment, bytes) or not comment.startswith(start):
        return None
    return comment.removeprefix(start).decode("ascii", "replace")


def _parse(text: str, path: Path) -> dict[str, Any]:
    """Return the record that a text holds.

    Raises:
        ImageError: The text is not a JSON object.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"The record in {path} can't be read: it is not JSON ({error}).") from None
    if not isinstance(record, dict):
        raise ImageError(
            f"The record in {path} can't be read: it is {type(record).__name__}, not a JSON object."
        )
    return record
