"""A training pair as it was found: where its images are, and its prompt."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from joyimage.errors import ImageError
from joyimage.imaging import decode, to_rgb

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from joyimage.spatial.box import Box

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic")
"""Names of image files end with one of these."""


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """An image in a file or in a shard.

    Attributes:
        path: The file, or the shard.
        offset: First byte of the image in an uncompressed shard; None for a file of its own.
        num_bytes: Length of the image in a shard.
        member: Name of the image in the shard.
    """

    path: Path
    offset: int | None = None
    num_bytes: int = 0
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    def read(self) -> bytes:
        """Return the content of the image file.

        Raises:
            ImageError: It cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                if self.offset is None:
                    return file.read()
                file.seek(self.offset)
                return file.read(self.num_bytes)
        except OSError as error:
            raise ImageError(f"{self} can't be read: {error.strerror or error}.") from None

    def open(self) -> Image:
        """Return the image, upright, in sRGB and RGB.

        Raises:
            ImageError: It cannot be read.
        """
        return to_rgb(decode(self.read(), str(self)).image)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A training pair.

    Attributes:
        target: Image after the edit.
        references: Images before the edit; none for text-to-image.
        caption: Prompt.
        box: Where a move puts the object, in pixels of the first reference, which gets a red box; None without.
        source: Number of the data section that the pair comes from.
    """

    target: ImageSource
    references: tuple[ImageSource, ...]
    caption: str
    box: Box | None = None
    source: int = 0

    @property
    def name(self) -> str:
        """What messages call the pair."""
        return str(self.target)


def shard_members(path: Path) -> dict[str, ImageSource]:
    """Return the files in a .tar shard by name.

    Raises:
        ImageError: The shard cannot be read.
    """
    try:
        with tarfile.open(path, "r:") as shard:
            return {
                member.name: ImageSource(
                    path=path, offset=member.offset_data, num_bytes=member.size, member=member.name
                )
                for member in shard
                if member.isfile()
            }
    except (OSError, tarfile.TarError) as error:
        raise ImageError(f"{path} is not an uncompressed .tar file: {error}.") from None
