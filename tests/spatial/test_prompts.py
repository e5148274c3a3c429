"""The three templates to the letter, in both styles, and back."""

from __future__ import annotations

import math
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from joyimage.spatial import CameraMove, ObjectMove, ObjectRotation, View, draw_red_box, parse

BOX = (10, 20, 40, 60)
IMAGE = Image.new("RGB", (200, 160), "white")
CAMERA = """Move the camera.
- Camera rotation: Yaw 45°, Pitch -15°.
- Camera zoom: in.
- Keep the 3D scene static; only change the viewpoint."""

names = st.from_regex(r"[a-z]{2,8}( [a-z]{2,8}){0,2}", fullmatch=True).filter(
    lambda name: (
        name.split()[0] not in {"the", "a", "an"}
        and "into the red box" not in name
        and "to show the" not in name
    )
)
yaws = st.sampled_from(range(-135, 181, 45))
pitches = st.sampled_from(range(-75, 76, 15))


@pytest.mark.parametrize(
    ("edit", "documented", "benchmark"),
    [
        (
            ObjectMove("the blue car", BOX),
            "Move the blue car into the red box and finally remove the red box.",
            "Move the blue car into the red box and finally remove the red box.",
        ),
        (
            ObjectMove("a car", BOX),
            "Move the car into the red box and finally remove the red box.",
            "Move a car into the red box and finally remove the red box.",
        ),
        (
            ObjectRotation("chair", "rear left"),
            "Rotate the chair to show the rear left side view.",
            "Rotate chair to show the rear left side view.",
        ),
        (
            ObjectRotation("The chair", View.FRONT),
            "Rotate the chair to show the front side view.",
            "Rotate The chair to show the front view.",
        ),
        (CameraMove(45, -15, "in"), CAMERA, CAMERA.replace("45", "45.0").replace("15", "15.0")),
    ],
)
def test_prompt_when_worded_then_to_the_letter(
    edit: ObjectMove | ObjectRotation | CameraMove, documented: str, benchmark: str
) -> None:
    assert edit.prompt == edit.prompt_in("documented") == documented
    assert edit.prompt_in("benchmark") == benchmark
    with pytest.raises(ValueError, match="`style` is 'loud'"):
        edit.prompt_in("loud")


@given(name=names, view=st.sampled_from(View), style=st.sampled_from(["documented", "benchmark"]))
def test_rotation_when_parsed_back_then_the_same(name: str, view: View, style: str) -> None:
    edit = ObjectRotation(name, view)

    assert parse(edit.prompt_in(style)) == edit


@given(
    yaw=yaws,
    pitch=pitches,
    zoom=st.sampled_from(["in", "out", "unchanged"]),
    style=st.sampled_from(["documented", "benchmark"]),
)
def test_camera_when_parsed_back_then_the_same(yaw: int, pitch: int, zoom: str, style: str) -> None:
    edit = CameraMove(yaw, pitch, zoom)

    assert parse(edit.prompt_in(style)) == edit


@given(
    name=names,
    left=st.integers(0, 150),
    top=st.integers(0, 110),
    width=st.integers(10, 50),
    height=st.integers(10, 50),
)
def test_move_when_parsed_back_then_the_same_object_and_box(
    name: str, left: int, top: int, width: int, height: int
) -> None:
    edit = ObjectMove(name, (left, top, left + width, top + height))
    assert edit.box is not None

    assert parse(edit.prompt, draw_red_box(IMAGE, edit.box)) == edit
    assert parse(edit.prompt) == ObjectMove(name, None)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("Move the car into the red box.", "'Move the <object> into the red box and finally"),
        ("move the car into the red box and finally remove the red box.", "'Move the <object>"),
        ("Rotate the car to show the upper side view.", "'upper'"),
        ("Rotate the car to show the left view.", "'the left side view'"),
        ("Turn the car to its left side.", "'Rotate the <object>"),
        (CAMERA.replace("in.", "closer."), "'closer'"),
        (CAMERA.replace("45°", "45 degrees"), "Yaw 45 degrees"),
        (CAMERA + "\n", "5 lines"),
        (CAMERA.rpartition("\n")[0], "Keep the 3D scene static"),
        (CAMERA.replace("static", "fixed"), "fixed"),
    ],
)
def test_parse_when_nearly_a_template_then_says_what_is_wrong(prompt: str, words: str) -> None:
    with pytest.raises(ValueError, match="`prompt`") as raised:
        parse(prompt)

    assert words in str(raised.value)


def test_parse_when_no_red_box_in_the_image_then_says_so() -> None:
    with pytest.raises(ValueError, match="no red box"):
        parse(ObjectMove("car", BOX).prompt, IMAGE)


@pytest.mark.parametrize(
    "prompt", ["", "Add wings to the astronaut.", "Move the car to the left.", "Recolor the box red."]
)
def test_parse_when_any_other_prompt_then_none(prompt: str) -> None:
    assert parse(prompt, IMAGE) is None


@pytest.mark.parametrize("spelling", ["rear-left", "REAR_LEFT", "back left", "Rear Left", View.REAR_LEFT])
def test_view_when_spelt_otherwise_then_understood(spelling: str) -> None:
    assert ObjectRotation("car", spelling).view is View.REAR_LEFT


def test_headings_when_listed_then_45_degrees_apart_from_right() -> None:
    assert [view.heading for view in View] == list(range(0, 360, 45))
    assert View("front").heading == 90


@pytest.mark.parametrize(
    "make",
    [
        lambda: ObjectMove("", BOX),
        lambda: ObjectMove("the", BOX),
        lambda: ObjectMove("car\ntruck", BOX),
        lambda: ObjectMove("car", (10, 10, 10, 40)),
        lambda: ObjectRotation("car", "upper"),
        lambda: ObjectRotation(" ", "left"),
        lambda: CameraMove(math.nan),
        lambda: CameraMove(pitch=math.inf),
        lambda: CameraMove(zoom="closer"),
    ],
)
def test_edit_when_it_can_not_be_then_rejected_on_construction(make: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=r"`(object|box|view|yaw|pitch|zoom)` is .*; expected"):
        make()


def test_camera_when_off_the_trained_grid_then_warns() -> None:
    with pytest.warns(UserWarning, match="not on the trained grid"):
        CameraMove(30, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CameraMove(-135, 75)
        parse(CAMERA.replace("45", "31"))
