"""The region that an edit may change: a box or a mask, and its soft edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image, ImageChops, ImageFilter

from joyimage.advice import collect_advice
from joyimage.errors import InvalidInputError
from joyimage.imaging.pixels import to_8_bit
from joyimage.spatial.box import resolve_box
from joyimage.types import ImageSize

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from joyimage.spatial.box import Box

EDGE_PX = 12
"""Pixels per 1024 of the longer side over which the edge of a region, or of what was cropped, is blended."""

_AROUND = 0.25  # of the region's longer side, at each side: what the model needs to see of what is around it
_MOST_ENLARGED = 4.0


def region_mask(region: Any, size: ImageSize) -> Image.Image:
    """Return a region as a mask of an image's size, 255 inside.

    Args:
        region: A box (left, top, right, bottom) in pixels or fractions, or a mask: PIL image, array or tensor
            `[H, W]`.
        size: Size of the image.

    Raises:
        InvalidInputError: The region is neither a box nor a mask of that size.
    """
    if isinstance(region, torch.Tensor):
        region = region.detach().cpu().numpy()
    if isinstance(region, np.ndarray) and region.ndim == 1:
        region = cast("NDArray[Any]", region).tolist()  # a box, as detectors return it
    if isinstance(region, (Image.Image, np.ndarray)):
        mask = (
            to_8_bit(region, "region")
            if isinstance(region, Image.Image)
            else Image.fromarray(_to_bytes(cast("NDArray[Any]", region)))
        )
        if ImageSize.of(mask) != size:
            raise InvalidInputError(
                f"`region` is a mask of {ImageSize.of(mask)} pixels; expected {size}, the size of the image."
            )
        return mask.convert("L")
    if not isinstance(region, Sequence):
        raise InvalidInputError(
            f"`region` is of type {type(region).__name__}; expected a box of four numbers or a mask."
        )
    with collect_advice():  # on a small box, which concerns moves
        try:
            box = resolve_box(cast("Sequence[float]", region), size.pil)
        except ValueError as error:
            raise InvalidInputError(str(error).replace("`box`", "`region`")) from None
    mask = Image.new("L", size.pil)
    mask.paste(255, box)
    return mask


def soften_region(mask: Image.Image, feather: float | None = None) -> Image.Image:
    """Soften the edge of a hard mask inward, so that nothing outside changes; a mask with gray levels stays.

    Args:
        mask: 255 inside.
        feather: Width of the edge in pixels; None: `EDGE_PX` per 1024 of the longer side. A thin region is
            softened less.
    """
    if feather == 0 or sum(mask.histogram()[1:255]):
        return mask
    inside = np.asarray(mask) > 0
    inner = np.asarray(mask.filter(ImageFilter.MinFilter(3))) > 0
    outline = max(1, int((inside & ~inner).sum()))
    # Twice the area over the outline's length is a strip's width: a thin region keeps its middle.
    thickness = 2 * int(inside.sum()) / outline
    reach = min(EDGE_PX * max(mask.size) / 1024 if feather is None else feather, thickness / 4)
    blurred = mask.filter(ImageFilter.BoxBlur(reach))
    # Half of it at a straight edge, all of it `reach` inside.
    return ImageChops.darker(mask, blurred.point([max(0, 2 * value - 255) for value in range(256)]))


def close_up_window(mask: Image.Image, target: ImageSize | None = None) -> Box:
    """Return the part of an image that shows a region and what is around it.

    Args:
        mask: The region, 255 inside, of the image's size.
        target: Size at which the model will see it: the window gets its aspect ratio where the image has room, and
            is never enlarged more than `_MOST_ENLARGED` times.

    Raises:
        InvalidInputError: The region is empty.
    """
    inside = mask.getbbox()
    if inside is None:
        raise InvalidInputError("`region` is empty, so nothing could be edited; give one that holds pixels.")
    margin = _AROUND * max(inside[2] - inside[0], inside[3] - inside[1])
    width, height = (inside[2] - inside[0] + 2 * margin, inside[3] - inside[1] + 2 * margin)
    if target is not None:
        width = max(width, height * target.width / target.height, target.width / _MOST_ENLARGED)
        height = width * target.height / target.width
    left, right = _span(inside[0], inside[2], width, mask.width)
    top, bottom = _span(inside[1], inside[3], height, mask.height)
    return left, top, right, bottom


def _span(start: int, end: int, length: float, most: int) -> tuple[int, int]:
    """Return a span of a length around another one, inside 0 to `most`."""
    whole = min(most, max(end - start, round(length)))
    first = min(max(0, round((start + end - whole) / 2)), most - whole)
    return first, first + whole


def _to_bytes(mask: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an array `[H, W]` as 8-bit; other types are 255 where they exceed 0.5.

    Raises:
        InvalidInputError: The array is not two-dimensional, or holds no finite numbers.
    """
    if mask.ndim != 2:
        raise InvalidInputError(f"`region` is an array of shape {list(mask.shape)}; expected [H, W].")
    if mask.dtype.kind not in "buif" or not np.isfinite(mask).all():
        raise InvalidInputError(
            f"`region` is an array of {mask.dtype} with values that are no finite numbers; expected a mask."
        )
    return mask if mask.dtype == np.uint8 else ((np.asarray(mask) > 0.5) * 255).astype(np.uint8)
