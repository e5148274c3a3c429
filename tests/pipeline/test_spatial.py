"""move, rotate and camera: the right words, the box in the right place, the checkpoint's own settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from joyimage.spatial import CameraMove, ObjectMove, ObjectRotation, find_red_boxes
from tests import random_models

HALVED = [value // 2 for value in range(256)] * 3
IMAGE = random_models.make_image(0, 120, 100).point(HALVED)  # no red as pure as the box's


@pytest.fixture(scope="module")
def pipe() -> Any:
    pipe = random_models.make_pipeline()
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


def test_move_when_called_then_box_is_drawn_on_the_fitted_image(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = calls_of(pipe, monkeypatch)

    output = pipe.move(IMAGE, "the car", (20, 30, 60, 90), generator=torch.Generator().manual_seed(0))

    (call,) = calls
    (given_image,) = call["image"]
    assert call["prompt"] == output.prompt == "Move the car into the red box and finally remove the red box."
    assert (pipe.num_timesteps, pipe.guidance_scale) == (1, 1.0)
    assert given_image.size == output.images[0].size == (output.width, output.height)
    (box,) = find_red_boxes(given_image)
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

    pipe.rotate(IMAGE, "car", "rear-left", num_inference_steps=2)
    pipe.camera(IMAGE, yaw=45, prompt_style="benchmark")

    assert calls[0]["prompt"] == ObjectRotation("car", "rear left").prompt
    assert calls[0]["num_inference_steps"] == 2
    assert calls[1]["prompt"] == CameraMove(45).prompt_in("benchmark")


def test_edits_when_chained_then_each_takes_the_last_ones_result(pipe: Any) -> None:
    first = pipe.move(IMAGE, "car", (0.2, 0.2, 0.7, 0.8)).images[0]
    second = pipe.rotate(first, "car", "left").images[0]
    third = pipe.camera(second, yaw=-45)

    assert third.images[0].size == second.size == first.size
    assert third.checks[0].box_changed is None


def test_plus_when_called_then_the_image_is_its_only_reference() -> None:
    pipe: Any = random_models.make_plus_pipeline()
    pipe.register_to_config(base_size=64, default_num_inference_steps=1, default_guidance_scale=1.0)

    output = pipe.move(IMAGE, "car", (20, 30, 60, 90))

    assert output.images[0].size == (output.width, output.height)


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        ("move", (IMAGE, "car", (20, 30, 160, 90)), "inside the image"),
        ("move", (IMAGE, "", (20, 30, 60, 90)), "`object`"),
        ("move", (IMAGE, None, (20, 30, 60, 90)), "`object` is None"),
        ("rotate", (IMAGE, 5, "left"), "`object` is 5"),
        ("judge", (IMAGE, IMAGE, None), "`instruction` is None"),
        ("move", ([IMAGE] * 2, "car", (20, 30, 60, 90)), "2 images"),
        ("rotate", (IMAGE, "car", "upper"), "`view`"),
        ("camera", (IMAGE, float("nan")), "`yaw`"),
        ("camera", (IMAGE, 500), "`yaw` is 500; expected a number from -360 to 360"),
        ("camera", (IMAGE, 45, -90), "`pitch` is -90"),
        ("camera", (IMAGE,), "does not move"),
        ("camera", (IMAGE, 0, 0.0, "unchanged"), "does not move"),
        ("camera", ("image.png", 45), "`image`"),
    ],
)
def test_spatial_edit_when_an_argument_is_wrong_then_rejected(
    pipe: Any, method: str, arguments: tuple[Any, ...], words: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        getattr(pipe, method)(*arguments)


@pytest.mark.parametrize("name", ["height", "width"])
def test_spatial_edit_when_one_side_is_given_then_rejected(pipe: Any, name: str) -> None:
    with pytest.raises(ValueError, match="`height` and `width` go together"):
        pipe.rotate(IMAGE, "car", "left", **{name: 96})


def test_spatial_edit_when_a_prompt_is_given_too_then_rejected_by_name(pipe: Any) -> None:
    with pytest.raises(ValueError, match="`prompt` can't be given here"):
        pipe.rotate(IMAGE, "car", "left", prompt="x")


def test_prompt_style_when_given_by_its_old_name_then_used_with_a_warning(pipe: Any) -> None:
    with pytest.warns(FutureWarning, match="use `prompt_style`"):
        output = pipe.move(IMAGE, "the car", (20, 30, 60, 90), style="benchmark")

    assert output.prompt == ObjectMove("the car", None).prompt_in("benchmark")
    with pytest.raises(ValueError, match="same argument"):
        pipe.camera(IMAGE, yaw=45, style="benchmark", prompt_style="benchmark")


def test_spatial_edit_when_a_tuple_is_asked_for_then_rejected(pipe: Any) -> None:
    with pytest.raises(ValueError, match="`return_dict`"):
        pipe.camera(IMAGE, yaw=45, return_dict=False)


def test_move_when_the_crop_would_cut_the_box_then_padded_with_a_warning(pipe: Any) -> None:
    wide = random_models.make_image(2, 97, 400).point(HALVED)

    with pytest.warns(UserWarning, match="padded instead"):
        output = pipe.move(wide, "car", (0, 10, 40, 60), height=96, width=96)

    assert output.images[0].size == (96, 23)
    assert (output.height, output.width) == (96, 96)


def test_spatial_edit_when_restored_then_the_image_s_own_size(pipe: Any) -> None:
    output = pipe.camera(IMAGE, yaw=45, fit="exact", restore=True, preserve=True)

    assert output.images[0].size == IMAGE.size
    assert output.masks[0].size == IMAGE.size
