"""What the first bytes of an image file tell, without a decoder: its size, and whether it is HEIC."""

from __future__ import annotations

import struct

from joyimage.types import ImageSize

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_FRAME_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG's "start of frame" of each kind


def is_heif(content: bytes) -> bool:
    """Return whether a file is HEIC or another HEIF image that Pillow cannot read by itself."""
    return content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS


def read_size(content: bytes) -> ImageSize | None:
    """Read the size, not yet upright, from a file's header.

    Args:
        content: The file.

    Returns:
        The size; None where the file is not a PNG, JPEG or WebP, or claims to have no pixels.
    """
    size = None
    if content[:8] == b"\x89PNG\r\n\x1a\n" and content[12:16] == b"IHDR" and len(content) >= 24:
        size = struct.unpack(">II", content[16:24])
    elif content[:2] == b"\xff\xd8":
        size = _read_jpeg(content)
    elif content[:4] == b"RIFF" and content[8:12] == b"WEBP" and len(content) >= 30:
        size = _read_webp(content)
    return None if size is None or min(size) < 1 else ImageSize(*size)


def _read_jpeg(content: bytes) -> tuple[int, int] | None:
    """Return the largest size that any frame of the file has."""
    place, found = 2, None
    while place + 9 <= len(content):
        if content[place] != 0xFF:
            break
        marker = content[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        if marker in _FRAME_MARKERS:
            height, width = struct.unpack(">HH", content[place + 5 : place + 9])
            found = max(found or (0, 0), (width, height), key=lambda size: size[0] * size[1])
        if marker == 0xDA:  # the pixels begin
            break
        place += (
            2
            if marker in {0x01, *range(0xD0, 0xD9)}
            else 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        )
    return found


def _read_webp(content: bytes) -> tuple[int, int] | None:
    kind = content[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(content[24:27], "little"), 1 + int.from_bytes(content[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", content[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None
