"""What the shipped model does on unseen scenes, against what is asked of it and what the docs say: minutes, so slow.

The edits and answers come from `joyimage eval tiny` itself, those of the judge from `python -m scripts.judge_table`.
Scenes and seeds are fixed, so on one processor the shares are always the same; another one rounds differently and
flips a few. Sampling itself has a standard error of .007 at .99 and of .024 at .86 of 200 scenes: the shares asked for
are met by these scenes, and a model that only just met them would fail on others.
"""

from __future__ import annotations

import io
import json
import re
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from joyimage.cli.main import main
from joyimage.evaluation.editors import pipeline_editor
from joyimage.evaluation.runner import HELD_OUT, evaluate
from joyimage.loading import load_pipeline
from joyimage.tiny.suite import DrawnScenes
from scripts.judge_table import auc_of_done, auc_of_score, measure_choice, measure_verdicts

if TYPE_CHECKING:
    from joyimage.tiny.worlds.scenes import EditCase
    from scripts.judge_table import Chosen, Judged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

NUM = 200  # as in the model card
MODEL_CARD = Path(__file__).parents[2] / "docs" / "tiny.md"

ANSWERS = {
    **dict.fromkeys(("color", "shape", "presence"), 0.97),
    **dict.fromkeys(("count", "place", "view"), 0.93),
    **dict.fromkeys(("description", "changed", "missing"), 0.90),
}
# Done and strict of the weights that could not read yet, on the same scenes: the model card at a29dca1. Learning to
# read costs .02 and .03 of them at most.
BEFORE_READING = {
    "add": (1.00, 1.00),
    "remove": (1.00, 1.00),
    "recolor": (1.00, 1.00),
    "replace": (1.00, 0.99),
    "move": (1.00, 1.00),
    "rotate": (0.99, 0.96),
    "camera": (1.00, 0.99),
    "text-to-image": (0.72, 0.72),
}
VIEW_TASKS = ("rotate", "camera")
# What may lie between the card, which was measured on another processor, and this one: 4 of 200 scenes or questions,
# 2 of 50, and half a dB. Digits of the card are rounded.
SHARE_TOLERANCE, SMALL_SHARE_TOLERANCE, DB_TOLERANCE = 0.025, 0.045, 0.55

NUM_JUDGED = 25  # scenes per task, with two outputs each: at an AUC of .97 the standard error is .01
NUM_CHOSEN = 60  # prompts: 7 of them fail with one image
NUM_SHORT = 100  # scenes per task: at .95 the standard error is .02


