"""Find out whether a target is shifted against its reference: a model would learn the shift.

Source: phase correlation, Kuglin and Hines 1975.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A shift counts when moving the target back makes the pair at least this much more alike.
_GAIN = 0.6
# Mean difference of gray values, of 255, up to which images are alike anyway.
_ALIKE = 0.5
# Largest shift, as a share of the side: more is an edit.
_LARGEST_SHARE = 0.1


def find_shift(reference: NDArray[np.uint8], target: NDArray[np.uint8]) -> tuple[int, int] | None:
    """Return by how many pixels a target is moved to the right and down; None where it is not.

    Args:
        reference: Gray image before the edit, `[H, W]`.
        target: Gray image after the edit, `[H, W]`.
    """
    before, after = reference.astype(np.float64), target.astype(np.float64)
    window = np.outer(np.hanning(before.shape[0]), np.hanning(before.shape[1]))
    spectra = [np.fft.rfft2((image - image.mean()) * window) for image in (before, after)]
    cross = spectra[1] * np.conj(spectra[0])
    correlation = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-9), before.shape)
    peak = np.unravel_index(np.argmax(correlation), correlation.shape)
    down, across = (
        int(place) - side if place > side // 2 else int(place)
        for place, side in zip(peak, before.shape, strict=True)
    )
    if (across, down) == (0, 0):
        return None
    if abs(down) > _LARGEST_SHARE * before.shape[0] or abs(across) > _LARGEST_SHARE * before.shape[1]:
        return None
    # The peak alone says little: an edit may outweigh the background.
    plain = np.median(np.abs(after - before)), np.abs(after - before).mean()
    moved = np.abs(_overlap(after, across, down) - _overlap(before, -across, -down))
    if plain[1] <= _ALIKE or moved.mean() > _GAIN * plain[1]:
        return None
    return across, down


def shift_image(image: Image.Image, across: int, down: int) -> Image.Image:
    """Move an image to the right and down; its edges are repeated.

    Args:
        image: RGB image.
        across: Pixels to the right; negative to the left.
        down: Pixels down; negative up.
    """
    margin = max(abs(across), abs(down))
    padded = np.pad(np.asarray(image), ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    top, left = margin - down, margin - across
    return Image.fromarray(padded[top : top + image.height, left : left + image.width])


def _overlap(image: NDArray[np.float64], across: int, down: int) -> NDArray[np.float64]:
    """Return the part of a moved image that overlaps with the one that was not moved."""
    height, width = image.shape
    return image[max(0, down) : height + min(0, down), max(0, across) : width + min(0, across)]
