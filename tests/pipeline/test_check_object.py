"""A call with `check_object` asks about the objects of its prompts before it edits."""

from __future__ import annotations

from typing import Any

import pytest

from joyimage.errors import InvalidInputError
from tests import random_models

IMAGES = [random_models.make_image(number) for number in range(2)]
ONE_STEP = {"num_inference_steps": 1, "guidance_scale": 1.0}


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = random_models.make_pipeline()
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, str]]:
    """Image and object of each question; the model sees all objects but elephants."""
    questions: list[tuple[bytes, str]] = []

    def is_absent(_reader: Any, image: Any, name: str) -> bool:
        questions.append((image.tobytes(), name))
        return name == "elephant"

    monkeypatch.setattr("joyimage.understanding.judge.is_absent", is_absent)
    return questions


def test_call_when_an_object_is_absent_then_rejected_before_the_first_step(
    pipe: Any, asked: list[tuple[bytes, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise AssertionError("the transformer ran")

    monkeypatch.setattr(pipe.transformer, "forward", run)
    with pytest.raises(InvalidInputError, match="There is no elephant in this image"):
        pipe(IMAGES[0], "Remove the elephant.", check_object=True, **ONE_STEP)
    assert [name for _, name in asked] == ["elephant"]


def test_call_when_not_asked_to_check_then_edits(pipe: Any, asked: list[tuple[bytes, str]]) -> None:
    assert len(pipe(IMAGES[0], "Remove the elephant.", **ONE_STEP).images) == 1
    assert asked == []


def test_call_when_each_prompt_has_its_image_then_each_is_asked_about_its_own(
    pipe: Any, asked: list[tuple[bytes, str]]
) -> None:
    prompts = ["Remove the star.", "Recolor the heart red."]

    output = pipe(IMAGES, prompts, check_object=True, **ONE_STEP)

    assert len(output.images) == 2
    assert [name for _, name in asked] == ["star", "heart"]
    assert asked[0][0] != asked[1][0]


def test_call_when_the_prompts_share_an_image_then_each_is_asked_about_it(
    pipe: Any, asked: list[tuple[bytes, str]]
) -> None:
    with pytest.raises(InvalidInputError, match="no elephant"):
        pipe(IMAGES[0], ["Remove the star.", "Remove the elephant."], check_object=True, **ONE_STEP)
    assert asked[0][0] == asked[1][0]


def test_candidates_when_tried_again_then_the_object_is_asked_about_once(
    pipe: Any, asked: list[tuple[bytes, str]]
) -> None:
    output = pipe(
        IMAGES[0],
        "Remove the star.",
        check_object=True,
        num_candidates=2,
        until=1.0,
        max_attempts=2,
        **ONE_STEP,
    )

    assert len(output.candidates) == 4
    assert [name for _, name in asked].count("star") == 1


def test_call_when_there_is_nothing_to_ask_about_then_not_asked(
    pipe: Any, asked: list[tuple[bytes, str]]
) -> None:
    pipe(IMAGES[0], "Make it gray.", check_object=True, **ONE_STEP)
    pipe(None, "Remove the elephant.", check_object=True, width=64, height=64, **ONE_STEP)

    assert asked == []


@pytest.mark.parametrize(
    "edit",
    [
        lambda pipe: pipe(IMAGES[0], "Remove the star.", check_object=True, **ONE_STEP),
        lambda pipe: pipe.rotate(IMAGES[0], "star", "back", check_object=True, **ONE_STEP),
    ],
    ids=["plain words", "rotation"],
)
def test_image_when_asked_about_and_edited_then_read_once(
    pipe: Any, edit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joyimage.understanding.judge.ABSENT", -1.0)  # it sees everything
    number = 0
    block = pipe.text_encoder.model.visual.blocks[0]
    read = block.forward

    def count(*given: Any, **options: Any) -> Any:
        nonlocal number
        number += 1
        return read(*given, **options)

    monkeypatch.setattr(block, "forward", count)

    edit(pipe)

    assert number == 1
    assert pipe._feature_cache is None
