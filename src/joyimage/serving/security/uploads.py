"""Pictures from strangers: measured before they are decoded, and decoded before they are believed."""

from __future__ import annotations

import base64
import binascii
import io
import struct
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from joyimage.serving.http.errors import ApiError

if TYPE_CHECKING:
    from joyimage.serving.settings import ServerSettings

FORMATS = ("PNG", "JPEG", "WEBP")
_FRAME_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG's "start of frame" of each kind


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A picture file that can be decoded.

    Attributes:
        data: The file.
        size: Width and height in pixels, upright.
    """

    data: bytes
    size: tuple[int, int]


def check_upload(data: bytes, settings: ServerSettings, param: str = "image") -> Upload:
    """Refuse what is no picture, or too large a one.

    Args:
        data: The file.
        settings: Hold the limits.
        param: Name of the field, for the error.

    Returns:
        The picture.

    Raises:
        ApiError: What is wrong.
    """
    if len(data) > settings.max_image_bytes:
        raise ApiError(
            413,
            f"`{param}` has {len(data):,} bytes; at most {settings.max_image_bytes:,} are taken.",
            code="image_too_large",
            param=param,
        )
    size = measure(data)
    if size is None:
        raise ApiError(
            400, f"`{param}` is no PNG, JPEG or WebP file.", code="invalid_image_format", param=param
        )
    _check_pixels(size, settings, param)
    picture = open_picture(data, settings, param)
    return Upload(data=data, size=picture.size)


def open_picture(data: bytes, settings: ServerSettings, param: str = "image") -> Image.Image:
    """Decode a picture, upright.

    Raises:
        ApiError: It is broken, or not what its header says.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                _check_pixels(picture.size, settings, param)
                picture.load()
                return ImageOps.exif_transpose(picture)
    except ApiError:
        raise
    # Decoders of broken files raise whatever they stumble over.
    except Exception as error:  # noqa: BLE001
        reason = str(error) or type(error).__name__
        raise ApiError(
            400, f"`{param}` can't be decoded: {reason[:200]}.", code="invalid_image", param=param
        ) from None


def mask_to_region(mask: Image.Image) -> Image.Image:
    """Turn OpenAI's mask, transparent where it may change, into ours, 255 where it may change.

    Raises:
        ApiError: It has no transparency.
    """
    if mask.mode not in {"RGBA", "LA", "PA"} and "transparency" not in mask.info:
        raise ApiError(
            400,
            "`mask` has no transparency; expected a PNG that is transparent where the picture may change.",
            code="invalid_mask",
            param="mask",
        )
    return mask.convert("RGBA").getchannel("A").point([255] + [0] * 255)


def decode_base64(text: str, param: str = "image") -> bytes:
    """Return the bytes of a data URL or of plain base64.

    Raises:
        ApiError: It is neither.
    """
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise ApiError(400, f"`{param}` is a data URL that isn't base64.", param=param)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(
            400, f"`{param}` is neither a data URL nor base64.", code="invalid_base64", param=param
        ) from None


def measure(data: bytes) -> tuple[int, int] | None:
    """Read width and height off a file's header, without a decoder.

    Returns:
        The size; None where the file is none of `FORMATS`.
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
    """Refuse a picture that is too large, or has no pixels.

    Raises:
        ApiError: It is.
    """
    width, height = size
    if width < 1 or height < 1:
        raise ApiError(400, f"`{param}` has {width} x {height} pixels.", code="invalid_image", param=param)
    if width * height > settings.max_image_pixels:
        raise ApiError(
            413,
            f"`{param}` has {width} x {height} pixels; at most {settings.max_image_pixels:,} are taken.",
            code="image_too_large",
            param=param,
        )
