"""PNG files whose pixels are sound although what stands beside them is not."""

from __future__ import annotations

import struct
import zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXT = (b"tEXt", b"zTXt", b"iTXt")


def strip_text(content: bytes) -> bytes | None:
    """Return a PNG without its text and without damaged chunks that no pixel needs.

    Args:
        content: The file.

    Returns:
        The rest of the file; None where nothing was left out, or the file is not a PNG.
    """
    if not content.startswith(_SIGNATURE):
        return None
    kept, place = [_SIGNATURE], len(_SIGNATURE)
    while place + 12 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        end = place + 12 + length
        chunk = content[place:end]
        is_needed = not chunk[4] & 0x20  # the case of the first letter
        if is_needed or (chunk[4:8] not in _TEXT and _is_whole(chunk)):
            kept.append(chunk)
        place = end
    kept.append(content[place:])
    stripped = b"".join(kept)
    return stripped if len(stripped) < len(content) else None


def _is_whole(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
