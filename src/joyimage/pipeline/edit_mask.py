"""Find the pixels that an edit changed, so that all others can stay the source's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageChops, ImageFilter

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The model shifts all colors: by 7 of 255 on the published sample of a move. More is an edit of the light.
_LARGEST_SHIFT = 12
# Share of the image that has to shift alike before the shift counts as the model's: what an edit changes is
# spread over many values.
_SHIFTED_ALIKE = 0.15
# A pixel is edited when it differs by more than this many times the typical difference. Up to `_LEAST` of 255
# is what a VAE does to an unedited image: 99.9 % of the published sample's background. More than `_MOST` is an
# edit in any image, also where all of it was edited and the typical difference is large.
_TYPICAL = 6.0
_LEAST = 16.0
_MOST = 32.0


def edited_mask(result: Image.Image, source: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Find what an edit changed.

    The model shifts all colors a little: that shift is removed first. What then differs by far more than
    pixels typically do was edited, unless it is a speck; the mask reaches a little further and fades out.

    Args:
        result: RGB image after the edit.
        source: RGB image before it, of the same size.

    Returns:
        The mask, 255 where edited, and the result without the model's shift.
    """
    radius = max(1.0, max(source.size) / 512)
    before, after = (
        np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32)
        for image in (source, result)
    )
    difference = after - before
    shift = np.array([_common_shift(difference[..., channel]) for channel in range(3)], dtype=np.float32)
    difference = np.abs(difference - shift).max(axis=2)
    corrected = (np.asarray(result, dtype=np.float32) - shift).round().clip(0, 255).astype(np.uint8)

    unedited = difference[difference < _MOST]
    typical = float(np.median(unedited)) if unedited.size else 0.0
    touched = difference > min(_MOST, max(_LEAST, _TYPICAL * typical))
    mask = Image.fromarray((touched * 255).astype(np.uint8)).filter(ImageFilter.MinFilter(3))
    # Farther out than a VAE's latent of 8 pixels smears an edge.
    mask = mask.filter(ImageFilter.MaxFilter(2 * round(4 * radius) + 3))
    # Blurred outward only: what was edited is taken whole.
    faded = mask.filter(ImageFilter.GaussianBlur(2 * radius))
    return ImageChops.lighter(mask, faded), Image.fromarray(corrected)


def _common_shift(difference: NDArray[Any]) -> float:
    """Return the value that most of a channel differs by; 0 where no small shift is common enough."""
    reach = 2
    edges = np.arange(-_LARGEST_SHIFT - reach - 0.5, _LARGEST_SHIFT + reach + 1)
    counts, _ = np.histogram(difference, bins=edges)
    # Column k: pixels within `reach` of a shift of k - _LARGEST_SHIFT.
    alike = np.convolve(counts, np.ones(2 * reach + 1), mode="valid")
    if alike.max() < _SHIFTED_ALIKE * difference.size:
        return 0.0
    center = int(np.argmax(alike)) - _LARGEST_SHIFT
    return float(difference[np.abs(difference - center) <= reach + 0.5].mean())
