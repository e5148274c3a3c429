"""Read any picture file; write one whole or not at all."""

from __future__ import annotations

import glob
import io
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from joyimage.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_PIXELS = 128_000_000
METADATA_KEY = "joyimage"
_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def read_picture(path: Path | IO[bytes], name: str | None = None) -> Image.Image:
    """Read a picture, upright.

    Args:
        path: File of any format that Pillow reads, or an open one.
        name: What messages call the file; its path if None.

    Returns:
        The picture in its own mode, EXIF rotation applied.

    Raises:
        ImageError: It can't be read, is broken, or is larger than `MAX_PIXELS`.
    """
    name = name or str(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise ImageError(
                        f"{name} has {picture.width} x {picture.height} pixels; "
                        f"at most {MAX_PIXELS:,} are read."
                    )
                picture.load()
                return ImageOps.exif_transpose(picture)
    except Image.DecompressionBombError:
        raise ImageError(f"{name} is too large a picture; at most {MAX_PIXELS:,} pixels are read.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not a picture that can be read.") from None
    except ImageError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        reason = (
            error.strerror if isinstance(error, OSError) and error.strerror else f"it is broken ({error})"
        )
        raise ImageError(f"{name} can't be read: {reason}.") from None


def check_output(path: Path) -> None:
    """Refuse an output path before the work, not after it.

    Raises:
        ImageError: The folder is missing, the path is a folder, or the format is unknown.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ImageError(f"The output {path} has no known format; end it in {', '.join(_SUFFIXES)}.")
    if not path.parent.is_dir():
        raise ImageError(f"The output's folder {path.parent} doesn't exist.")
    if path.is_dir():
        raise ImageError(f"The output {path} is a folder; name a file.")


def write_picture(picture: Image.Image, path: Path, metadata: dict[str, Any] | None = None) -> None:
    """Write a picture atomically.

    Args:
        picture: RGB, or RGBA; in a JPEG that is laid on white.
        path: Where it goes; the suffix chooses the format.
        metadata: Stored as JSON, in PNG files only.

    Raises:
        ImageError: The file can't be written; nothing is left behind.
    """
    check_output(path)
    content = encode_image(picture, _SUFFIXES[path.suffix.lower()], metadata)
    write_whole(path, lambda file: file.write(content))


def encode_image(picture: Image.Image, kind: str, metadata: dict[str, Any] | None = None) -> bytes:
    """Return the content of an image file.

    Args:
        picture: RGB, or RGBA; in a JPEG that is laid on white.
        kind: Pillow's name of the format.
        metadata: Stored as JSON, in PNG files only.
    """
    options: dict[str, Any] = {}
    if metadata is not None and kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt(METADATA_KEY, json.dumps(metadata, ensure_ascii=False))
        options["pnginfo"] = info
    elif kind != "PNG":
        options["quality"] = 95
    if kind == "JPEG" and picture.mode == "RGBA":  # which has no transparency
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        ImageError: The file can't be written; nothing is left behind.
    """
    write_whole(path, lambda file: file.write(text.encode("utf-8")))


def clear_partial(path: Path) -> None:
    """Remove what a killed process left of writing `path`."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*"):
        partial.unlink(missing_ok=True)


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write beside `path`, then put the file in its place in one go.

    Raises:
        ImageError: It can't be written; nothing is left behind.
    """
    partial: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            partial = Path(file.name)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o644)
        partial.replace(path)
    except OSError as error:
        raise ImageError(f"{path} can't be written: {error.strerror or error}.") from None
    finally:
        if partial is not None and partial.exists():
            partial.unlink()


def read_metadata(path: Path) -> dict[str, Any] | None:
    """Return the edit recorded in a PNG, or None where there is none.

    Raises:
        ImageError: The file can't be read, or what is recorded is no JSON object.
    """
    text = read_picture(path).info.get(METADATA_KEY)
    if text is None:
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"The record in {path} can't be read: it is no JSON ({error}).") from None
    if not isinstance(record, dict):
        raise ImageError(f"The record in {path} can't be read: it is no JSON object.")
    return record
