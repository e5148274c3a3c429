"""`joyimage move`, `rotate` and `camera` send the trained words and say what changed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from joyimage.imaging import read_record
from joyimage.spatial import CameraMove, ObjectRotation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import CommandResult

    Joyimage = Callable[..., CommandResult]

FAST = ("--model", "tiny", "--steps", 1, "--base-size", 64, "--device", "cpu")


@pytest.mark.parametrize(
    ("arguments", "prompt"),
    [
        (
            ["move", "IMAGE", "the heart", "10,20,60,80"],
            "Move the heart into the red box and finally remove the red box.",
        ),
        (
            ["move", "IMAGE", "heart", "0.1,0.2,0.5,0.6", "--box-form", "xywh", "--style", "benchmark"],
            "Move heart into the red box and finally remove the red box.",
        ),
        (["rotate", "IMAGE", "car", "rear-left"], ObjectRotation("car", "rear left").prompt),
        (["camera", "IMAGE", "--yaw", "-45", "--zoom", "in"], CameraMove(-45, 0, "in").prompt),
    ],
)
def test_spatial_command_when_called_then_trained_words_recorded_and_checked(
    joyimage: Joyimage, image_path: Path, tmp_path: Path, arguments: list[str], prompt: str
) -> None:
    arguments = [str(image_path) if word == "IMAGE" else word for word in arguments]

    outcome = joyimage(*arguments, "-o", tmp_path / "out.png", *FAST, "--json")

    assert outcome.code == 0
    report = json.loads(outcome.out)
    assert report["prompt"] == prompt
    assert report["checks"][0]["summary"]
    recipe = read_record(tmp_path / "out.png")
    assert recipe is not None
    assert (recipe["kind"], recipe["prompt"]) == (arguments[0], prompt)
    assert Image.open(tmp_path / "out.png").size == (64, 64)


def test_spatial_command_when_no_json_then_check_in_words(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    outcome = joyimage("camera", image_path, "--yaw", 45, "-o", tmp_path / "out.png", *FAST)

    assert outcome.out.strip() == str(tmp_path / "out.png")
    assert "Check: " in outcome.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["move", "heart", "10,20,60"], ["`BOX`", "four"]),
        (["move", "heart", "here"], ["`BOX`", "here"]),
        (["move", "heart", "10,20,600,80"], ["`BOX`", "96x96"]),
        (["move", "", "10,20,60,80"], ["`OBJECT`"]),
        (["rotate", "car", "upper"], ["`VIEW`", "front right"]),
        (["rotate", "car", "left", "--style", "loud"], ["--style loud", "benchmark"]),
        (["camera", "--zoom", "closer"], ["--zoom closer", "unchanged"]),
        (["camera", "--yaw", "much"], ["much"]),
        (["rotate", "car", "left", "--rewrite", "local"], ["--rewrite", "not an option"]),
    ],
)
def test_spatial_command_when_wrong_then_one_sentence_before_loading(
    joyimage: Joyimage, image_path: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    command, *rest = arguments

    outcome = joyimage(command, image_path, *rest, "-o", tmp_path / "out.png")

    assert outcome.code == 2
    assert "Model" not in outcome.err
    for word in words:
        assert word in outcome.err
    assert not (tmp_path / "out.png").exists()