@dataclass(frozen=True, kw_only=True)
class ShortNames(DrawnScenes):
    """Scenes whose prompt names the object without its color."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the tasks that name it with its color otherwise."""
        return ("remove", "replace", "move")

    def case(self, task: str, number: int, held_out: bool) -> EditCase:
        """Draw one scene."""
        case = super().case(task, number, held_out)
        assert case.subject is not None
        assert case.subject.name in case.prompt
        return replace(case, prompt=case.prompt.replace(case.subject.name, case.subject.shape))


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """What `joyimage eval tiny` prints."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert main(["eval", "tiny", "--num", str(NUM), "--device", "cpu", "--json"]) == 0
    return json.loads(printed.getvalue())


@pytest.fixture(scope="module")
def pipe() -> Any:
    pipe = load_pipeline("tiny", device="cpu", dtype="float32").pipe
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def judged(pipe: Any) -> dict[str, list[Judged]]:
    """Outputs of every task, half of them failures, with their verdicts."""
    return measure_verdicts(pipe, NUM_JUDGED)


@pytest.fixture(scope="module")
def chosen(pipe: Any) -> Chosen:
    """What four candidates give for images from text alone."""
    return measure_choice(pipe, NUM_CHOSEN, [4])[0]


@pytest.mark.parametrize("kind", ANSWERS)
def test_answers_when_asked_about_unseen_scenes_then_as_often_right_as_asked_for(
    measured: dict[str, Any], kind: str
) -> None:
    assert measured["reading"][kind]["n"] == NUM
    assert measured["reading"][kind]["right"] >= ANSWERS[kind]


@pytest.mark.parametrize("task", BEFORE_READING)
def test_edits_when_the_model_has_learned_to_read_then_as_good_as_before(
    measured: dict[str, Any], task: str
) -> None:
    row, (done, strict) = measured["tasks"][task], BEFORE_READING[task]

    assert row["n"] == NUM
    assert row["done"] >= done - 0.02
    assert row["strict"] >= strict - 0.03


def test_images_when_made_from_text_alone_then_six_of_seven_show_it(measured: dict[str, Any]) -> None:
    assert measured["tasks"]["text-to-image"]["done"] >= 0.85


@pytest.mark.parametrize("task", VIEW_TASKS)
def test_views_when_changed_then_exact_and_sharp(measured: dict[str, Any], task: str) -> None:
    row = measured["tasks"][task]

    assert row["strict"] >= 0.97
    assert row["psnr"] >= 29
    assert row["sharpness"] >= 0.85


def test_objects_when_named_without_their_color_then_found(pipe: Any) -> None:
    result = evaluate(pipeline_editor(pipe), ShortNames(), num=NUM_SHORT, progress=False)

    assert {
        task: row.done for task, row in result.tasks.items() if task != HELD_OUT and row.done < 0.95
    } == {}


def test_verdicts_when_half_of_the_outputs_fail_then_right_ones_score_higher(
    judged: dict[str, list[Judged]],
) -> None:
    outputs = [one for found in judged.values() for one in found]

    assert len(outputs) == 2 * NUM_JUDGED * len(BEFORE_READING)
    assert 0.4 <= sum(not one.done for one in outputs) / len(outputs) <= 0.6
    # Leaving out what is hard to judge would be no way to a better figure.
    assert sum(one.judged_done is None for one in outputs) <= 0.02 * len(outputs)
    assert auc_of_done(outputs) >= 0.97
    assert auc_of_score(outputs) >= 0.97


def test_candidates_when_four_are_halved_then_the_judge_chooses_nearly_as_well_as_the_exact_score(
    chosen: Chosen,
) -> None:
    gap = chosen.oracle - chosen.random

    assert gap > 0.05  # else there was nothing to choose
    assert chosen.forwards <= 1.9
    assert chosen.halving >= 0.95
    assert chosen.halving - chosen.random >= 0.8 * gap
    assert chosen.whole - chosen.random >= 0.8 * gap


@pytest.mark.parametrize("task", [*BEFORE_READING, HELD_OUT])
def test_model_card_when_an_edit_is_measured_again_then_the_same_row(
    measured: dict[str, Any], task: str
) -> None:
    card = read_card("task")[task]
    row = measured["held_out"] if task == HELD_OUT else measured["tasks"][task]
    names = {
        "done": "done",
        "strict": "strict",
        "IoU": "iou",
        "red gone": "red_gone",
        "view": "view_right",
        "PSNR": "psnr",
        "background": "background_psnr",
        "sharpness": "sharpness",
    }

    assert set(card) == {*names, "VAE round trip", "copied input"}
    for column, name in names.items():
        in_db = column in {"PSNR", "background"}
        assert_near(card[column], row[name], DB_TOLERANCE if in_db else SHARE_TOLERANCE, column)
    if task != HELD_OUT:
        for column, name, share in (
            ("VAE round trip", "vae_round_trip", "strict"),
            ("copied input", "copied_input", "done"),
        ):
            shown, psnr = card[column].rstrip(")").split(" (")
            assert_near(shown, measured[name][task][share], SHARE_TOLERANCE, column)
            assert_near(psnr, measured[name][task]["psnr"], DB_TOLERANCE, column)


def test_model_card_when_questions_are_asked_again_then_the_same_rows(measured: dict[str, Any]) -> None:
    card = read_card("question")

    assert list(card) == list(measured["reading"])
    for kind, row in measured["reading"].items():
        assert_near(card[kind]["right"], row["right"], SHARE_TOLERANCE, kind)
        assert_near(card[kind][HELD_OUT], row["held_out_right"], SMALL_SHARE_TOLERANCE, kind)


def read_card(first: str) -> dict[str, dict[str, str]]:
    """Return the cells of the model card's table whose first column has this name, by row and column."""
    table = re.search(rf"^\| {first} .*(?:\n\|.*)+", MODEL_CARD.read_text(encoding="utf-8"), re.MULTILINE)
    assert table is not None
    header, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()
    ]
    return {name: dict(zip(header[1:], cells, strict=True)) for name, *cells in rows}


def assert_near(shown: str, value: float | None, tolerance: float, where: str) -> None:
    assert (shown == "-") == (value is None), where
    if value is not None:
        assert float(shown) == pytest.approx(value, abs=tolerance), where
