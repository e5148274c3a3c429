"""Candidates are judged, the worse half is dropped early, and the best can be made again alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from joyimage.errors import InvalidInputError
from joyimage.loading import load_pipeline
from joyimage.pipeline.candidates import rungs
from tests import random_models

IMAGE = random_models.make_image(0)
STEPS = 8


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = random_models.make_pipeline()
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def forwards(pipe: Any) -> Any:
    """Outputs of each forward of the transformer."""
    seen: list[int] = []
    handle = pipe.transformer.register_forward_pre_hook(
        lambda _module, _inputs, keywords: seen.append(len(keywords["timestep"])), with_kwargs=True
    )
    yield seen
    handle.remove()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_four_candidates_when_halved_then_at_most_1_9_times_the_forwards_of_one(
    pipe: Any, forwards: list[int], guidance: float
) -> None:
    call = {"num_inference_steps": STEPS, "guidance_scale": guidance, "generator": generator()}
    pipe(IMAGE, "Make it red", **call)
    one = sum(forwards)
    forwards.clear()

    output = pipe(IMAGE, "Make it red", num_candidates=4, **call)

    assert one < sum(forwards) <= 1.9 * one
    assert sorted(candidate.seed for candidate in output.candidates) == [3, 4, 5, 6]
    assert output.candidates[0].steps == STEPS
    assert len(output.images) == len(output.verdicts) == 1


@pytest.mark.parametrize("num_steps", [4, 5, 6, 7, 8, 10, 16, 28, 40, 50])
def test_rungs_when_four_candidates_then_never_above_1_9(num_steps: int) -> None:
    left, before, total = 4, 0, 0
    for step, kept in sorted(rungs(4, num_steps).items()):
        total += left * (step - before)
        left, before = kept, step
    total += left * (num_steps - before)

    assert left == 1
    assert total <= 1.9 * num_steps


def test_rungs_when_there_is_one_step_then_nothing_is_dropped() -> None:
    assert rungs(4, 1) == {}


def test_chosen_when_made_again_alone_then_the_same_image(pipe: Any) -> None:
    call = {"num_inference_steps": STEPS, "guidance_scale": 3.0}
    output = pipe(IMAGE, "Make it red", num_candidates=4, generator=generator(), **call)

    again = pipe(IMAGE, "Make it red", generator=generator(output.candidates[0].seed), **call)

    difference = np.abs(np.asarray(again.images[0], int) - np.asarray(output.images[0], int))
    assert difference.max() <= 1


def test_dropped_when_judged_then_the_better_half_continued(pipe: Any) -> None:
    output = pipe(IMAGE, "Make it red", num_candidates=4, num_inference_steps=STEPS, generator=generator())

    first = [candidate for candidate in output.candidates if candidate.steps == 2]
    assert len(first) == 2
    late = next(candidate for candidate in output.candidates if candidate.steps == 3)
    assert late.verdict.score > 0
    assert all(not candidate.is_finished for candidate in (*first, late))


def test_attempts_when_none_is_good_enough_then_all_and_the_best_first(pipe: Any) -> None:
    output = pipe(
        IMAGE, "Make it red", until=1.0, max_attempts=3, num_inference_steps=2, generator=generator()
    )

    scores = [verdict.score for verdict in output.verdicts]
    assert len(output.images) == len(scores) == 3
    assert scores == sorted(scores, reverse=True)


def test_attempts_when_the_first_is_good_enough_then_one(pipe: Any) -> None:
    output = pipe(IMAGE, "Make it red", until=0.0, num_inference_steps=2, generator=generator())

    assert [candidate.seed for candidate in output.candidates] == [3]


def test_attempts_when_there_are_several_then_the_image_is_encoded_once(pipe: Any) -> None:
    seen: list[int] = []
    handle = pipe.vae.encoder.register_forward_hook(lambda *_: seen.append(1))
    try:
        pipe(IMAGE, "Make it red", until=1.0, max_attempts=3, num_inference_steps=2)
    finally:
        handle.remove()

    assert len(seen) == 1


def test_spatial_edit_when_candidates_then_each_image_has_its_checks(pipe: Any) -> None:
    output = pipe.move(IMAGE, "car", (10, 10, 100, 100), num_candidates=2, num_inference_steps=4)

    assert len(output.images) == len(output.checks) == len(output.verdicts) == 1
    assert output.verdicts[0].checks == output.checks[0]
    assert len(output.candidates) == 2


def test_text_alone_when_candidates_then_chosen_by_the_prompt(pipe: Any) -> None:
    output = pipe(prompt="a car", num_candidates=2, num_inference_steps=4)

    assert len(output.candidates) == 2
    assert output.verdicts[0].kept is None


def test_edit_plus_when_candidates_then_all_run_to_the_end() -> None:
    plus: Any = random_models.make_plus_pipeline()
    plus.set_progress_bar_config(disable=True)

    output = plus(
        [IMAGE, random_models.make_image(1)], "Make it red", num_candidates=2, num_inference_steps=2
    )

    assert len(output.images) == 2
    assert all(candidate.is_finished for candidate in output.candidates)


def test_callback_when_candidates_are_dropped_then_it_sees_those_that_run(pipe: Any) -> None:
    rows: list[int] = []

    def watch(_pipe: Any, _step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        rows.append(len(tensors["latents"]))
        return tensors

    pipe(IMAGE, "Red", num_candidates=4, num_inference_steps=4, callback_on_step_end=watch)

    assert rows == [4, 1, 1, 1]


def test_checkpoint_without_language_when_asked_to_choose_then_moves_only() -> None:
    tiny: Any = load_pipeline("tiny", device="cpu", dtype="float32").pipe
    tiny.text_encoder.config.has_language = False
    tiny.set_progress_bar_config(disable=True)

    with pytest.raises(InvalidInputError, match=r"cannot tell whether .Make it red. was done"):
        tiny(IMAGE, "Make it red", num_candidates=2)
    output = tiny.move(IMAGE, "car", (10, 10, 100, 100), num_candidates=2)
    assert len(output.candidates) == 2


def test_text_alone_when_the_embedded_model_cannot_tell_then_rejected_before_any_work() -> None:
    tiny: Any = load_pipeline("tiny", device="cpu", dtype="float32").pipe

    with pytest.raises(InvalidInputError, match=r"cannot tell whether .Make it look like winter\.. was"):
        tiny(None, "Make it look like winter.", num_candidates=2)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_candidates": 0},
        {"num_candidates": 65},
        {"until": 1.5},
        {"until": 0.5, "max_attempts": 0},
        {"max_attempts": 0},
        {"num_candidates": 2, "num_images_per_prompt": 2},
        {"num_candidates": 2, "output_type": "np"},
        {"num_candidates": 2, "prompt": ["a", "b"]},
    ],
)
def test_arguments_when_wrong_then_rejected(pipe: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=r"`\w+`"):
        pipe(**{"image": IMAGE, "prompt": "Make it red", **arguments})
