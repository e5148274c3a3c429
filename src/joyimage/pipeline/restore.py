"""Map a result back onto the caller's image: its own size, soft borders, and transparency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from joyimage.imaging.pixels import srgb, to_8_bit, upright
from joyimage.pipeline.region import EDGE_PX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from joyimage.spatial.box import Box
    from joyimage.spatial.frame import Placement
    from joyimage.types import ImageSize

# A border this thin, in pixels of the target size, is rounding: the result's edge is extended over it.
_ROUNDING_PX = 1.5
_TRANSPARENT_MODES = {"RGBA", "LA", "PA", "La", "RGBa"}


def layer_of(image: Any) -> Image.Image | None:
    """Return a PIL image with its transparency, upright RGBA; None where it has none."""
    if not isinstance(image, Image.Image):
        return None
    if image.mode not in _TRANSPARENT_MODES and "transparency" not in image.info:
        return None
    return srgb(to_8_bit(upright(image)))[0].convert("RGBA")


def map_back(
    visible: Image.Image, placement: Placement, resampling: Image.Resampling
) -> tuple[Image.Image, Box]:
    """Scale what is visible at the target size back to the pixels of the caller's image.

    Returns:
        The part, and where it lies on the image: the pixels that are wholly visible, or up to the image's edge
        where only rounding was cropped.
    """
    width, height = placement.original
    whole = placement.to_target((0, 0, width, height))
    edges = placement.in_target
    x0, y0, x1, y1 = (
        end if abs(full - seen) < _ROUNDING_PX else own
        for end, full, seen, own in zip((0, 0, width, height), whole, edges, placement.visible, strict=True)
    )
    margin = 2  # room for the rounding: the border's pixels are repeated
    pixels = np.asarray(visible)
    widened = np.pad(pixels, [(margin, margin)] * 2 + [(0, 0)] * (pixels.ndim - 2), mode="edge")
    left, top, right, bottom = placement.to_target((x0, y0, x1, y1))
    box = (
        left - edges[0] + margin,
        top - edges[1] + margin,
        right - edges[0] + margin,
        bottom - edges[1] + margin,
    )
    part = Image.fromarray(widened).resize((x1 - x0, y1 - y0), resampling, box=box)
    return part, (x0, y0, x1, y1)


def border_mask(kept: Box, size: ImageSize) -> Image.Image:
    """Return a mask of a size: 255 on a part of the image, falling to 0 toward what was cropped."""
    seam = max(2, round(EDGE_PX * max(size.pil) / 1024))
    left, top, right, bottom = kept
    across = _ramp(right - left, seam if left > 0 else 0, seam if right < size.width else 0)
    down = _ramp(bottom - top, seam if top > 0 else 0, seam if bottom < size.height else 0)
    mask = Image.new("L", size.pil)
    ramps = 255 * np.minimum(down[:, None], across)
    mask.paste(Image.fromarray(ramps.round().astype(np.uint8)), kept[:2])
    return mask


def _ramp(length: int, start: int, stop: int) -> NDArray[np.float64]:
    """Return weights that rise over the first pixels and fall over the last."""
    weights = np.ones(length)
    place = np.arange(length)
    if start:
        weights = np.minimum(weights, (place + 1) / (start + 1))
    if stop:
        weights = np.minimum(weights, (length - place) / (stop + 1))
    return weights


def add_transparency(image: Image.Image, layer: Image.Image) -> Image.Image:
    """Give an image on white the transparency of a layer, so that on white it looks the same again."""
    opacity = np.asarray(layer.getchannel("A"), dtype=np.float32)[..., None] / 255
    on_white = np.asarray(image, dtype=np.float32)
    color = 255 - (255 - on_white) / np.maximum(opacity, 1 / 255)
    transparent = Image.fromarray(color.round().clip(0, 255).astype(np.uint8))
    transparent.putalpha(layer.getchannel("A"))
    return transparent
