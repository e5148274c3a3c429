"""The picture sizes that the model makes: lists of (height, width) around one area, per base size."""

import functools

BASE_SIZES = (64, 96, 128, 256, 512, 768, 1024)
"""Sides of the square whose area a list keeps; 1024 is the published checkpoint's."""

_STEP = 16  # pixels of one token: 8 by the VAE, 2 by the patch
_LARGEST_RATIO = 4
_SCALED_FROM = 256


@functools.cache
def buckets(base_size: int) -> tuple[tuple[int, int], ...]:
    """List the sizes of a base size, ordered by height, then width.

    Args:
        base_size: One of `BASE_SIZES`.

    Returns:
        (height, width) pairs in pixels, of at most `base_size` squared pixels and a ratio of at most 4.

    Raises:
        ValueError: Another base size.

    Source: JoyAI-Image-Edit's list for 256, times 2, 3 and 4 for 512, 768 and 1024; the smaller ones follow
    the same rule.
    """
    if base_size not in BASE_SIZES:
        sizes = ", ".join(map(str, BASE_SIZES))
        raise ValueError(f"`base_size` must be one of {sizes}: got {base_size!r}.")
    if base_size > _SCALED_FROM:
        factor = base_size // _SCALED_FROM
        return tuple((height * factor, width * factor) for height, width in buckets(_SCALED_FROM))
    area = base_size**2
    height, width = area // _STEP, _STEP
    found: list[tuple[int, int]] = []
    while height > 0:
        if max(height, width) <= _LARGEST_RATIO * min(height, width):
            found.append((height, width))
        if height * (width + _STEP) <= area:
            width += _STEP
        else:
            height -= _STEP
    return tuple(sorted(found))


def nearest_bucket(height: int, width: int, base_size: int) -> tuple[int, int]:
    """Choose the size whose ratio is nearest to a picture's.

    Args:
        height: In pixels.
        width: In pixels.
        base_size: One of `BASE_SIZES`.

    Returns:
        (height, width) in pixels; of equally near ones the first in the list.
    """
    ratio = height / width
    return min(buckets(base_size), key=lambda size: abs(size[0] / size[1] - ratio))
