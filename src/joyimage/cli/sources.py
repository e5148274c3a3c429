"""Input images of a command: a file or standard input, read once."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joyimage.cli.console import warn
from joyimage.cli.path_arguments import STANDARD_STREAM
from joyimage.errors import ImageError
from joyimage.imaging import decode, read_record

if TYPE_CHECKING:
    from PIL.Image import Image

    from joyimage.imaging import DecodedImage

_NAME_OF_STREAM = "Standard input"
_ADDRESS = re.compile(r"(https?|file|s3|gs):(?=/)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Source:
    """An input image, read once: what happens to its file afterwards does not matter.

    Attributes:
        path: File that it was read from; "-" for standard input.
        decoded: The image, and what its file says of it.
    """

    path: Path
    decoded: DecodedImage

    @property
    def image(self) -> Image:
        """The image, upright and in sRGB."""
        return self.decoded.image

    @property
    def sha256(self) -> str:
        """Hash of the file's content."""
        return self.decoded.sha256

    @classmethod
    def read(cls, path: Path) -> Source:
        """Read an image file, or standard input where the path is "-".

        Raises:
            ImageError: The file cannot be read.
        """
        if (problem := address_problem(str(path))) is not None:
            raise ImageError(problem)
        path = find_spelling(path)
        name = _NAME_OF_STREAM if path == STANDARD_STREAM else str(path)
        try:
            content = _read_stream() if path == STANDARD_STREAM else path.read_bytes()
        except OSError as error:
            raise ImageError(f"{name} can't be read: {(error.strerror or str(error)).lower()}.") from None
        decoded = decode(content, name)
        for sentence in decoded.notes:
            warn(f"{name}: {sentence}.")
        return cls(path=path, decoded=decoded)


def address_problem(name: str) -> str | None:
    """Return what is wrong with an address in place of an image file; None for any other name."""
    if (found := _ADDRESS.match(name)) is None:
        return None
    # A path has lost one of its slashes; that of a file has three.
    slashes = "///" if found[1].lower() == "file" else "//"
    shown = f"{found[0]}{slashes}{name[found.end() :].lstrip('/')}"
    return f"{shown} can't be read: it is an address; expected a file. Download it first."


def find_spelling(path: Path) -> Path:
    """Return a path, or the file of the same name whose accents are encoded in another way.

    A Mac writes an accent as a character of its own (NFD), other systems and keyboards do not (NFC).
    """
    if not os.path.lexists(path):
        for form in ("NFC", "NFD"):
            spelled = Path(unicodedata.normalize(form, str(path)))
            if os.path.lexists(spelled):
                return spelled
    return path


def read_made(path: Path) -> dict[str, Any]:
    """Return the record of the edit that made an image; "-" reads the image from standard input.

    Raises:
        ImageError: The file cannot be read, or holds no record.
    """
    is_stream = path == STANDARD_STREAM
    name = Path(_NAME_OF_STREAM) if is_stream else path
    record = read_record(name, _read_stream() if is_stream else None)
    if not record:
        hint = " BMP files hold no record." if path.suffix.lower() == ".bmp" else ""
        raise ImageError(f"{name} holds no record of an edit by joyimage.{hint}")
    return record


def _read_stream() -> bytes:
    """Return what comes from standard input.

    Raises:
        ImageError: It is closed.
    """
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise ImageError("Standard input is closed; name an image file.")
    return stream.read()
