"""Coordinates between an image and its target: exact both ways, for every fit."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joyimage.spatial.frame import Placement, exact_size

sides = st.integers(17, 3000)
target_sides = st.integers(2, 128).map(lambda n: 16 * n)
fits = st.sampled_from([Placement.crop, Placement.pad, Placement.exact])


@given(
    width=sides,
    height=sides,
    target=st.tuples(target_sides, target_sides),
    make=fits,
    box=st.tuples(*[st.floats(-50, 3000)] * 4),
)
def test_box_when_carried_there_and_back_then_the_same(width, height, target, make, box) -> None:
    placement = make((width, height), target)

    back = placement.to_original(placement.to_target(box))

    assert back == pytest.approx(box, abs=1e-6)


@given(width=sides, height=sides, target=st.tuples(target_sides, target_sides), make=fits)
def test_placement_when_made_then_the_target_is_covered_or_the_image_whole(
    width, height, target, make
) -> None:
    placement = make((width, height), target)

    left, top, right, bottom = placement.in_target
    kept = placement.visible
    assert 0 <= left < right <= target[0]
    assert 0 <= top < bottom <= target[1]
    if make == Placement.pad:
        assert kept == (0, 0, width, height)
        assert right - left == target[0] or bottom - top == target[1]
        assert not placement.cuts((0, 0, width, height))
    else:
        assert (left, top, right, bottom) == (0, 0, *target)
    inner = placement.to_target(kept)
    assert inner[0] >= left - 1e-3
    assert inner[1] >= top - 1e-3
    assert inner[2] <= right + 1e-3
    assert inner[3] <= bottom + 1e-3


def test_crop_when_published_sample_then_31_columns_are_lost() -> None:
    placement = Placement.crop((1274, 1160), (1024, 960))

    assert placement.scaled == (1055, 960)
    assert placement.scaled[0] - placement.target[0] == 31
    assert placement.cuts((0, 100, 200, 400))
    assert not placement.cuts((40, 100, 200, 400))


@given(width=sides, height=sides, base=st.sampled_from([64, 96, 128, 256, 512, 768, 1024]))
def test_exact_size_when_any_image_then_multiples_of_16_near_the_base_s_area(width, height, base) -> None:
    own_width, own_height = exact_size((width, height), base)

    ideal = base * math.sqrt(width / height), base / math.sqrt(width / height)
    for side, wanted in zip((own_width, own_height), ideal, strict=True):
        assert side % 16 == 0
        assert side == 16 or abs(side - wanted) < 16
