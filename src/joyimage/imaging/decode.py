"""Read an image file: checked against limits before it is decoded, upright and in sRGB afterwards."""

from __future__ import annotations

import hashlib
import io
import re
import time
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

from joyimage.errors import ImageError, ImageTooLargeError, InvalidInputError, UnknownFormatError
from joyimage.imaging.color_tags import state_profile
from joyimage.imaging.headers import is_heif, read_size
from joyimage.imaging.kinds import check_raw, describe_content, readable_formats
from joyimage.imaging.pixels import srgb, to_8_bit, to_mask, upright
from joyimage.imaging.png import strip_text

if TYPE_CHECKING:
    from pathlib import Path

    from joyimage.types import ImageSize

# A marker of a segment: in coded data 0xFF is followed by 0x00 or by the number of a restart.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_X_RESOLUTION = 282
_ANIMATED = {"GIF": "frames", "PNG": "frames", "WEBP": "frames", "AVIF": "frames", "TIFF": "pages"}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is too large to decode.

    Attributes:
        max_bytes: Size of the file.
        max_pixels: Width times height of any frame.
        max_jpeg_scans: Scans of a JPEG. Each is a pass over all pixels; cameras and encoders write up to about 20.
        max_seconds: Time for decoding, by the wall clock. It is looked at whenever the decoder asks for more of the
            file; decoders that take the whole file at once (WebP, AVIF, HEIC) are bounded by pixels alone.
    """

    max_bytes: int = 2**30
    max_pixels: int = 128_000_000
    max_jpeg_scans: int = 64
    max_seconds: float = 60


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """An image that was read.

    Attributes:
        image: The image, upright, in sRGB, with samples of at most 8 bits, otherwise in its own mode.
        sha256: Hash of the file's content.
        format: Pillow's name of the file's format.
        notes: What a user should know: an unusable color profile, highlights that are cut off, an animation of which
            one frame is used.
        dpi: Resolution in dots per inch, horizontally and vertically; None where the file says nothing.
        date: When the image was taken, as EXIF writes it ("2026:01:31 12:00:00"); None where the file says nothing.
    """

    image: Image.Image
    sha256: str
    format: str
    notes: tuple[str, ...] = ()
    dpi: tuple[float, float] | None = None
    date: str | None = field(default=None)


class _TimedFile(io.BytesIO):
    """The content of an image file, of which nothing more is read once decoding has taken too long.

    Args:
        content: The file.
        name: What messages call it.
        max_seconds: Time for decoding.
    """

    def __init__(self, content: bytes, name: str, max_seconds: float) -> None:
        super().__init__(content)
        self._name = name
        self._max_seconds = max_seconds
        self._ends_at = time.monotonic() + max_seconds

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, as any file does.

        Raises:
            ImageTooLargeError: The time is up.
        """
        if time.monotonic() > self._ends_at:
            raise ImageTooLargeError(
                f"{self._name} takes more than {self._max_seconds:g} s to decode; make it smaller, or save it again "
                "as a plain JPEG or PNG."
            )
        return super().read(size)


def read_image(path: Path, limits: Limits | None = None) -> DecodedImage:
    """Read an image file.

    Args:
        path: The file, in any format that Pillow reads; HEIC with the extra `heif`.
        limits: What is too large.

    Raises:
        ImageError: The file cannot be read, is damaged, or is too large.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} can't be read: {(error.strerror or str(error)).lower()}.") from None
    return decode(content, str(path), limits)


def read_mask(path: Path, size: tuple[int, int]) -> Image.Image:
    """Read the file of a mask for an image: mode L, white where it counts.

    Args:
        path: The file.
        size: Width and height of the image in pixels.

    Raises:
        ImageError: The file cannot be read.
        InvalidInputError: The mask has another size than the image.
    """
    mask = to_mask(read_image(path).image, str(path))
    if mask.size != size:
        raise InvalidInputError(
            f"The mask {path} has {mask.width}x{mask.height} pixels; expected {size[0]}x{size[1]}, as the image "
            "has."
        )
    return mask


def decode(
    content: bytes, name: str, limits: Limits | None = None, formats: tuple[str, ...] | None = None
) -> DecodedImage:
    """Decode the content of an image file.

    Args:
        content: The file.
        name: What messages call it.
        limits: What is too large.
        formats: Pillow's names of the formats that are accepted; None for all.

    Raises:
        UnknownFormatError: The content is not an image, or of a format that is not accepted.
        ImageTooLargeError: The image is too large.
        ImageError: The content is damaged.
    """
    limits = limits or Limits()
    check(content, name, limits)
    _register_heif(content, name)
    accepted = formats or readable_formats()
    try:
        (image, problem), frames, kind, metadata = _open(content, name, limits, accepted)
    except ImageTooLargeError:
        raise
    except ImageError:
        # Damaged text, or more of it than the decoder takes, spoils no pixel.
        if (stripped := strip_text(content)) is None:
            raise
        (image, problem), frames, kind, metadata = _open(stripped, name, limits, accepted)
    notes = [] if problem is None else [problem]
    if frames > 1 and kind in _ANIMATED:
        notes.append(f"it has {frames} {_ANIMATED[kind]}; the first one is used")
    return DecodedImage(
        image=image,
        sha256=hashlib.sha256(content).hexdigest(),
        format=kind,
        notes=tuple(notes),
        **metadata,
    )


def _open(
    content: bytes, name: str, limits: Limits, formats: tuple[str, ...]
) -> tuple[tuple[Image.Image, str | None], int, str, dict[str, Any]]:
    """Decode, and return the upright sRGB image with a note on its colors, its frames' number, format and metadata.

    Raises:
        UnknownFormatError: The content is of none of the formats.
        ImageTooLargeError: The image is too large.
        ImageError: The content is damaged, or its samples are in no known range.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = _TimedFile(content, name, limits.max_seconds)
            with Image.open(file, formats=formats) as opened:
                _check_pixels(*opened.size, name, limits)
                check_raw(opened, content, name)
                frames = getattr(opened, "n_frames", 1)
                opened.load()
                metadata = _read_metadata(opened)
                image, cut_off = state_profile(to_8_bit(upright(opened), name), content)
                image, problem = srgb(image)
                return (image, problem or cut_off), frames, opened.format or "", metadata
    except ImageError:
        raise
    except InvalidInputError as error:  # the samples are in no known range
        raise ImageError(str(error).replace(f"`{name}`", name, 1)) from None
    except Image.DecompressionBombError:
        raise ImageTooLargeError(
            f"{name} is too large; at most {limits.max_pixels:,} pixels are read."
        ) from None
    except UnidentifiedImageError:
        what = (
            describe_content(content)
            if formats == readable_formats()
            else "not an image file that is accepted"
        )
        raise UnknownFormatError(f"{name} is {what}.") from None
    except Exception as error:  # noqa: BLE001 - decoders of damaged files raise whatever they stumble over
        reason = str(error)[:200] or type(error).__name__
        raise ImageError(f"{name} can't be read: it is damaged ({reason}).") from None


