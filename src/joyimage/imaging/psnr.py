"""The one formula of the peak signal-to-noise ratio; what is compared, and where, is each caller's own."""

from __future__ import annotations

import numpy as np


def psnr_of(mean_squared_error: float, *, peak: float, largest: float) -> float:
    """Return a peak signal-to-noise ratio in dB.

    Args:
        mean_squared_error: Mean of the squared differences.
        peak: Largest value that a channel can have, such as 255.
        largest: What is returned at most, and for images that are the same.
    """
    if mean_squared_error == 0:
        return largest
    return min(largest, 10 * float(np.log10(peak**2 / mean_squared_error)))
