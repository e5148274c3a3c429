"""The other commands, and what all have in common."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from cyclopts import App
from PIL import Image

from joyimage.cli.catalog import COMMANDS
from joyimage.tiny.worlds.scenes import TASKS, generate
from scripts import demo

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import CommandResult

    Joyimage = Callable[..., CommandResult]


def test_demo_when_run_then_writes_images_and_a_sheet_and_every_edit_is_as_requested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert demo.main([]) == 0

    printed = capsys.readouterr().out
    folder = Path("demo-output")
    for name in demo.PROMPTS:
        assert str(folder / f"after-{name}.png") in printed
        assert Image.open(folder / f"after-{name}.png").size == (96, 96)
    assert printed.count("  as requested  ") == len(demo.PROMPTS)
    assert Image.open(folder / "sheet.png").width > 4 * 96


def test_demo_when_a_folder_and_an_example_are_named_then_that_one_goes_there(tmp_path: Path) -> None:
    assert demo.main([str(tmp_path / "out"), "car"]) == 0

    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("before-car.png", "after-car.png", "sheet.png")
    }


def test_examples_command_when_run_then_prints_every_file_and_rejects_a_file_as_folder(
    tmp_path: Path, joyimage: Joyimage
) -> None:
    written = joyimage("examples", tmp_path / "images")

    assert written.code == 0
    assert all(path.is_file() for path in (tmp_path / "images").iterdir())
    for path in (tmp_path / "images").iterdir():
        assert str(path) in written.out

    rejected = joyimage("examples", tmp_path / "images" / "car.png")

    assert rejected.code == 2
    assert "car.png, which is a file" in rejected.err


def test_eval_tiny_when_json_then_every_task_and_the_same_again(joyimage: Joyimage) -> None:
    arguments = ("eval", "tiny", "--num", 2, "--steps", 2, "--seed", 3, "--json")

    first, second = (json.loads(joyimage(*arguments).out) for _ in range(2))

    assert first["tasks"] == second["tasks"]
    assert set(TASKS) <= set(first["tasks"])
    for task in TASKS:
        assert first["tasks"][task]["n"] == 2
        assert 0 <= first["tasks"][task]["strict"] <= first["tasks"][task]["done"] <= 1


def test_eval_tiny_when_table_then_a_row_for_every_task(joyimage: Joyimage) -> None:
    table = joyimage("eval", "tiny", "--num", 1, "--steps", 1).out

    for task in TASKS:
        assert f"| {task} " in table


def test_train_tiny_when_stage_is_unknown_then_one_sentence(joyimage: Joyimage, tmp_path: Path) -> None:
    outcome = joyimage("train", "tiny", tmp_path, "--stage", "polish")

    assert outcome.code == 2
    assert "polish" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_describe_when_asked_then_question_and_answer_as_json(
    joyimage: Joyimage, image_path: Path, checkpoint: Path
) -> None:
    outcome = joyimage(
        "describe", image_path, "What is it?", "--max-new-tokens", 3, "--json", "--model", checkpoint
    )

    assert outcome.code == 0
    report = json.loads(outcome.out)
    assert report["question"] == "What is it?"
    assert isinstance(report["answer"], str)
    assert joyimage("describe", image_path, "", "--model", "tiny").code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("rewrite", "make it night", "image.png"),
        ("edit", "image.png", "make it night", "-o", "out.png", "--rewrite", "local"),
    ],
)
def test_rewrite_when_the_checkpoint_has_no_language_for_prompts_then_one_sentence_and_nothing_made(
    joyimage: Joyimage, image_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(image_path.parent)

    outcome = joyimage(*arguments, "--model", "tiny")

    assert outcome.code == 2
    assert outcome.err.splitlines()[-1].startswith("tiny has no language for prompts")
    assert outcome.out == ""
    assert not (image_path.parent / "out.png").exists()


def test_command_when_unknown_then_exit_2(joyimage: Joyimage) -> None:
    outcome = joyimage("edti")

    assert outcome.code == 2
    assert "edti" in outcome.err


def test_help_when_asked_then_lists_the_commands_without_loading_torch() -> None:
    code = (
        "import sys; from joyimage.cli.main import main; main(['--help']); sys.exit('torch' in sys.modules)"
    )

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    for command in ("edit", "info", "convert", "train", "eval"):
        assert command in run.stdout


def test_rewrite_when_a_template_then_comes_back_as_it_is(joyimage: Joyimage) -> None:
    prompt = "Rotate the car to show the left side view."

    outcome = joyimage("rewrite", prompt, "--how", "http://127.0.0.1:9/v1", "--json")

    assert json.loads(outcome.out) == {"prompt": prompt, "rewritten": prompt}


def test_describe_when_the_embedded_model_cannot_read_the_second_image_or_the_question_then_one_sentence(
    joyimage: Joyimage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (96, 96), "white").save("plain.png")
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save("photo.png")

    for arguments, words in (
        (
            ("plain.png", "photo.png"),
            "photo.png can't be described: the image has the colors of a photograph",
        ),
        (("plain.png", "图里有什么"), "the question is not in English"),
    ):
        outcome = joyimage("describe", *arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert words in outcome.err


def test_describe_when_the_embedded_model_is_shown_a_photograph_then_one_sentence(
    joyimage: Joyimage, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")

    outcome = joyimage("describe", tmp_path / "photo.png")

    assert (outcome.code, outcome.out) == (2, "")
    assert "reads drawn scenes only" in outcome.err
    assert "photo.png" in outcome.err


def test_describe_when_two_images_then_what_changed_or_the_question_about_both(
    joyimage: Joyimage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    case = generate("remove", 1)
    assert case.source_image is not None
    assert case.subject is not None
    case.source_image.save("before.png")
    case.target_image.save("after.png")
    is_gone = f"The {case.subject.name} was removed."

    assert joyimage("describe", "before.png", "after.png").out.strip() == is_gone
    asked = joyimage(
        "describe", "before.png", "after.png", "What is different in the second image?", "--json"
    )
    assert json.loads(asked.out) == {
        "question": "What is different in the second image?",
        "answer": is_gone,
    }
    alone = joyimage("describe", "before.png", f"Is there a {case.subject.name}?")
    assert alone.out.strip() == "Yes"
    with Path("after.png").open("rb") as file:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(file))
        assert joyimage("describe", "before.png", "-").out.strip() == is_gone


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["image.png", "absent.png"], "absent.png can't be read"),
        (["image.png", "https://example.com/after"], "it is an address"),
        (["image.png", "image.png", "image.png"], "two images at most"),
        (["-", "-"], "standard input is the first image already"),
        (["image.png", "image.png", ""], "`QUESTION` is ''"),
    ],
)
def test_describe_when_the_images_cannot_be_meant_then_one_sentence_before_loading(
    joyimage: Joyimage, image_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(image_path.parent)

    outcome = joyimage("describe", *arguments)

    assert (outcome.code, outcome.out) == (2, "")
    assert len(outcome.err.splitlines()) == 1
    assert words in outcome.err


def test_rewrite_when_it_is_impossible_then_one_sentence(joyimage: Joyimage) -> None:
    for arguments, word in ((["--how", "http://127.0.0.1:9/v1"], "is unreachable"), ([], "IMAGE")):
        outcome = joyimage("rewrite", "red sky", *arguments)
        assert outcome.code == 2
        assert word in outcome.err


def test_edit_when_rewritten_then_both_prompts_are_recorded(
    joyimage: Joyimage, image_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from joyimage.pipeline.edit import JoyImageEditPipeline

    monkeypatch.setattr(JoyImageEditPipeline, "describe", lambda *_, **__: "Make the heart orange.")
    monkeypatch.setattr("joyimage.understanding.rewrite._check_writes", lambda _: None)
    fast = ("--model", "tiny", "--steps", 1, "--device", "cpu")

    outcome = joyimage("edit", image_path, "orange", "-o", tmp_path / "out.png", *fast, "--rewrite", "local")

    recipe = json.loads(joyimage("info", tmp_path / "out.png", "--json").out)
    assert (recipe["prompt"], recipe["asked"]) == ("Make the heart orange.", "orange")
    assert "Prompt: Make the heart orange." in outcome.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_when_written_then_it_knows_every_command(
    joyimage: Joyimage, shell: str, tmp_path: Path
) -> None:
    path = tmp_path / "completion"

    assert joyimage("--install-completion", "--shell", shell, "--output", path).code == 0

    script = path.read_text(encoding="utf-8")
    assert all(name in script for name in ("edit", "rotate", "batch", "doctor", "--guidance"))
    if shell == "bash":
        subprocess.run(["bash", "-n", str(path)], check=True)


def test_help_when_printed_then_every_command_says_what_its_function_says(joyimage: Joyimage) -> None:
    page = " ".join(joyimage("--help").out.replace("│", " ").split())

    for entry in COMMANDS:
        module, _, attribute = entry.function.partition(":")
        loaded = getattr(importlib.import_module(f"joyimage.cli.commands.{module}"), attribute)
        text = loaded.help if isinstance(loaded, App) else (loaded.__doc__ or "").splitlines()[0]
        assert text == entry.help
        if " " not in entry.name:  # the others are listed by `joyimage train --help`
            assert f"{entry.name} {entry.help}" in page