def check(content: bytes, name: str, limits: Limits) -> ImageSize | None:
    """Reject an image that is too large by its length and header, before a decoder sees it.

    Args:
        content: The file.
        name: What messages call it.
        limits: What is too large.

    Returns:
        The size, not yet upright; None where only a decoder can tell it.

    Raises:
        ImageTooLargeError: The file or the image is too large.
        ImageError: The image has no pixels.
    """
    if len(content) > limits.max_bytes:
        raise ImageTooLargeError(f"{name} has {len(content):,} bytes; at most {limits.max_bytes:,} are read.")
    _check_scans(content, name, limits)
    size = read_size(content)
    if size is not None:
        _check_pixels(size.width, size.height, name, limits)
    return size


def _check_scans(content: bytes, name: str, limits: Limits) -> None:
    """Reject a JPEG with so many scans that decoding it takes minutes.

    Raises:
        ImageTooLargeError: It has.
    """
    if content[:2] != b"\xff\xd8":
        return
    scans = _count_scans(content)
    if scans > limits.max_jpeg_scans:
        raise ImageTooLargeError(
            f"{name} is a JPEG with {scans} scans; at most {limits.max_jpeg_scans} are read. Save it again as a "
            "plain JPEG."
        )


def _count_scans(content: bytes) -> int:
    """Count the scans of a JPEG's image; previews in its metadata, and films behind its end, have their own."""
    scans, position = 0, 2
    while (marker := _MARKER.search(content, position)) is not None:
        kind, position = content[marker.start() + 1], marker.end()
        if kind == _END_OF_IMAGE:
            break
        scans += kind == _START_OF_SCAN
        # A segment states its length, so that its content is not searched; coded data follows that of a scan.
        position += int.from_bytes(content[position : position + 2], "big")
    return scans


def _check_pixels(width: int, height: int, name: str, limits: Limits) -> None:
    """Reject an image by the size that its header tells.

    Raises:
        ImageError: It has no pixels.
        ImageTooLargeError: It has too many.
    """
    if min(width, height) < 1:
        raise ImageError(f"{name} has {width}x{height} pixels; expected at least one.")
    if width * height > limits.max_pixels:
        raise ImageTooLargeError(
            f"{name} has {width}x{height} pixels; at most {limits.max_pixels:,} are read."
        )


def _register_heif(content: bytes, name: str) -> None:
    """Teach Pillow to read HEIC, which needs a package of its own.

    Raises:
        ImageError: The content is HEIC, and the package is missing.
    """
    if not is_heif(content):
        return
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports, reportMissingTypeStubs]
    except ImportError:
        raise ImageError(
            f'{name} is a HEIC file, which needs pillow-heif: pip install "joyimage[heif]", or save it as JPEG.'
        ) from None
    pillow_heif.register_heif_opener()


def _read_metadata(image: Image.Image) -> dict[str, Any]:
    """Return resolution and date, as far as undamaged metadata tells them."""
    found: dict[str, Any] = {}
    try:
        horizontal, vertical = (float(number) for number in image.info.get("dpi", ()))
        if _states_resolution(image) and 0 < horizontal < 1e5 and 0 < vertical < 1e5:
            found["dpi"] = (horizontal, vertical)
    except Exception:  # noqa: BLE001 - damaged metadata is none
        pass
    try:
        exif = image.getexif()
        date = exif.get_ifd(0x8769).get(36867) or exif.get(306)
        if isinstance(date, str) and date.strip("\0 "):
            found["date"] = date.strip("\0 ")[:19]
    except Exception:  # noqa: BLE001 - damaged metadata is none
        pass
    return found


def _states_resolution(image: Image.Image) -> bool:
    """Return whether a file states a resolution; where a TIFF or a JPEG states none, Pillow makes one up."""
    if image.format == "TIFF":
        return _X_RESOLUTION in getattr(image, "tag_v2", {})
    if image.format in {"JPEG", "MPO"}:
        return image.info.get("jfif_unit") in {1, 2} or _X_RESOLUTION in image.getexif()
    return True
