"""`joyimage batch`: nothing lost, nothing done twice, no partial file, whatever happens in between."""

from __future__ import annotations

import csv
import errno
import html
import json
import os
import random
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
from PIL import Image

from joyimage.imaging import read_record
from joyimage.tiny.examples import write_examples
from tests import random_models
from tests.forked import start_command

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import CommandResult

    Joyimage = Callable[..., CommandResult]

FAST = ("--model", "tiny", "--steps", 1, "--base-size", 64, "--device", "cpu")
PROMPT = "Recolor the heart orange."


@pytest.fixture
def images_path(tmp_path: Path) -> Path:
    """A folder with three images and a text file."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        random_models.make_image(number, 64, 64).save(folder / f"image-{number}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def write_rows(folder: Path, rows: list[Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def report_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "report.jsonl").read_text().splitlines()]


def written_at(output: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in output.glob("*.png") if path.name != "contact.png"}


def test_folder_when_run_then_every_image_and_contact_sheets(
    joyimage: Joyimage, images_path: Path, tmp_path: Path
) -> None:
    outcome = joyimage("batch", images_path, PROMPT, "-o", tmp_path / "out", *FAST)

    assert outcome.code == 0
    assert sorted(written_at(tmp_path / "out")) == [f"image-{n}.png" for n in range(3)]
    page = (tmp_path / "out" / "contact.html").read_text()
    assert page.count("<figure>") == 3
    assert page.count("data:image/jpeg;base64,") == 6
    assert Image.open(tmp_path / "out" / "contact.png").width > 384
    *lines, left_out = report_of(tmp_path / "out")
    assert [line["made"] for line in lines] == [True] * 3
    assert left_out == {"file": "notes.txt", "left_out": "no image file by its suffix"}
    assert "notes.txt" in outcome.err


def test_folder_when_names_hold_bytes_and_signs_of_addresses_then_report_and_links_name_the_files(
    joyimage: Joyimage, tmp_path: Path
) -> None:
    names = [b"caf\xe9.png", b"50%20off#1?.png", b"<b>&'.png"]
    (tmp_path / "in").mkdir()
    for name in names:
        random_models.make_image(0, 64, 64).save(tmp_path / "in" / os.fsdecode(name))

    outcome = joyimage("batch", tmp_path / "in", PROMPT, "-o", tmp_path / "out", *FAST)

    assert outcome.code == 0, outcome.err
    assert {os.fsencode(Path(line["output"]).name) for line in report_of(tmp_path / "out")} == set(names)
    links = re.findall('href="([^"]*)"', (tmp_path / "out" / "contact.html").read_text())
    assert {unquote_to_bytes(urlsplit(html.unescape(link)).path) for link in links} == set(names)


def test_batch_when_run_again_then_nothing_is_made_twice(
    joyimage: Joyimage, images_path: Path, tmp_path: Path
) -> None:
    joyimage("batch", images_path, PROMPT, "-o", tmp_path / "out", *FAST)
    before = written_at(tmp_path / "out")

    outcome = joyimage("batch", images_path, PROMPT, "-o", tmp_path / "out", *FAST)

    assert written_at(tmp_path / "out") == before
    assert "0 made, 3 already there" in outcome.err


def test_batch_when_the_disk_is_full_then_it_names_the_image_keeps_what_is_done_and_continues(
    joyimage: Joyimage, images_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    num_written = 0

    def fill(_: int) -> None:
        nonlocal num_written
        num_written += 1
        if num_written > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fill)
        outcome = joyimage("batch", images_path, PROMPT, "-o", output, *FAST)
    assert outcome.code == 1
    assert f"Row 2: {output / 'image-1.png'} can't be written: No space left on device." in outcome.err
    assert f"{output / 'report.jsonl'} can't be written" in outcome.err
    assert "1 made, 0 already there, 1 failed, 1 not run." in outcome.err
    assert "run the same command again to continue" in outcome.err
    assert sorted(path.name for path in output.iterdir()) == ["image-0.png"]
    assert outcome.out == ""

    again = joyimage("batch", images_path, PROMPT, "-o", output, *FAST)

    assert again.code == 0
    assert "2 made, 1 already there, 0 failed." in again.err
    assert [line["made"] for line in report_of(output)[:3]] == [False, True, True]


def test_batch_when_one_setting_or_image_changes_then_only_that_is_made_again(
    joyimage: Joyimage, images_path: Path, tmp_path: Path
) -> None:
    rows: list[Any] = [{"image": f"image-{number}.png", "prompt": PROMPT} for number in range(3)]
    joyimage("batch", write_rows(images_path, rows), "-o", tmp_path / "out", *FAST)
    before = written_at(tmp_path / "out")

    rows[1]["guidance"] = 3
    random_models.make_image(7, 64, 64).save(images_path / "image-2.png")
    joyimage("batch", write_rows(images_path, rows), "-o", tmp_path / "out", *FAST)

    after = written_at(tmp_path / "out")
    assert [before[name] == after[name] for name in sorted(before)] == [True, False, False]
    recipe = read_record(tmp_path / "out" / "image-1.png")
    assert recipe is not None
    assert recipe["guidance_scale"] == 3


def test_csv_when_run_then_fields_of_the_row_count(
    joyimage: Joyimage, images_path: Path, tmp_path: Path
) -> None:
    with (images_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "prompt", "output", "seed", "negative"])
        writer.writeheader()
        writer.writerow({"image": "image-0.png", "prompt": "blue", "output": "a.png", "seed": "5"})
        writer.writerow({"image": "image-1.png", "negative": "dark"})

    outcome = joyimage("batch", images_path / "rows.csv", PROMPT, "-o", tmp_path / "out", *FAST)

    assert outcome.code == 0
    first, second = (read_record(tmp_path / "out" / name) or {} for name in ("a.png", "image-1.png"))
    assert (first["prompt"], first["seed"]) == ("blue", 5)
    assert (second["prompt"], second["negative_prompt"]) == (PROMPT, "dark")


def test_rows_when_bad_then_reported_and_skipped_and_the_rest_is_made(
    joyimage: Joyimage, images_path: Path, tmp_path: Path
) -> None:
    (images_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    rows = [
        {"image": "image-0.png", "prompt": PROMPT},
        "{not json",
        {"image": "missing.png", "prompt": PROMPT},
        {"image": "broken.png", "prompt": PROMPT},
        {"image": "image-1.png"},
        {"image": "image-1.png", "prompt": PROMPT, "seed": "many"},
        {"image": "image-1.png", "prompt": PROMPT, "output": "../out.png"},
        {"image": "image-1.png", "prompt": PROMPT, "output": "image-0.png"},
        {"image": "image-1.png", "prompt": PROMPT, "color": "red"},
        {"image": "image-1.png", "prompt": PROMPT, "steps": 0},
        [1, 2],
        {"image": "image-2.png", "prompt": PROMPT},
    ]

    outcome = joyimage("batch", write_rows(images_path, rows), "-o", tmp_path / "out", *FAST)

    assert outcome.code == 1
    assert sorted(written_at(tmp_path / "out")) == ["image-0.png", "image-2.png"]
    report = report_of(tmp_path / "out")
    assert [line["row"] for line in report] == list(range(1, 13))
    wrong = {line["row"]: line["error"] for line in report if "error" in line}
    assert set(wrong) == set(range(2, 12))
    words = [
        "JSON",
        "missing.png",
        "broken.png",
        "prompt",
        "seed",
        "output",
        "earlier row",
        "color",
        "steps",
        "object",
    ]
    for sentence, word in zip(wrong.values(), words, strict=True):
        assert word in sentence
        assert sentence in outcome.err.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.jsonl"], ["missing.jsonl", "no such file"]),
        (["images"], ["`PROMPT`", "folder"]),
        (["empty.jsonl"], ["empty.jsonl", "no row"]),
        (["images/notes.txt", "blue"], ["notes.txt", ".jsonl"]),
        (["images", "blue", "-o", "empty.jsonl"], ["`-o`", "a file"]),
    ],
)
def test_source_when_wrong_then_one_sentence_and_exit_2(
    joyimage: Joyimage,
    images_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")

    outcome = joyimage("batch", *arguments, *([] if "-o" in arguments else ["-o", "out"]))

    assert outcome.code == 2
    for word in words:
        assert word in outcome.err
    assert not (tmp_path / "out").exists()
    assert images_path.exists()


def run_until_killed(arguments: list[str], output: Path, num_images: int, after_s: float) -> bool:
    """Kill the command some seconds after it wrote so many images; return whether it ended before."""
    process = start_command(*arguments)
    goal = len(written_at(output)) + num_images
    while len(written_at(output)) < goal and process.is_alive():
        time.sleep(0.002)
    process.join(after_s)
    if process.is_alive():
        process.kill()
        process.join()
        return False
    return process.exitcode == 0


@pytest.mark.parametrize(
    ("num_rows", "num_kills"), [(8, 2), pytest.param(60, 25, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_batch_when_killed_at_any_moment_then_resumes_without_loss_or_repetition(
    images_path: Path, tmp_path: Path, num_rows: int, num_kills: int
) -> None:
    rows = [{"image": "image-0.png", "prompt": f"Number {number}"} for number in range(num_rows)]
    output = tmp_path / "out"
    arguments = ["batch", str(write_rows(images_path, rows)), "-o", str(output), *map(str, FAST)]
    first_seen: dict[str, int] = {}
    dice = random.Random(0)

    kills = 0
    for number in range(num_kills):
        # Every fourth kill comes while it starts, the others between and within the next edits.
        num_images, after_s = (0, dice.uniform(0, 0.5)) if number % 4 == 3 else (1, dice.uniform(0, 0.1))
        kills += not run_until_killed(arguments, output, num_images, after_s)
        for name, moment in written_at(output).items():
            Image.open(output / name).load()
            assert first_seen.setdefault(name, moment) == moment
    assert 0 < len(first_seen) < num_rows
    assert run_until_killed(arguments, output, 0, 250)

    assert kills == num_kills
    final = written_at(output)
    assert len(final) == num_rows
    assert {name: final[name] for name in first_seen} == first_seen
    assert not [path.name for path in output.iterdir() if path.name.startswith(".")]
    prompts = {str((read_record(output / name) or {})["prompt"]) for name in final}
    assert prompts == {row["prompt"] for row in rows}


def test_rows_when_they_hold_spatial_edits_then_these_are_run(
    joyimage: Joyimage, images_path: Path, tmp_path: Path
) -> None:
    rows = write_rows(
        images_path,
        [
            {"image": "image-0.png", "object": "the car", "box": [4, 4, 40, 40]},
            {"image": "image-0.png", "object": "car", "view": "rear-left"},
            {"image": "image-0.png", "yaw": 45, "zoom": "in"},
        ],
    )

    assert joyimage("batch", rows, "-o", tmp_path / "out", *FAST).code == 0

    records = [read_record(Path(line["output"])) for line in report_of(tmp_path / "out")]
    assert [record and record["kind"] for record in records] == ["move", "rotate", "camera"]
    assert records[0]
    assert records[0]["prompt"].startswith("Move the car into the red box")
    assert records[1]
    assert records[1]["prompt"] == "Rotate the car to show the rear left side view."
    before = written_at(tmp_path / "out")
    joyimage("batch", rows, "-o", tmp_path / "out", *FAST)
    assert written_at(tmp_path / "out") == before


def test_csv_when_a_box_is_text_then_it_is_read(
    joyimage: Joyimage, images_path: Path, tmp_path: Path
) -> None:
    rows = images_path / "rows.csv"
    rows.write_text('image,object,box,view,yaw\nimage-0.png,car,"0.1,0.1,0.5,0.5",,\nimage-0.png,,,,-90\n')

    assert joyimage("batch", rows, "-o", tmp_path / "out", *FAST).code == 0

    records = [read_record(Path(line["output"])) for line in report_of(tmp_path / "out")]
    assert [record and record["kind"] for record in records] == ["move", "camera"]


def test_rows_when_the_model_sees_no_such_object_then_these_fail_unless_forced(
    joyimage: Joyimage, tmp_path: Path
) -> None:
    write_examples(tmp_path)
    row = {"image": "shapes.png", "prompt": "Remove the elephant.", "steps": 1}
    rows = write_rows(tmp_path, [row, {**row, "force": True}, {**row, "prompt": "Remove the green star."}])

    outcome = joyimage("batch", rows, "-o", tmp_path / "out", "--model", "tiny", "--device", "cpu")

    assert outcome.code == 1
    report = report_of(tmp_path / "out")
    assert ["error" in line for line in report] == [True, False, False]
    assert "There is no elephant in this image" in report[0]["error"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"object": "car"}, "expected `box` (a move) or `view`"),
        ({"object": "car", "box": [4, 4, 40, 40], "view": "left"}, "expected object and box"),
        ({"yaw": 45, "prompt": "Turn it."}, "the fields `yaw`, `prompt`"),
        ({"yaw": "far"}, "its `yaw` is 'far'"),
        ({"object": "car", "view": "above"}, "`view` is 'above'"),
        ({"object": "car", "box": [4, 4, 400, 40]}, "`box`"),
        ({"object": "car", "box": "4,4"}, "`box`"),
        ({"zoom": "nearer"}, "`zoom` is 'nearer'"),
    ],
)
def test_row_when_its_spatial_edit_cannot_be_then_it_is_skipped_with_a_sentence(
    joyimage: Joyimage, images_path: Path, tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    rows = write_rows(images_path, [{"image": "image-0.png", **fields}])

    outcome = joyimage("batch", rows, "-o", tmp_path / "out", *FAST)

    assert outcome.code == 1
    assert words in report_of(tmp_path / "out")[0]["error"]
