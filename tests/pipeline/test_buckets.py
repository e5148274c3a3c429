"""The sizes that the model makes."""

from __future__ import annotations

import pytest
from diffusers.pipelines.joyimage.image_processor import BUCKETS
from hypothesis import given
from hypothesis import strategies as st

from joyimage.pipeline.buckets import BASE_SIZES, bucket_sizes, nearest_bucket
from joyimage.types import ImageSize

SIDES = st.integers(min_value=1, max_value=20_000)
BASES = st.sampled_from(BASE_SIZES)


def test_bucket_sizes_when_1024_then_the_49_published_ones() -> None:
    assert len(bucket_sizes(1024)) == 49
    assert [size.rows_columns for size in bucket_sizes(1024)] == BUCKETS[1024]


@pytest.mark.parametrize("base_size", BASE_SIZES)
def test_bucket_sizes_when_any_base_then_whole_tokens_of_about_its_area(base_size: int) -> None:
    sizes = [size.rows_columns for size in bucket_sizes(base_size)]

    assert (base_size, base_size) in sizes
    assert sorted(set(sizes)) == sizes
    for height, width in sizes:
        assert height % 16 == width % 16 == 0
        assert max(height, width) <= 4 * min(height, width)
        assert height * width <= base_size**2


@pytest.mark.parametrize("base_size", [0, 100, 1000, 2048, "1024"])
def test_bucket_sizes_when_base_is_unknown_then_rejected(base_size: int) -> None:
    with pytest.raises(ValueError, match="`base_size`"):
        bucket_sizes(base_size)


@given(height=SIDES, width=SIDES, base_size=BASES)
def test_nearest_bucket_when_any_image_then_no_bucket_is_nearer(
    height: int, width: int, base_size: int
) -> None:
    chosen = nearest_bucket(ImageSize(width, height), base_size)

    distances = [abs(size.height / size.width - height / width) for size in bucket_sizes(base_size)]
    assert abs(chosen.height / chosen.width - height / width) == min(distances)


@given(base_size=BASES, data=st.data())
def test_nearest_bucket_when_size_is_a_bucket_then_itself(base_size: int, data: st.DataObject) -> None:
    size = data.draw(st.sampled_from(bucket_sizes(base_size)))

    chosen = nearest_bucket(size, base_size)

    assert chosen.height * size.width == chosen.width * size.height


@given(height=SIDES, width=SIDES)
def test_nearest_bucket_when_base_is_multiplied_then_so_is_the_size(height: int, width: int) -> None:
    size = ImageSize(width, height)
    small = nearest_bucket(size, 256)

    assert nearest_bucket(size, 1024) == ImageSize(4 * small.width, 4 * small.height)
