"""Numbers that compare an image with the truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from joyimage.imaging.psnr import psnr_of

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_LARGEST_PSNR = 60.0


def psnr(a: Pixels, b: Pixels, mask: Mask | None = None) -> float:
    """Return the peak signal-to-noise ratio of two 8-bit images, inside `mask` if given, in dB up to 60."""
    difference = a.astype(np.float64) - b
    if mask is not None:
        difference = difference[mask]
    error = float(np.mean(difference**2)) if difference.size else 0.0
    return psnr_of(error, peak=255, largest=_LARGEST_PSNR)


def sharpness(image: Pixels, target: Pixels) -> float | None:
    """Return the gradient energy of an image as a share of its target's; None for a target of one color.

    The energy is the sum of squared differences between neighboring pixels. Blur takes it away; PSNR hardly notices.
    """
    energies = [
        sum(float(np.square(np.diff(pixels.astype(np.float64), axis=axis)).sum()) for axis in (0, 1))
        for pixels in (image, target)
    ]
    return energies[0] / energies[1] if energies[1] else None


def intersection_over_union(a: Mask, b: Mask) -> float:
    """Return the intersection over union of two masks, 0 where both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 0.0
