"""The page's own numbers beside what they are held to."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from joyimage.benchmark.page import find_bars, measure_page, to_page_table
from joyimage.errors import InvalidInputError

_FRAMES = {
    "frames_per_second": 59.9,
    "median_ms": 16.7,
    "slowest_5_percent_ms": 16.8,
    "late_frames": 1,
    "num_frames": 180,
}
_GOOD: dict[str, Any] = {
    "first_paint_ms": 300,
    "page_bytes": 150_000,
    "num_files": 60,
    "first_edit_s": 0.6,
    "drag": {"object": _FRAMES, "pan": _FRAMES},
    "selection_ms": 120,
    "lasso": {"changed_outside": 0, "changed_inside": 900, "seconds": 1.0},
    "problems": [],
    "console": [],
}


def test_bars_when_all_is_well_then_all_hold_with_their_numbers() -> None:
    assert all(one.holds for one in find_bars(_GOOD))
    table = to_page_table(_GOOD)
    assert (
        "| drag an object, 12 megapixels | 60 frames per second | 59.9 per second, 1 of 180 late | yes |"
        in table
    )
    assert "| pixels changed outside a lasso | 0 | 0 (900 inside) | yes |" in table


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"first_paint_ms": 1001}, "first paint"),
        ({"first_paint_ms": None}, "first paint"),
        ({"page_bytes": 350_001}, "files of the page, compressed"),
        (
            {"drag": {"object": {**_FRAMES, "frames_per_second": 45.0}, "pan": _FRAMES}},
            "drag an object, 12 megapixels",
        ),
        ({"first_edit_s": 2.1}, "first click to an edited example"),
        ({"selection_ms": 301}, "select an object, 1 megapixel"),
        ({"selection_ms": None}, "select an object, 1 megapixel"),
        ({"lasso": {"changed_outside": 1, "changed_inside": 9}}, "pixels changed outside a lasso"),
        ({"lasso": {"changed_outside": 0, "changed_inside": 0}}, "pixels changed outside a lasso"),
        ({"lasso": None}, "pixels changed outside a lasso"),
        ({"problems": ["TypeError"]}, "messages of the console"),
    ],
)
def test_bars_when_one_number_is_bad_or_missing_then_that_one_does_not_hold(
    change: dict[str, Any], name: str
) -> None:
    bars = find_bars({**copy.deepcopy(_GOOD), **change})

    assert [one.name for one in bars if not one.holds] == [name]


def test_page_when_no_server_is_at_the_address_then_a_clear_error() -> None:
    with pytest.raises(InvalidInputError, match="no joyimage server is ready"):
        measure_page("http://127.0.0.1:9", lambda _: None)
