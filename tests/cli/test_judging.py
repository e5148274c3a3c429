"""Free words, candidates and verdicts on the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from joyimage.imaging import read_record
from joyimage.tiny.examples import write_examples
from tests import random_models

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import CommandResult

    Joyimage = Callable[..., CommandResult]

TINY = ("--model", "tiny", "--steps", 1, "--device", "cpu")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """Options of a random checkpoint that has language."""
    folder = tmp_path_factory.mktemp("checkpoint")
    random_models.write_checkpoint(folder)
    return ("--model", folder, "--base-size", 256, "--steps", 4, "--guidance", 1, "--device", "cpu")


def test_edit_when_free_words_ask_for_a_view_then_shown_and_run_as_a_camera_move(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    outcome = joyimage("edit", image_path, "Show it from the left.", "-o", tmp_path / "out.png", *TINY)

    assert outcome.code == 0
    assert "Understood: move the camera: yaw -90°" in outcome.err
    recipe = read_record(tmp_path / "out.png")
    assert recipe is not None
    assert (recipe["kind"], recipe["yaw"]) == ("camera", -90)


@pytest.mark.parametrize("option", [["--literal"], ["--intent", "literal"]])
def test_edit_when_literal_then_the_prompt_as_it_is(
    joyimage: Joyimage, image_path: Path, tmp_path: Path, option: list[str]
) -> None:
    outcome = joyimage(
        "edit", image_path, "Show it from the left.", "-o", tmp_path / "out.png", *TINY, *option
    )

    assert outcome.code == 0
    recipe = read_record(tmp_path / "out.png")
    assert recipe is not None
    assert (recipe["kind"], recipe["prompt"]) == ("edit", "Show it from the left.")


def test_edit_when_free_words_ask_for_a_move_then_asks_for_a_box(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    outcome = joyimage("edit", image_path, "put the cup on the left shelf", "-o", tmp_path / "out.png", *TINY)

    assert outcome.code == 2
    assert "needs a box" in outcome.err
    assert "--literal" in outcome.err
    assert "Loading" not in outcome.err
    assert not (tmp_path / "out.png").exists()


def test_candidates_when_chosen_then_like_repeats_the_chosen_one_alone(
    joyimage: Joyimage, image_path: Path, tmp_path: Path, reader: tuple[Any, ...]
) -> None:
    first, again = tmp_path / "first.png", tmp_path / "again.png"

    outcome = joyimage(
        "edit", image_path, "Make it red.", "-o", first, *reader, "--candidates", 4, "--seed", 5, "--json"
    )
    report = json.loads(outcome.out)
    repeated = joyimage("edit", image_path, "-o", again, "--like", first, "--json")

    assert (outcome.code, repeated.code) == (0, 0)
    assert report["candidates"][0]["seed"] == report["seed"]
    assert len(report["candidates"]) == 4
    assert len(report["outputs"]) == len(report["verdicts"]) == 1
    recipe = read_record(first)
    assert recipe is not None
    assert recipe["seed"] == report["seed"]
    assert recipe["verdict"] == report["verdicts"][0]
    assert "num_candidates" not in recipe
    assert "candidates" not in json.loads(repeated.out)
    assert first.read_bytes() != b""
    assert json.loads(repeated.out)["seed"] == report["seed"]


def test_judge_when_asked_for_then_the_verdict_in_words_and_in_the_record(
    joyimage: Joyimage, image_path: Path, tmp_path: Path, reader: tuple[Any, ...]
) -> None:
    outcome = joyimage("edit", image_path, "Make it red.", "-o", tmp_path / "out.png", *reader, "--judge")

    assert outcome.code == 0
    assert "Verdict: Done 0." in outcome.err
    recipe = read_record(tmp_path / "out.png")
    assert recipe is not None
    assert 0 < recipe["verdict"]["done"] < 1


def test_edit_when_the_model_sees_no_such_object_then_rejected_unless_forced(
    joyimage: Joyimage, tmp_path: Path
) -> None:
    write_examples(tmp_path)

    def recolor(name: str, *options: str) -> Any:
        out = tmp_path / f"{name}.png"
        prompt = f"Recolor the {name} orange."
        return joyimage(*("edit", tmp_path / "shapes.png", prompt, "-o", out, *TINY, "--seed", 0), *options)

    rejected = recolor("elephant")
    assert rejected.code == 2
    assert "There is no elephant in this image" in rejected.err
    assert rejected.err.rstrip().endswith("or edit anyway with `--force`.")
    assert "--force" in rejected.err
    assert not (tmp_path / "elephant.png").exists()

    assert recolor("elephant", "--force").code == 0
    assert (tmp_path / "elephant.png").is_file()
    assert recolor("heart").code == 0


def test_candidates_when_none_could_be_judged_then_says_so(joyimage: Joyimage, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")

    outcome = joyimage(
        *("edit", tmp_path / "photo.png", "Make it gray.", "-o", tmp_path / "o.png"),
        *(*TINY, "--candidates", 2, "--seed", 7),
    )

    assert outcome.code == 0
    assert "Chosen: seed 7, the first of 2, as none could be judged." in outcome.err


def test_candidates_when_several_images_are_asked_for_too_then_rejected_before_loading(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    outcome = joyimage(
        "edit", image_path, "Red.", "-o", tmp_path / "o.png", *TINY, "--candidates", 2, "--num", 2
    )

    assert outcome.code == 2
    assert "Loading" not in outcome.err


def test_until_when_nothing_is_good_enough_then_all_attempts_and_one_image(
    joyimage: Joyimage, image_path: Path, tmp_path: Path, reader: tuple[Any, ...]
) -> None:
    outcome = joyimage(
        "edit",
        image_path,
        "Red.",
        "-o",
        tmp_path / "o.png",
        *reader,
        "--until",
        1,
        "--max-attempts",
        2,
        "--json",
    )

    report = json.loads(outcome.out)
    assert len(report["candidates"]) == 2
    assert len(report["outputs"]) == 1


@pytest.mark.parametrize("option", [["--candidates", 0], ["--until", 2], ["--max-attempts", 0]])
def test_option_when_out_of_range_then_one_message(
    joyimage: Joyimage, image_path: Path, tmp_path: Path, option: list[Any]
) -> None:
    outcome = joyimage("edit", image_path, "Red.", "-o", tmp_path / "o.png", *TINY, *option)

    assert outcome.code == 2
    assert option[0] in outcome.err
