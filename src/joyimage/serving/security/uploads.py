"""Images from strangers: measured before they are decoded, and decoded before they are believed."""

from __future__ import annotations

import base64
import binascii
import io
import struct
import threading
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from joyimage.serving.security.errors import TooLargeError, UploadError

try:
    import pillow_heif
except ImportError:
    pillow_heif = None
else:
    pillow_heif.register_heif_opener()

if TYPE_CHECKING:
    from collections.abc import Iterator

    from joyimage.serving.settings import ServerSettings

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", *(("HEIF",) if pillow_heif else ()))
_SHOWN = "PNG, JPEG, WebP, GIF, AVIF, TIFF or BMP"
_MEASURED = ("PNG", "JPEG", "WEBP")
_FRAME_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG's "start of frame" of each kind
# A progressive JPEG is decoded once for each scan. Encoders write about 10; 300 KB can hold hundreds.
_MOST_SCANS = 100


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An image file that can be decoded.

    Attributes:
        data: The file.
        size: Width and height in pixels, upright.
    """

    data: bytes
    size: tuple[int, int]


class PixelBudget:
    """Bounds the pixels that are decoded at the same time, and so the memory that decoding takes.

    Args:
        most: Most pixels at a time; a larger image waits until it is alone.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, pixels: int) -> Iterator[None]:
        """Wait until there is room, and keep it until the end of the `with`."""
        pixels = min(pixels, self._most)
        with self._changed:
            self._changed.wait_for(lambda: self._used + pixels <= self._most)
            self._used += pixels
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()


def check_upload(data: bytes, settings: ServerSettings, budget: PixelBudget, param: str = "image") -> Upload:
    """Reject what is no image, or too large a one.

    Args:
        data: The file.
        settings: Limits.
        budget: Room for decoded pixels.
        param: Name of the field, for the error.

    Returns:
        The image.

    Raises:
        UploadError: The file is no image that can be decoded.
        TooLargeError: The file or its image is too large.
    """
    if len(data) > settings.max_image_bytes:
        raise TooLargeError(
            f"`{param}` has {len(data):,} bytes; at most {settings.max_image_bytes:,} are accepted.",
            code="image_too_large",
            param=param,
        )
    size = measure(data)
    if size is not None:
        _check_pixels(size, settings, param)
    if data[:2] == b"\xff\xd8" and data.count(b"\xff\xda") > _MOST_SCANS:
        raise UploadError(
            f"`{param}` is a JPEG of more than {_MOST_SCANS} scans; save it again as a plain JPEG.",
            code="invalid_image",
            param=param,
        )
    with budget.reserve(1 if size is None else size[0] * size[1]):
        image = open_image(data, settings, param)
        return Upload(data=data, size=image.size)


def open_image(data: bytes, settings: ServerSettings, param: str = "image") -> Image.Image:
    """Decode an image, upright; of an animation, the first frame.

    Raises:
        UploadError: The file is broken, not what its header says, or of another format.
        TooLargeError: The image has too many pixels.
    """
    # What was measured must be decoded as that; a header of one format can precede another's data.
    formats = _MEASURED if measure(data) is not None else tuple(set(FORMATS) - set(_MEASURED))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=formats) as image:
                _check_pixels(image.size, settings, param)
                image.load()
                return ImageOps.exif_transpose(image)
    except TooLargeError:
        raise
    except Image.UnidentifiedImageError:
        raise UploadError(
            f"`{param}` is not an image file that is accepted; expected {_SHOWN}.",
            code="invalid_image_format",
            param=param,
        ) from None
    # Decoders of broken files raise whatever they stumble over.
    except Exception as error:  # noqa: BLE001
        reason = str(error) or type(error).__name__
        raise UploadError(
            f"`{param}` cannot be decoded: {reason[:200]}.", code="invalid_image", param=param
        ) from None


def mask_to_region(mask: Image.Image) -> Image.Image:
    """Turn OpenAI's mask, transparent where it may change, into ours, 255 where it may change.

    Raises:
        UploadError: The mask has no transparency.
    """
    if mask.mode not in {"RGBA", "LA", "PA"} and "transparency" not in mask.info:
        raise UploadError(
            "`mask` has no transparency; expected a PNG that is transparent where the image may change.",
            code="invalid_mask",
            param="mask",
        )
    return mask.convert("RGBA").getchannel("A").point([255] + [0] * 255)


def decode_base64(text: str, param: str = "image") -> bytes:
    """Return the bytes of a data URL or of plain base64.

    Raises:
        UploadError: The text is neither.
    """
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise UploadError(
                f"`{param}` is a data URL that is not base64; expected data:image/png;base64,...",
                code="invalid_base64",
                param=param,
            )
    try:
        return base64.b64decode(
            text if len(text.split(None, 1)) < 2 else "".join(text.split()), validate=True
        )
    except (binascii.Error, ValueError):
        raise UploadError(
            f"`{param}` is neither a data URL nor base64.", code="invalid_base64", param=param
        ) from None


def measure(data: bytes) -> tuple[int, int] | None:
    """Read width and height off a file's header, without a decoder.

    Returns:
        The size; None where the file is no PNG, JPEG or WebP.
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 24:
        return struct.unpack(">II", data[16:24])
    if data[:2] == b"\xff\xd8":
        return _measure_jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        return _measure_webp(data)
    return None


def _measure_jpeg(data: bytes) -> tuple[int, int] | None:
    """Return the largest size that any frame of the file has."""
    place, found = 2, None
    while place + 9 <= len(data):
        if data[place] != 0xFF:
            break
        marker = data[place + 1]
        if marker == 0xFF:  # filling
            place += 1
            continue
        if marker in _FRAME_MARKERS:
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            found = max(found or (0, 0), (width, height), key=lambda size: size[0] * size[1])
        if marker == 0xDA:  # the pixels begin
            break
        place += (
            2
            if marker in {0x01, *range(0xD0, 0xD9)}
            else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        )
    return found


def _measure_webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None


def _check_pixels(size: tuple[int, int], settings: ServerSettings, param: str) -> None:
    """Reject an image that is too large, or has no pixels.

    Raises:
        UploadError: The image has no pixels.
        TooLargeError: The image has too many pixels.
    """
    width, height = size
    if width < 1 or height < 1:
        raise UploadError(f"`{param}` has {width} x {height} pixels.", code="invalid_image", param=param)
    if width * height > settings.max_image_pixels:
        raise TooLargeError(
            f"`{param}` has {width} x {height} pixels; at most {settings.max_image_pixels:,} are accepted.",
            code="image_too_large",
            param=param,
        )
