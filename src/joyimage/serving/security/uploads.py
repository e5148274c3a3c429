"""Images from strangers: measured before they are decoded, and decoded before they are believed."""

from __future__ import annotations

import base64
import binascii
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from joyimage.errors import ImageError, ImageTooLargeError, UnknownFormatError
from joyimage.imaging.decode import Limits, check, decode
from joyimage.imaging.headers import is_heif, read_size
from joyimage.serving.security.errors import TooLargeError, UploadError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

    from joyimage.imaging.decode import DecodedImage
    from joyimage.serving.settings import ServerSettings

_MEASURED = ("PNG", "JPEG", "WEBP")
_OTHERS = ("GIF", "AVIF", "TIFF", "BMP")
_SHOWN = "PNG, JPEG, WebP, GIF, AVIF, HEIC, TIFF or BMP"


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An image file that can be decoded.

    Attributes:
        data: The file.
        size: Width and height in pixels, upright.
        notes: What a user should know, such as an animation of which one frame is used.
    """

    data: bytes
    size: tuple[int, int]
    notes: tuple[str, ...] = ()


class PixelBudget:
    """Bounds the pixels that are decoded at the same time, and so the memory that decoding takes.

    Args:
        most_per_client: Most pixels of one client at a time; a larger image waits until it is the client's only one.
        clients: Number of clients for whom there is room at a time.
    """

    def __init__(self, most_per_client: int, clients: int = 1) -> None:
        self._most_per_client = most_per_client
        self._most = clients * most_per_client
        self._used: Counter[str] = Counter()
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, pixels: int, client: str) -> Iterator[None]:
        """Wait until there is room for a client's image, and keep it until the end of the `with`."""
        pixels = min(pixels, self._most_per_client)

        def has_room() -> bool:
            own = self._used[client] + pixels
            return own <= self._most_per_client and self._used.total() + pixels <= self._most

        with self._changed:
            self._changed.wait_for(has_room)
            self._used[client] += pixels
        try:
            yield
        finally:
            with self._changed:
                self._used[client] -= pixels
                if not self._used[client]:
                    del self._used[client]
                self._changed.notify_all()


def read_upload(
    data: bytes, settings: ServerSettings, budget: PixelBudget, client: str, param: str = "image"
) -> Upload:
    """Reject what is not an image, or too large a one.

    Args:
        data: The file.
        settings: Limits.
        budget: Room for decoded pixels.
        client: Name of the client.
        param: Name of the field, for the error.

    Returns:
        The image.

    Raises:
        UploadError: The file is not an image that can be decoded.
        TooLargeError: The file or its image is too large.
    """
    try:
        size = check(data, f"`{param}`", _limits(settings))
    except ImageError as error:
        rejection = _to_upload_error(error, param)
        raise rejection from None
    # Where the header does not tell the size before the file is opened, it is decoded alone.
    with budget.reserve(settings.max_image_pixels if size is None else size.num_pixels, client):
        decoded = _decode(data, settings, param)
        return Upload(data=data, size=decoded.image.size, notes=decoded.notes)


def open_image(data: bytes, settings: ServerSettings, param: str = "image") -> Image.Image:
    """Decode an image, upright and in sRGB; of an animation, the first frame.

    Raises:
        UploadError: The file is broken, not what its header says, or of another format.
        TooLargeError: The image has too many pixels.
    """
    return _decode(data, settings, param).image


def _decode(data: bytes, settings: ServerSettings, param: str) -> DecodedImage:
    # What was measured must be decoded as that; a header of one format can precede another's data.
    formats = _MEASURED if read_size(data) is not None else ("HEIF",) if is_heif(data) else _OTHERS
    try:
        return decode(data, f"`{param}`", _limits(settings), formats)
    except ImageError as error:
        rejection = _to_upload_error(error, param)
        raise rejection from None


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


def _limits(settings: ServerSettings) -> Limits:
    return Limits(
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_image_pixels,
        max_seconds=settings.max_decode_s,
    )


def _to_upload_error(error: ImageError, param: str) -> UploadError:
    if isinstance(error, ImageTooLargeError):
        return TooLargeError(str(error), code="image_too_large", param=param)
    if isinstance(error, UnknownFormatError):
        return UploadError(
            f"`{param}` is not an image file that is accepted; expected {_SHOWN}.",
            code="invalid_image_format",
            param=param,
        )
    return UploadError(str(error), code="invalid_image", param=param)
