"""Guarantees of the command line: whole files or none, seed 0 is a seed, --like repeats everything."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests import random_models

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.cli.conftest import CommandResult

    Joyimage = Callable[..., CommandResult]

FAST = ("--model", "tiny", "--steps", 1, "--base-size", 64, "--device", "cpu")
PROMPT = "Recolor the heart orange."


def make_rows(folder: Path, **fields: Any) -> Path:
    random_models.make_image(0, 64, 64).save(folder / "in.png")
    path = folder / "rows.jsonl"
    path.write_text(json.dumps({"image": "in.png", "prompt": PROMPT, **fields}) + "\n")
    return path


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_edit_when_the_last_move_of_writing_fails_then_the_old_file_is_whole_and_nothing_else_is_left(
    joyimage: Joyimage, image_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out" / "edited.png"
    output.parent.mkdir()
    assert joyimage("edit", image_path, PROMPT, "-o", output, *FAST).code == 0
    before = output.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    outcome = joyimage("edit", image_path, "Remove the heart.", "-o", output, "--overwrite", *FAST)
    if "--overwrite" in outcome.err:
        outcome = joyimage("edit", image_path, "Remove the heart.", "-o", output, *FAST)

    assert outcome.code == 2
    assert "No space left" in outcome.err
    assert output.read_bytes() == before
    assert [path.name for path in output.parent.iterdir()] == ["edited.png"]


def test_batch_when_a_row_has_seed_0_then_that_is_its_seed(joyimage: Joyimage, tmp_path: Path) -> None:
    rows = make_rows(tmp_path, seed=0)

    assert joyimage("batch", rows, "-o", tmp_path / "out", *FAST).code == 0

    (line,) = map(json.loads, (tmp_path / "out" / "report.jsonl").read_text().splitlines())
    assert json.loads(joyimage("info", line["output"], "--json").out)["seed"] == 0


def test_batch_when_a_killed_run_left_a_partial_file_then_it_is_removed(
    joyimage: Joyimage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(tmp_path)
    partial: dict[str, Path] = {}
    replace = os.replace

    def note_and_replace(source: str, target: str) -> None:
        partial[Path(target).name] = Path(source)
        replace(source, target)

    monkeypatch.setattr(os, "replace", note_and_replace)
    assert joyimage("batch", rows, "-o", tmp_path / "out", *FAST).code == 0
    (line,) = map(json.loads, (tmp_path / "out" / "report.jsonl").read_text().splitlines())
    Path(line["output"]).unlink()
    partial[Path(line["output"]).name].write_bytes(b"half an image")

    assert joyimage("batch", rows, "-o", tmp_path / "out", *FAST).code == 0

    assert Path(line["output"]).is_file()
    assert hidden(tmp_path / "out") == []


def test_edit_when_like_another_then_repeats_every_recorded_setting(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    settings = ("--negative", "a blue star", "--guidance", 2.5, "--seed", 7, "--fit", "pad", "--restore")
    first = joyimage("edit", image_path, PROMPT, "-o", tmp_path / "a.png", *settings, *FAST)
    assert first.code == 0

    again = joyimage(
        "edit", image_path, "--like", tmp_path / "a.png", "-o", tmp_path / "b.png", "--device", "cpu"
    )

    assert again.code == 0
    records = [json.loads(joyimage("info", tmp_path / name, "--json").out) for name in ("a.png", "b.png")]
    assert {**records[1], **records[0]} == records[1]
    recorded = json.dumps(records[0])
    assert "a blue star" in recorded
    assert all(value in recorded for value in ("2.5", "7", "pad"))
