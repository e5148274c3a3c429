"""Write an image file: the format by its suffix, the record of the edit inside, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joyimage.errors import ImageError
from joyimage.imaging.atomic import write_whole
from joyimage.imaging.metadata import exif, png_info
from joyimage.imaging.pixels import flatten

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
"""Suffixes of files that can be written, and Pillow's names of their formats."""

_OPAQUE = {"JPEG", "BMP"}
_QUALITY = {"JPEG": 95, "WEBP": 95, "AVIF": 90}


def check_output(path: Path) -> None:
    """Reject a path before the work, not after it: suffix, folder, name, and whether it can be written.

    Raises:
        ImageError: An image cannot be written there.
    """
    try:
        if path.is_dir():
            raise ImageError(f"The output {path} is a folder; name a file.")
        if path.suffix.lower() not in SUFFIXES:
            raise ImageError(
                f"The output {path} has no known format; use one of the suffixes {', '.join(SUFFIXES)}."
            )
        if path.exists() and not path.is_file():  # a pipe or a device, which would be replaced by a file
            raise ImageError(f"The output {path} can't be written: it is not a regular file.")
        if path.is_symlink():
            with contextlib.suppress(FileNotFoundError):  # written through, also where nothing is there yet
                path.stat()
        if path.parent.exists() and not path.parent.is_dir():
            raise ImageError(f"The output {path} can't be written: {path.parent} is a file, not a folder.")
        if not path.parent.is_dir():
            raise ImageError(
                f"The output {path} can't be written: its folder {path.parent} doesn't exist; create it first."
            )
        if path.exists() and not os.access(path, os.W_OK):
            raise ImageError(f"The output {path} can't be written: permission denied.")
        # Only a real file tells: folders may be read-only in many ways. A symbolic link is written through.
        probe = Path(os.path.realpath(path)).with_name(f".joyimage-{secrets.token_hex(8)}")
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ImageError(f"The output {path} can't be written: its name is too long.") from None
        raise ImageError(
            f"The output {path} can't be written: {(error.strerror or str(error)).lower()}."
        ) from None


def write_image(
    image: Image.Image,
    path: Path,
    record: dict[str, Any] | None = None,
    *,
    dpi: tuple[float, float] | None = None,
    date: str | None = None,
) -> None:
    """Write an image file whole or not at all.

    Args:
        image: The image, in sRGB; transparent parts are laid on white where the format has no transparency.
        path: The file; its suffix sets the format.
        record: The record of the edit.
        dpi: Resolution in dots per inch.
        date: When the image was taken, as EXIF writes it.

    Raises:
        ImageError: The file cannot be written; nothing is left behind.
    """
    check_output(path)
    content = encode(image, SUFFIXES[path.suffix.lower()], record, dpi=dpi, date=date)
    write_whole(path, lambda file: file.write(content))


def encode(
    image: Image.Image,
    kind: str,
    record: dict[str, Any] | None = None,
    *,
    dpi: tuple[float, float] | None = None,
    date: str | None = None,
) -> bytes:
    """Return the content of an image file; arguments as in `write_image`, `kind` is Pillow's name of the format."""
    options: dict[str, Any] = {}
    if kind == "PNG":
        options["pnginfo"] = png_info(record)
        details = exif(None, date)
    else:
        details = exif(record, date) if kind != "BMP" else None
    if details is not None:
        options["exif"] = details
    if kind in _QUALITY:
        options["quality"] = _QUALITY[kind]
    if dpi is not None and kind in {"PNG", "JPEG", "TIFF"}:
        options["dpi"] = dpi
    if kind in _OPAQUE:
        image = flatten(image)
    file = io.BytesIO()
    clean = image.copy()
    clean.info = {}  # nothing of the input is written that is not named here
    clean.save(file, kind, **options)
    return file.getvalue()
