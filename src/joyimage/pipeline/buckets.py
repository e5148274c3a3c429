"""The image sizes that the model was trained at ("buckets")."""

from __future__ import annotations

import functools

from joyimage.errors import InvalidInputError
from joyimage.types import ImageSize

_GENERATED_BASES = (64, 96, 128, 256)
_MULTIPLES = {512: 2, 768: 3, 1024: 4}
BASE_SIZES = (*_GENERATED_BASES, *_MULTIPLES)
_STEP_PX = 16
_LARGEST_RATIO = 4


@functools.cache
def bucket_sizes(base_size: int) -> tuple[ImageSize, ...]:
    """List the buckets of a base size.

    Args:
        base_size: Side of the square bucket in pixels; one of `BASE_SIZES`.

    Returns:
        Sizes from the widest to the tallest.

    Raises:
        InvalidInputError: `base_size` is not one of `BASE_SIZES`.

    Source: JoyAI-Image-Edit (arXiv 2605.04128) generates base 256 and multiplies it for 512, 768 and 1024.
    """
    if base_size not in BASE_SIZES:
        raise InvalidInputError(
            f"`base_size` is {base_size!r}; expected one of {', '.join(map(str, BASE_SIZES))}."
        )
    if base_size in _MULTIPLES:
        factor = _MULTIPLES[base_size]
        return tuple(ImageSize(factor * size.width, factor * size.height) for size in bucket_sizes(256))
    sizes: list[ImageSize] = []
    height, width = base_size * base_size // _STEP_PX, _STEP_PX
    while height >= _STEP_PX:
        if max(height, width) / min(height, width) <= _LARGEST_RATIO:
            sizes.append(ImageSize(width, height))
        if height * (width + _STEP_PX) <= base_size * base_size:
            width += _STEP_PX
        else:
            height -= _STEP_PX
    return tuple(sorted(sizes, key=lambda size: size.rows_columns))


def nearest_bucket(size: ImageSize, base_size: int) -> ImageSize:
    """Return the bucket whose aspect ratio is nearest to that of `size`.

    Args:
        size: Size of an image, or a requested size.
        base_size: Side of the square bucket in pixels; one of `BASE_SIZES`.

    Returns:
        The bucket; of two that are equally near, the wider one.

    Raises:
        InvalidInputError: `base_size` is not one of `BASE_SIZES`.
    """
    ratio = size.height / size.width
    return min(bucket_sizes(base_size), key=lambda bucket: abs(bucket.height / bucket.width - ratio))
