"""How Pillow allocates the pixels of images (`PIL.Image.core`, the block allocator of its documentation)."""

from __future__ import annotations

from typing import Any, cast

from PIL import Image

_BLOCK_BYTES = 64 * 2**20
"""More than glibc ever keeps for itself when it is freed (32 MiB); Pillow's own blocks have 16."""


def return_pixels_at_once() -> None:
    """Give the memory of a large image back to the system as soon as it is freed.

    In a process of many threads the allocator keeps blocks of Pillow's own size: half a gigabyte for an image of 64
    megapixels. Programs that choose a size (`PILLOW_BLOCK_SIZE`) above this one keep theirs.
    """
    core = cast("Any", Image).core
    core.set_block_size(max(core.get_block_size(), _BLOCK_BYTES))
