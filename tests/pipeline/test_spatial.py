"""move, rotate and camera: the right words, the box in the right place, the checkpoint's own settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from joyimage.pipeline.images import fit_to_size
from joyimage.pipeline.spatial import _through_crop
from joyimage.spatial import CameraMove, ObjectRotation, find_red_boxes
from tests import tiny

PICTURE = tiny.make_picture(0, 120, 100).point(lambda value: value // 2)  # no red as pure as the box's


@pytest.fixture(scope="module")
def pipe() -> Any:
    pipe = tiny.make_pipeline()
    pipe.register_to_config(base_size=96, default_num_inference_steps=1, default_guidance_scale=1.0)
    return pipe


def calls_of(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Note what the pipeline is called with."""
    calls: list[dict[str, Any]] = []
    plain = type(pipe).__call__

    def note(self: Any, **arguments: Any) -> Any:
        calls.append(arguments)
        return plain(self, **arguments)

    monkeypatch.setattr(type(pipe), "__call__", note)
    return calls


def test_move_when_called_then_box_is_drawn_on_the_fitted_picture(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = calls_of(pipe, monkeypatch)

    output = pipe.move(PICTURE, "the car", (20, 30, 60, 90), generator=torch.Generator().manual_seed(0))

    (call,) = calls
    (given_picture,) = call["image"]
    assert call["prompt"] == output.prompt == "Move the car into the red box and finally remove the red box."
    assert (call["num_inference_steps"], call["guidance_scale"]) == (1, 1.0)
    assert given_picture.size == output.images[0].size == (output.width, output.height)
    (box,) = find_red_boxes(given_picture)
    scale = max(output.width / 100, output.height / 120)
    expected = (20 * scale, 30 * scale, 60 * scale, 90 * scale)
    assert np.abs(np.subtract(box, expected)).max() <= 8
    (checks,) = output.checks
    assert checks.box_changed is not None
    assert checks.summary


def test_rotate_and_camera_when_called_then_trained_words_and_own_settings_win(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = calls_of(pipe, monkeypatch)

    pipe.rotate(PICTURE, "car", "rear-left", num_inference_steps=2)
    pipe.camera(PICTURE, yaw=45, style="benchmark")

    assert calls[0]["prompt"] == ObjectRotation("car", "rear left").prompt
    assert calls[0]["num_inference_steps"] == 2
    assert calls[1]["prompt"] == CameraMove(45).prompt_in("benchmark")


def test_edits_when_chained_then_each_takes_the_last_ones_result(pipe: Any) -> None:
    first = pipe.move(PICTURE, "car", (0.2, 0.2, 0.7, 0.8)).images[0]
    second = pipe.rotate(first, "car", "left").images[0]
    third = pipe.camera(second, yaw=-45)

    assert third.images[0].size == second.size == first.size
    assert third.checks[0].box_changed is None


def test_plus_when_called_then_the_picture_is_its_only_reference() -> None:
    pipe: Any = tiny.make_plus_pipeline()
    pipe.register_to_config(base_size=64, default_num_inference_steps=1, default_guidance_scale=1.0)

    output = pipe.move(PICTURE, "car", (20, 30, 60, 90))

    assert output.images[0].size == (output.width, output.height)


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        ("move", (PICTURE, "car", (20, 30, 160, 90)), "inside the picture"),
        ("move", (PICTURE, "", (20, 30, 60, 90)), "`object`"),
        ("move", ([PICTURE] * 2, "car", (20, 30, 60, 90)), "2 pictures"),
        ("move", (Image.new("RGB", (400, 97)), "car", (0, 10, 40, 60)), "the crop"),
        ("rotate", (PICTURE, "car", "upper"), "`view`"),
        ("camera", (PICTURE, float("nan")), "`yaw`"),
        ("camera", ("picture.png", 45), "`image`"),
    ],
)
def test_spatial_edit_when_an_argument_is_wrong_then_refused(
    pipe: Any, method: str, arguments: tuple[Any, ...], words: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        getattr(pipe, method)(*arguments)


def test_spatial_edit_when_a_tuple_is_asked_for_then_refused(pipe: Any) -> None:
    with pytest.raises(ValueError, match="`return_dict`"):
        pipe.camera(PICTURE, yaw=45, return_dict=False)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(60, 500),
    height=st.integers(60, 500),
    place=st.tuples(*[st.floats(0.3, 0.7)] * 2),
    size=st.sampled_from([(96, 96), (64, 144), (144, 64), (80, 112)]),
)
def test_box_when_carried_through_scale_and_crop_then_on_the_same_content(
    width: int, height: int, place: tuple[float, float], size: tuple[int, int]
) -> None:
    """A white block on black comes out where the box says, to the pixel that scaling blurs."""
    left, top = int(place[0] * width), int(place[1] * height)
    box = (left, top, min(width, left + width // 6), min(height, top + height // 6))
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    picture = Image.fromarray(pixels)
    try:
        placed = _through_crop(box, picture, size)
    except ValueError:
        return

    bright = np.asarray(fit_to_size(picture, *size).convert("L")) > 127

    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert np.abs(np.subtract(found, placed)).max() <= 1
