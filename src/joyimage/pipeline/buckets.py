"""The picture sizes that the model was trained at."""

from __future__ import annotations

import functools

from joyimage.errors import InvalidInputError

_GENERATED_BASES = (64, 96, 128, 256)
_MULTIPLES = {512: 2, 768: 3, 1024: 4}
BASE_SIZES = (*_GENERATED_BASES, *_MULTIPLES)
_STEP = 16
_LARGEST_RATIO = 4


@functools.cache
def bucket_sizes(base_size: int) -> tuple[tuple[int, int], ...]:
    """List the sizes (height, width) of a base.

    Args:
        base_size: Side of the square size in pixels; one of `BASE_SIZES`.

    Returns:
        Sizes from wide to tall.

    Raises:
        InvalidInputError: There is no such base.

    Source: JoyAI-Image-Edit (arXiv 2605.04128) generates base 256 and multiplies it for 512, 768 and 1024.
    """
    if base_size not in BASE_SIZES:
        raise InvalidInputError(
            f"`base_size` is {base_size!r}; expected one of {', '.join(map(str, BASE_SIZES))}."
        )
    if base_size in _MULTIPLES:
        factor = _MULTIPLES[base_size]
        return tuple((factor * height, factor * width) for height, width in bucket_sizes(256))
    sizes = []
    height, width = base_size * base_size // _STEP, _STEP
    while height >= _STEP:
        if max(height, width) / min(height, width) <= _LARGEST_RATIO:
            sizes.append((height, width))
        if height * (width + _STEP) <= base_size * base_size:
            width += _STEP
        else:
            height -= _STEP
    return tuple(sorted(sizes))


def nearest_bucket(height: int, width: int, base_size: int) -> tuple[int, int]:
    """Return the size (height, width) whose height/width is nearest to the given one's."""
    ratio = height / width
    return min(bucket_sizes(base_size), key=lambda size: abs(size[0] / size[1] - ratio))
