"""Where images come from and go to: nothing of the user's is lost, and nothing is found out after the work."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from joyimage import loading
from joyimage.cli import runners
from joyimage.imaging import read_record
from tests import random_models

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import CommandResult

    Joyimage = Callable[..., CommandResult]
FAST = ("--model", "tiny", "--steps", 1, "--device", "cpu")
PROMPT = "Recolor the heart orange."


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model fails the test: what is checked has to be rejected before."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(loading, "load_pipeline", fail)


def test_output_when_it_is_the_input_then_rejected_and_the_photo_is_untouched(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    before = image_path.read_bytes()
    (tmp_path / "link.png").symlink_to(image_path)
    os.link(image_path, tmp_path / "hard.png")

    for name in (image_path, tmp_path / "link.png", tmp_path / "hard.png", tmp_path / "." / "image.png"):
        outcome = joyimage("edit", image_path, PROMPT, "-o", name, *FAST)
        assert outcome.code == 2
        assert "--overwrite" in outcome.err
        assert image_path.read_bytes() == before
    assert joyimage("edit", image_path, PROMPT, "-o", image_path, *FAST, "--overwrite").code == 0
    assert image_path.read_bytes() != before


def test_source_when_deleted_during_the_edit_then_the_result_and_its_hash_are_there(
    joyimage: Joyimage, image_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = hashlib.sha256(image_path.read_bytes()).hexdigest()
    run = runners.LocalRunner.run

    def run_and_delete(self: Any, *arguments: Any, **options: Any) -> Any:
        image_path.unlink()
        return run(self, *arguments, **options)

    monkeypatch.setattr(runners.LocalRunner, "run", run_and_delete)

    assert joyimage("edit", image_path, PROMPT, "-o", tmp_path / "out.png", *FAST).code == 0
    assert (read_record(tmp_path / "out.png") or {})["input_sha256"] == expected


def test_pipe_when_it_is_the_input_then_read_once(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    content = image_path.read_bytes()
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(content), daemon=True)
    writer.start()

    outcome = joyimage("edit", tmp_path / "pipe", PROMPT, "-o", tmp_path / "out.png", *FAST)

    assert outcome.code == 0, outcome.err
    assert (read_record(tmp_path / "out.png") or {})["input_sha256"] == hashlib.sha256(content).hexdigest()


def test_dash_when_input_and_output_then_standard_streams_and_nothing_else_on_them(
    image_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from joyimage.cli.main import main

    class Stream:
        def __init__(self, content: bytes = b"") -> None:
            self.buffer = io.BytesIO(content)

        def write(self, text: str) -> int:
            return self.buffer.write(text.encode())

        def flush(self) -> None:
            pass

        def isatty(self) -> bool:
            return False

    output = Stream()
    monkeypatch.setattr(sys, "stdin", Stream(image_path.read_bytes()))
    monkeypatch.setattr(sys, "stdout", output)

    code = main(["edit", "-", PROMPT, "-o", "-", *map(str, FAST), "--seed", "3"])

    assert code == 0, capsys.readouterr().err
    made = Image.open(io.BytesIO(output.buffer.getvalue()))
    assert made.size == (96, 96)
    assert json.loads(made.info["joyimage"])["seed"] == 3
    assert output.buffer.getvalue().endswith(b"IEND\xaeB`\x82")


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["edit", "IN", PROMPT, "-o", "/sys/out.png"], "/sys/out.png"),
        (["edit", "IN", PROMPT, "-o", "n" * 300 + ".png"], "too long"),
        (["edit", "IN", PROMPT, "-o", "out.gif"], ".png"),
        (["edit", "IN", PROMPT, "-o", "."], "is a folder"),
        (["edit", "IN", PROMPT, "-o", "/dev/null/o.png"], "not a folder"),
        (["edit", "IN", PROMPT, "-o", "pipe.png"], "not a regular file"),
        (["edit", "IN", PROMPT, "-o", "loop.png"], "symbolic links"),
        (["edit", "http://localhost/a.png", PROMPT, "-o", "out.png"], "http://localhost/a.png can't be read"),
        (["edit", "IN", "", "-o", "out.png"], "PROMPT"),
        (["edit", "IN", " ", "-o", "out.png"], "PROMPT"),
        (["edit", "IN", "half \udcff pair", "-o", "out.png"], "Unicode"),
        (["edit", "IN", PROMPT, "-o", "out.png", "--steps", "0"], "--steps 0"),
        (["edit", "IN", PROMPT, "-o", "out.png", "--steps", "1.5"], "--steps 1.5"),
        (["edit", "IN", PROMPT, "-o", "out.png", "--guidance", "-3"], "--guidance"),
        (["edit", "IN", PROMPT, "-o", "out.png", "--guidance", "nan"], "--guidance nan"),
        (["edit", "IN", PROMPT, "-o", "out.png", "--seed", "18446744073709551616"], "--seed"),
        (["edit", "IN", PROMPT, "-o", "out.png", "--fit", "cover"], "--fit cover"),
        (["edit", "IN", PROMPT, "-o", "out.png", "--region", "5,5"], "--region"),
        (["edit", "IN", PROMPT, "-o", "out.png", "--region", "0,0,500,500"], "`--region`"),
        (["edit", "IN", PROMPT, "-o", "out.png", "--region", "gone.png"], "gone.png"),
        (["edit", "IN", PROMPT, "-o", "out.png", "--rewrite", "yes"], "--rewrite"),
        (["edit", "IN", PROMPT, "-o", "out.png", "--size", "²x²"], "--size"),
        (["edit", "IN", PROMPT, "-o", "out.png", "--lora", "gone"], "gone"),
        (["edit", "IN", PROMPT, "-o", "out.png", "--offload", "some"], "--offload"),
        (["edit", "IN", PROMPT, "-o", "out.png", "--base-size", "100"], "100"),
        (["edit", "IN", PROMPT, "-o", "out.png", "--server", "ftp://x"], "`--server` is 'ftp://x'"),
        (["edit", "IN", PROMPT, "-o", "out.png", "--server", ""], "`--server` is ''"),
        (["camera", "IN", "-o", "out.png"], "does not move"),
        (["camera", "IN", "--yaw", "0", "-o", "out.png"], "does not move"),
        (["camera", "IN", "--yaw", "500", "-o", "out.png"], "--yaw 500"),
        (["camera", "IN", "--pitch", "90", "-o", "out.png"], "--pitch 90"),
        (["move", "IN", "the", "0.1,0.1,0.4,0.4", "-o", "out.png"], "`OBJECT`"),
        (["move", "IN", "heart", "10,10,400,40", "-o", "out.png"], "`BOX`"),
        (["generate", "", "-o", "out.png"], "PROMPT"),
        (["batch", ".", "x", "-o", "."], "Name another"),
        (["batch", ".", "x", "-o", "out", "--no-metadata"], "--no-metadata"),
        (["edit", "IN", "x", "-o", "out.png", "--num", "2", "--seed", str(2**53 - 1)], "`--seed` is"),
        (["edit", "IN", "x", "-o", "out.png", "--region", "IN", "--size", "nope"], "--size"),
        (["edit", "IN", "x", "-o", "out.png", "--server", "http://127.0.0.1:1"], "cannot be reached"),
        (["edit", "IN", "x", "-o", "out.png", "--rewrite", "http://127.0.0.1:1/v1"], "is unreachable"),
    ],
)
def test_command_when_something_is_wrong_then_one_line_before_the_model_is_loaded(
    joyimage: Joyimage, image_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(image_path.parent)
    os.mkfifo("pipe.png")
    Path("loop.png").symlink_to("loop.png")
    names = [str(image_path) if word == "IN" else word for word in arguments]

    outcome = joyimage(*names)

    assert outcome.code == 2, outcome.err
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
    assert sorted(path.name for path in image_path.parent.iterdir()) == ["image.png", "loop.png", "pipe.png"]


def test_warning_when_off_the_trained_grid_then_one_plain_line_once(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    outcome = joyimage("camera", image_path, "--yaw", 44, "-o", tmp_path / "out.png", *FAST)

    assert outcome.code == 0
    assert outcome.err.count("not on the trained grid") == 1
    assert [line for line in outcome.err.splitlines() if line.startswith("Warning: Yaw 44")]
    assert ".py" not in outcome.err


@pytest.mark.parametrize("words", [("edit", "IN", PROMPT), ("camera", "IN", "--zoom", "in")])
def test_warning_of_python_when_a_library_raises_it_then_one_plain_line_and_source_only_with_debug(
    joyimage: Joyimage,
    image_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:
    from joyimage.pipeline.edit import JoyImageEditPipeline

    plain_call = JoyImageEditPipeline.__call__

    def call(*arguments: Any, **settings: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            for _ in range(3):
                warnings.warn("something odd\nin two lines", UserWarning, stacklevel=1)
        return plain_call(*arguments, **settings)

    monkeypatch.setattr(JoyImageEditPipeline, "__call__", call)
    names = [str(image_path) if word == "IN" else word for word in words]

    outcome = joyimage(*names, "-o", tmp_path / "out.png", *FAST)
    again = joyimage(*names, "-o", tmp_path / "out.png", *FAST)

    for one in (outcome, again):
        assert one.code == 0
        assert one.err.splitlines().count("Warning: something odd in two lines") == 1
        assert ".py" not in one.err


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ("96x96", "96x96 pixels in"),
        ("2000x1000", "128x64 pixels (the trained size nearest to 2000x1000) in"),
    ],
)
def test_report_when_a_size_is_requested_then_says_which_one_was_used(
    joyimage: Joyimage, image_path: Path, tmp_path: Path, size: str, words: str
) -> None:
    outcome = joyimage("edit", image_path, PROMPT, "-o", tmp_path / "out.png", *FAST, "--size", size)

    assert words in outcome.err


@pytest.mark.parametrize(
    ("size", "options", "share"),
    [
        ((4000, 20), (), "2%"),
        ((20, 400), (), "20%"),
        ((96, 96), ("--size", "192x48"), "25%"),
        ((403, 302), (), None),
        ((192, 108), (), None),
        ((4000, 20), ("--fit", "pad"), None),
        ((4000, 200), ("--fit", "exact"), None),
    ],
)
def test_image_when_most_of_it_would_be_cropped_then_one_warning_with_the_way_out(
    joyimage: Joyimage, tmp_path: Path, size: tuple[int, int], options: tuple[str, ...], share: str | None
) -> None:
    random_models.make_image(0, size[1], size[0]).save(tmp_path / "in.png")

    outcome = joyimage("edit", tmp_path / "in.png", PROMPT, "-o", tmp_path / "out.png", *FAST, *options)

    assert outcome.code == 0
    warnings_ = [line for line in outcome.err.splitlines() if "is edited, as it is cropped" in line]
    assert len(warnings_) == (0 if share is None else 1)
    if share is not None:
        assert f"only {share} of the image of {size[0]}x{size[1]} pixels" in warnings_[0]
        assert "--fit pad" in warnings_[0]


def test_report_when_restored_then_the_size_of_the_file_and_that_of_the_edit(
    joyimage: Joyimage, tmp_path: Path
) -> None:
    random_models.make_image(0, 120, 200).save(tmp_path / "wide.png")

    outcome = joyimage("edit", tmp_path / "wide.png", PROMPT, "-o", tmp_path / "out.png", *FAST, "--restore")

    assert Image.open(tmp_path / "out.png").size == (200, 120)
    assert "200x120 pixels (edited at 112x64)" in outcome.err


def test_restored_photo_when_written_then_keeps_resolution_and_date(
    joyimage: Joyimage, tmp_path: Path
) -> None:
    details = Image.Exif()
    details.get_ifd(0x8769)[0x9003] = "2026:01:31 12:00:00"
    details[0x0112] = 6
    random_models.make_image(0, 120, 200).save(tmp_path / "in.jpg", dpi=(300, 300), exif=details)

    assert (
        joyimage("edit", tmp_path / "in.jpg", PROMPT, "-o", tmp_path / "out.jpg", *FAST, "--restore").code
        == 0
    )

    with Image.open(tmp_path / "out.jpg") as made:
        assert made.size == (120, 200)
        assert made.info["dpi"] == (300, 300)
        exif = made.getexif()
        assert exif.get_ifd(0x8769)[0x9003] == "2026:01:31 12:00:00"
        assert 0x0112 not in exif


def test_output_when_bmp_then_says_that_it_holds_no_record(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    made = joyimage("edit", image_path, PROMPT, "-o", tmp_path / "out.bmp", *FAST)
    again = joyimage("edit", image_path, "--like", tmp_path / "out.bmp", "-o", tmp_path / "again.png")

    assert made.code == 0
    assert made.err.count("BMP holds no record") == 1
    assert again.code == 2
    assert "BMP files hold no record." in again.err


def test_image_when_its_name_is_typed_with_other_accents_then_found(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    image_path.rename(tmp_path / "Ku\u0308che.png")

    assert joyimage("edit", tmp_path / "K\u00fcche.png", PROMPT, "-o", tmp_path / "out.png", *FAST).code == 0


@pytest.mark.parametrize(
    ("field", "value"), [("fit", "x"), ("base_size", "y"), ("guidance_scale", -5), ("seed", "many")]
)
def test_like_when_a_field_of_the_record_is_wrong_then_named_as_a_field_not_as_an_option(
    joyimage: Joyimage, image_path: Path, tmp_path: Path, field: str, value: object
) -> None:
    record = PngInfo()
    record.add_itxt("joyimage", json.dumps({"kind": "edit", "prompt": PROMPT, field: value}))
    Image.new("RGB", (8, 8)).save(tmp_path / "made.png", pnginfo=record)

    outcome = joyimage("edit", image_path, "--like", tmp_path / "made.png", "-o", tmp_path / "out.png")

    assert outcome.code == 2
    assert f"made.png can't be read: its field {field} is {value!r}" in outcome.err


@pytest.mark.parametrize("name", ["out.jpg", "out.webp", "out.avif", "out.tiff"])
def test_like_when_the_record_is_in_another_format_then_the_same_edit(
    joyimage: Joyimage, image_path: Path, tmp_path: Path, name: str
) -> None:
    joyimage(
        "edit",
        image_path,
        PROMPT,
        "-o",
        tmp_path / name,
        *FAST,
        "--seed",
        4,
        "--guidance",
        2,
        "--fit",
        "pad",
    )

    again = joyimage("edit", image_path, "--like", tmp_path / name, "-o", tmp_path / "again.png")
    first = joyimage(
        "edit",
        image_path,
        PROMPT,
        "-o",
        tmp_path / "a.png",
        *FAST,
        "--seed",
        4,
        "--guidance",
        2,
        "--fit",
        "pad",
    )

    assert (again.code, first.code) == (0, 0)
    assert np.array_equal(
        np.asarray(Image.open(tmp_path / "again.png")), np.asarray(Image.open(tmp_path / "a.png"))
    )


@pytest.mark.parametrize("command", ["move", "rotate", "camera"])
def test_like_when_a_spatial_edit_then_repeated_and_another_image_is_noted(
    joyimage: Joyimage, image_path: Path, tmp_path: Path, command: str
) -> None:
    arguments = {"move": ["heart", "0.1,0.1,0.5,0.5"], "rotate": ["car", "left"], "camera": ["--yaw", "45"]}[
        command
    ]
    joyimage(command, image_path, *arguments, "-o", tmp_path / "a.png", *FAST, "--seed", 4)
    random_models.make_image(5, 96, 96).save(tmp_path / "other.png")

    again = joyimage(command, image_path, "--like", tmp_path / "a.png", "-o", tmp_path / "b.png")
    other = joyimage(command, tmp_path / "other.png", "--like", tmp_path / "a.png", "-o", tmp_path / "c.png")
    wrong = joyimage("edit", image_path, "--like", tmp_path / "a.png", "-o", tmp_path / "d.png")

    assert np.array_equal(
        np.asarray(Image.open(tmp_path / "b.png")), np.asarray(Image.open(tmp_path / "a.png"))
    )
    assert "another image" in other.err
    assert "another image" not in again.err
    assert wrong.code == 2
    assert f"records a `joyimage {command}`" in wrong.err


@pytest.mark.parametrize(
    ("option", "is_own"),
    [("--no-restore", False), ("--restore", True), ("--fit=crop", None), ("--fit=pad", None)],
)
def test_like_when_an_option_is_given_then_it_wins_even_where_it_is_the_default(
    joyimage: Joyimage, image_path: Path, tmp_path: Path, option: str, is_own: bool | None
) -> None:
    joyimage("edit", image_path, PROMPT, "-o", tmp_path / "a.png", *FAST, "--fit", "pad", "--restore")

    joyimage("edit", image_path, "--like", tmp_path / "a.png", "-o", tmp_path / "b.png", option)

    record = read_record(tmp_path / "b.png") or {}
    assert record["fit"] == (option.partition("=")[2] or "pad")
    assert record["restore"] == (True if is_own is None else is_own)


def test_default_model_when_the_image_is_a_photo_then_one_line_before_and_after(
    joyimage: Joyimage, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (600, 800, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")

    outcome = joyimage(
        "edit", tmp_path / "photo.png", "Add an elephant.", "-o", tmp_path / "out.png", "--steps", 1
    )
    chosen = joyimage("edit", tmp_path / "photo.png", "Add an elephant.", "-o", tmp_path / "b.png", *FAST)

    warnings = [
        line for line in outcome.err.splitlines() if line.startswith("Warning: the embedded tiny model")
    ]
    assert len(warnings) == 2
    assert "800x600" in warnings[0]
    assert "elephant" in warnings[0]
    assert "Warning" not in chosen.err


def test_batch_when_a_row_fails_in_any_way_then_the_others_are_made(
    joyimage: Joyimage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        random_models.make_image(number, 64, 64).save(folder / f"{number}.png")
    run = runners.LocalRunner.run
    errors = iter([None, MemoryError("too much"), None])

    def fail_once(self: Any, *arguments: Any, **options: Any) -> Any:
        error = next(errors)
        if error is not None:
            raise error
        return run(self, *arguments, **options)

    monkeypatch.setattr(runners.LocalRunner, "run", fail_once)

    outcome = joyimage("batch", folder, PROMPT, "-o", tmp_path / "out", *FAST, "--base-size", 64)

    assert outcome.code == 1
    assert "Row 2: too much" in outcome.err
    assert {path.name for path in (tmp_path / "out").glob("?.png")} == {"0.png", "2.png"}


def test_batch_when_several_images_are_asked_for_then_numbered_and_done_only_when_all_are_there(
    joyimage: Joyimage, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    random_models.make_image(0, 64, 64).save(folder / "a.png")
    arguments = ("batch", folder, PROMPT, "-o", tmp_path / "out", *FAST, "--base-size", 64, "--num", 2)

    joyimage(*arguments)
    (tmp_path / "out" / "a-2.png").unlink()
    again = joyimage(*arguments)
    third = joyimage(*arguments)

    assert {path.name for path in (tmp_path / "out").glob("a*")} == {"a-1.png", "a-2.png"}
    assert "1 made, 0 already there" in again.err
    assert "0 made, 1 already there" in third.err


def test_edit_when_the_mask_or_the_aspect_ratio_does_not_fit_then_one_line_before_the_model_is_loaded(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    Image.new("L", (50, 40)).save(tmp_path / "small.png")
    (tmp_path / "notes.png").write_text("no image")
    Image.new("RGB", (600, 2)).save(tmp_path / "strip.png")

    for image, options, words in (
        (image_path, ("--region", tmp_path / "small.png"), "50x40 pixels; expected 96x96"),
        (image_path, ("--region", tmp_path / "notes.png"), "is not an image file"),
        (tmp_path / "strip.png", ("--fit", "exact"), "600x2"),
    ):
        outcome = joyimage("edit", image, PROMPT, "-o", tmp_path / "out.png", *FAST, *options)

        assert outcome.code == 2
        assert words in outcome.err
        assert outcome.err.count("\n") == 1


def test_batch_when_the_seed_of_a_row_leaves_none_for_its_last_image_then_the_row_is_reported(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    rows = [{"image": image_path.name, "prompt": "x", "seed": 2**53 - 1, "num_images": n} for n in (1, 2)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))

    outcome = joyimage("batch", tmp_path / "rows.jsonl", "-o", tmp_path / "out", *FAST)

    assert outcome.code == 1
    assert "Row 2: its `seed` is 9007199254740991; expected at most 9007199254740990" in outcome.err
    assert "1 made" in outcome.err
