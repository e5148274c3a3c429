"""Questions about drawn scenes and outcomes of edits: every answer is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from joyimage.tiny.readings import CASE_WEIGHTS, OTHERS, load_readings, readings_about, write_readings
from joyimage.tiny.scope import is_drawn
from joyimage.tiny.worlds.asks import NOT_DRAWN, about, about_box, describe, place_of
from joyimage.tiny.worlds.drawing import COLORS
from joyimage.tiny.worlds.others import draw_other
from joyimage.tiny.worlds.outcomes import right_outcome, wrong_outcome
from joyimage.tiny.worlds.scenes import HELD_OUT_PAIRS, SceneObject, generate
from joyimage.tiny.worlds.scores import score
from joyimage.tiny.worlds.truth import FlatScene
from joyimage.understanding import questions

if TYPE_CHECKING:
    from pathlib import Path

HEART = SceneObject(shape="heart", color="black", center=(48, 18), side=25, size=96)
STAR = SceneObject(shape="star", color="green", center=(78, 78), side=25, size=96)
SCENE = FlatScene(objects=(STAR, HEART), background="sky blue", size=96)


def answers(kind: str, seeds: range) -> set[tuple[str, str]]:
    asks = [ask for seed in seeds for ask in about(SCENE, np.random.default_rng(seed))]
    return {(ask.question, ask.answer) for ask in asks if ask.kind == kind}


def test_description_when_of_a_scene_then_in_reading_order_with_places_and_background() -> None:
    said = describe(SCENE)

    assert said == "A black heart at the top and a green star at the bottom right on a sky blue background."
    assert describe(FlatScene(objects=(), background="mint", size=96)) == "Nothing on a mint background."


def test_questions_when_about_a_scene_then_answers_are_its_truth() -> None:
    color, place, number = answers("color", range(9)), answers("place", range(9)), answers("count", range(9))

    assert {answer for question, answer in color if "heart" in question} == {"Black"}
    assert {answer for question, answer in color if "star" in question} == {"Green"}
    assert {answer for question, answer in place if "heart" in question} == {"At the top"}
    assert {answer for _, answer in number} == {"Two"}
    assert answers("background", range(3)) == {
        (question, "Sky blue") for question, _ in answers("background", range(3))
    }


def test_questions_when_about_presence_then_yes_exactly_for_what_is_there() -> None:
    asked = answers("presence", range(60))

    assert {answer for _, answer in asked} == {questions.YES, questions.NO}
    for question, answer in asked:
        is_there = any(
            name in question and not any(color in question.replace(name, "") for color in COLORS)
            for name in ("black heart", "green star", "heart", "star")
        )
        assert (answer == questions.YES) == is_there, question


def test_questions_when_training_asks_then_never_for_a_held_out_combination() -> None:
    asked = [question for question, _ in answers("presence", range(200))]

    assert not [q for q in asked for shape, color in HELD_OUT_PAIRS if f"{color} {shape}" in q]


def test_place_when_near_a_border_then_has_no_name() -> None:
    between = SceneObject(shape="star", color="green", center=(33, 78), side=25, size=96)

    assert place_of(between) is None
    assert place_of(STAR) == "bottom right"


def test_box_when_around_one_object_then_only_that_one_is_inside() -> None:
    asks = about_box(SCENE, STAR, np.random.default_rng(0))

    assert {("star" in ask.question, ask.answer) for ask in asks} == {(True, "Yes"), (False, "No")}
    assert {ask.answer for ask in about_box(SCENE, None, np.random.default_rng(0))} == {"No"}


@pytest.mark.parametrize("task", ["add", "remove", "recolor", "replace", "move"])
def test_outcome_when_right_or_wrong_then_the_exact_scorer_agrees(task: str) -> None:
    seen = set()
    for seed in range(12):
        case = generate(task, 7_000_000 + seed)
        for outcome in (right_outcome(case), wrong_outcome(case, np.random.default_rng(seed))):
            found = score(case, outcome.image)
            assert found.done == outcome.done, (seed, found.faults)
            assert not outcome.done or found.strict == outcome.kept, (seed, found.faults)
            if outcome.kept is False:
                assert not found.strict
            seen.add((outcome.done, outcome.kept))
    assert {(True, True), (False, True)} <= seen


@pytest.mark.parametrize("task", ["rotate", "camera", "text-to-image"])
def test_outcome_when_of_another_task_then_the_exact_scorer_agrees(task: str) -> None:
    for seed in range(4):
        case = generate(task, 7_000_000 + seed)
        for outcome in (right_outcome(case), wrong_outcome(case, np.random.default_rng(seed))):
            assert score(case, outcome.image).done == outcome.done, seed


def test_outcome_when_it_says_what_changed_then_names_the_two_states() -> None:
    case = generate("recolor", 7_000_000)
    assert case.subject is not None
    assert case.result is not None

    said = right_outcome(case).changed

    assert said == f"The {case.subject.shape} was recolored from {case.subject.color} to {case.result.color}."


def test_others_when_drawn_then_most_look_like_no_scene_and_every_answer_says_so() -> None:
    images = [draw_other(np.random.default_rng(seed), 96) for seed in range(24)]
    asks = about(None, np.random.default_rng(0))

    assert sum(is_drawn(Image.fromarray(image)) for image in images) < len(images) / 2
    assert {ask.answer for ask in asks} == {questions.NO, NOT_DRAWN}


def test_readings_when_written_then_read_back_with_each_image_once(tmp_path: Path) -> None:
    readings = [one for task in CASE_WEIGHTS for one in readings_about(task, 5, 96)]

    write_readings(tmp_path, readings)
    back = load_readings(tmp_path)

    assert len(back.images) < sum(len(one.images) for one in readings)
    for reading, members, asks in zip(readings, back.members, back.asks, strict=True):
        assert tuple(asks) == reading.asks
        for image, number in zip(reading.images, members, strict=True):
            assert np.array_equal(image, back.images[number])
    kinds = {ask.kind for asks in back.asks for ask in asks}
    assert {"done", "kept", "changed", "shows", "in box", "drawn", "view", "missing"} < kinds


def test_readings_when_held_out_then_the_subject_is_a_held_out_combination() -> None:
    asks = [
        ask
        for seed in range(3)
        for one in readings_about("remove", seed, 96, held_out=True)
        for ask in one.asks
    ]

    names = {f"{color} {shape}" for shape, color in HELD_OUT_PAIRS}
    assert any(name in ask.answer for name in names for ask in asks if ask.kind == "description")
    assert readings_about(OTHERS, 1, 96)[0].asks[0].answer == questions.NO
