"""Between ComfyUI's tensors and PIL images.

Dimension key: B images, H rows, W columns. ComfyUI's IMAGE is `[B, H, W, 3]` and its MASK `[B, H, W]`, both in [0, 1].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence


def to_pil(images: torch.Tensor) -> list[Image.Image]:
    """Return the images of an IMAGE, RGB."""
    pixels = (images[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return [Image.fromarray(one) for one in pixels]


def to_tensor(images: Sequence[Image.Image]) -> torch.Tensor:
    """Return images of one size as an IMAGE."""
    return torch.from_numpy(np.stack([np.asarray(one.convert("RGB")) for one in images])).float() / 255


def to_region(mask: torch.Tensor | None, number: int) -> Image.Image | None:
    """Return the region of an image, 255 where a MASK is more than half set.

    Args:
        mask: One mask for all images, or one each; None where all may change.
        number: Number of the image.
    """
    if mask is None:
        return None
    one = mask if mask.ndim == 2 else mask[min(number, len(mask) - 1)]
    return Image.fromarray(((one > 0.5).to(torch.uint8) * 255).cpu().numpy())


def to_mask(masks: Sequence[Image.Image]) -> torch.Tensor:
    """Return gray images as a MASK."""
    return torch.from_numpy(np.stack([np.asarray(one.convert("L")) for one in masks])).float() / 255
