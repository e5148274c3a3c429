"""Boxes in every form, the red box in an image, and what a move did."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from joyimage.spatial import draw_red_box, find_red_boxes, resolve_box
from joyimage.spatial.box import intersection_over_union
from joyimage.spatial.checks import check_edit
from joyimage.spatial.move import line_width
from joyimage.tiny.worlds.scenes import generate

SIZE = (400, 300)


@st.composite
def boxes(draw: st.DrawFn, smallest: int = 10) -> tuple[int, int, int, int]:
    left = draw(st.integers(0, SIZE[0] - smallest))
    top = draw(st.integers(0, SIZE[1] - smallest))
    return left, top, draw(st.integers(left + smallest, SIZE[0])), draw(st.integers(top + smallest, SIZE[1]))


@given(box=boxes())
def test_box_when_given_in_other_forms_then_the_same_pixels(box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    width, height = SIZE
    fractions = (left / width, top / height, right / width, bottom / height)

    assert resolve_box(box, SIZE) == box
    assert resolve_box((left, top, right - left, bottom - top), SIZE, "xywh") == box
    assert resolve_box(fractions, SIZE) == box
    assert (
        resolve_box((*fractions[:2], fractions[2] - fractions[0], fractions[3] - fractions[1]), SIZE, "xywh")
        == box
    )


@pytest.mark.parametrize(
    ("box", "form"),
    [
        ((1, 2, 3), "xyxy"),
        ((10, 10, float("nan"), 40), "xyxy"),
        ((40, 10, 10, 40), "xyxy"),
        ((10, 10, 401, 40), "xyxy"),
        ((-1, 10, 50, 40), "xyxy"),
        ((10, 10, 0, 40), "xywh"),
        ((300, 10, 200, 40), "xywh"),
        ((10, 10, 40, 40), "cxcywh"),
    ],
)
def test_box_when_it_can_not_be_then_rejected(box: tuple[float, ...], form: str) -> None:
    with pytest.raises(ValueError, match=r"`(box|form)` is .*; expected"):
        resolve_box(box, SIZE, form)


def test_box_when_a_side_is_tiny_then_warns() -> None:
    with pytest.warns(UserWarning, match="side under 2%"):
        resolve_box((10, 10, 15, 100), SIZE)


@given(box=boxes(smallest=12), background=st.sampled_from(["white", "black", "#4080c0", "#909090"]))
def test_red_box_when_drawn_then_found_again(box: tuple[int, int, int, int], background: str) -> None:
    image = draw_red_box(Image.new("RGB", SIZE, background), box)

    assert find_red_boxes(image) == [box]


@pytest.mark.parametrize("color", ["yellow", "orange", "magenta", "pink", "maroon", "#b40000"])
def test_frame_when_of_another_color_then_not_found(color: str) -> None:
    image = Image.new("RGB", SIZE, "white")
    ImageDraw.Draw(image).rectangle((20, 120, 120, 220), outline=color, width=4)

    assert find_red_boxes(image) == []


def test_red_things_when_no_frames_then_not_found() -> None:
    image = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((10, 10, 80, 80), fill="red")
    pen.ellipse((100, 10, 180, 80), outline="red", width=4)
    pen.line((200, 10, 380, 250), fill="red", width=5)
    pen.rectangle((20, 120, 120, 220), outline="red", width=4)
    pen.rectangle((50, 118, 90, 126), fill="white")  # a gap in its upper side

    assert find_red_boxes(image) == []


@pytest.mark.parametrize(
    ("size", "width"), [((64, 64), 2), ((512, 384), 2), ((1024, 768), 4), ((1024, 1024), 4)]
)
def test_line_when_drawn_then_as_wide_as_trained(size: tuple[int, int], width: int) -> None:
    image = np.asarray(draw_red_box(Image.new("RGB", size), (10, 10, 50, 50)))

    row = image[30]
    assert line_width(size) == width
    assert (row[10 : 10 + width] == (255, 0, 0)).all()
    assert (row[10 + width] == 0).all()
    assert (row[9] == 0).all()


@given(first=boxes(), second=boxes())
def test_overlap_when_any_boxes_then_symmetric_and_one_for_the_same(
    first: tuple[int, int, int, int], second: tuple[int, int, int, int]
) -> None:
    overlap = intersection_over_union(first, second)

    assert 0 <= overlap <= 1
    assert overlap == intersection_over_union(second, first)
    assert intersection_over_union(first, first) == 1


@pytest.mark.parametrize("seed", range(910_000, 910_012))
def test_checks_when_a_move_is_right_then_no_problem_and_each_failure_is_named(seed: int) -> None:
    case = generate("move", seed)
    given_image, target = case.source_image, case.target_image
    assert given_image is not None
    (box,) = find_red_boxes(given_image)
    before = erase_box(given_image, target, box)

    right = check_edit(before, target, box)
    kept = check_edit(before, given_image, box)
    copied = check_edit(before, before, box)
    doubled_pixels = np.array(before)
    left, top, right_side, bottom = box
    doubled_pixels[top:bottom, left:right_side] = np.asarray(target)[top:bottom, left:right_side]
    doubled = check_edit(before, Image.fromarray(doubled_pixels), box)

    assert right.problems == []
    assert any("red box" in problem for problem in kept.problems)
    assert any("may not have arrived" in problem for problem in kept.problems)
    assert copied.problems == ["nothing changed"]
    assert any("still be in its old place" in problem for problem in doubled.problems)
    assert (copied.changed, copied.vacated) == (0, None)
    assert "not judged" in right.summary


def erase_box(given_image: Image.Image, target: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Put the background, which is plain, where the red line is."""
    pixels = np.array(given_image)
    background = np.asarray(target)[0, 0]
    left, top, right, bottom = box
    line = np.zeros(pixels.shape[:2], bool)
    line[top:bottom, left:right] = True
    width = line_width(given_image.size)
    line[top + width : bottom - width, left + width : right - width] = False
    pixels[line] = background
    return Image.fromarray(pixels)


def test_checks_when_everything_changed_then_said() -> None:
    before, after = Image.new("RGB", SIZE, "white"), Image.new("RGB", SIZE, "black")

    checks = check_edit(before, after, (10, 10, 50, 50))

    assert "100% of the image outside the box changed" in checks.summary
    assert check_edit(before, before).summary == "nothing changed."
    with pytest.raises(ValueError, match="`after`"):
        check_edit(before, after.resize((10, 10)))
