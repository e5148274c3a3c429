"""`joyimage edit`: any image in, one whole image out, and bad input in one sentence."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from joyimage.imaging import read_record
from tests import random_models

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import CommandResult

    Joyimage = Callable[..., CommandResult]
FAST = ("--model", "tiny", "--steps", 1, "--device", "cpu")
PROMPT = "Recolor the heart orange."


def folder_of(path: Path) -> set[str]:
    return {file.name for file in path.iterdir()}


def test_edit_when_called_then_writes_the_image_and_says_which_model(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    outcome = joyimage("edit", image_path, PROMPT, "-o", tmp_path / "out.png", *FAST)

    assert outcome.code == 0
    assert outcome.out.splitlines() == [str(tmp_path / "out.png")]
    assert "Model tiny on cpu" in outcome.err
    assert Image.open(tmp_path / "out.png").size == (96, 96)
    assert folder_of(tmp_path) == {"image.png", "out.png"}


def test_edit_when_defaults_then_those_of_the_checkpoint(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    joyimage("edit", image_path, PROMPT, "-o", tmp_path / "out.png", "--model", "tiny")

    recipe = read_record(tmp_path / "out.png")
    assert recipe is not None
    assert (recipe["num_inference_steps"], recipe["guidance_scale"], recipe["base_size"]) == (4, 1.0, 96)


def test_edit_when_repeated_from_its_metadata_then_same_image(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    joyimage(
        "edit", image_path, PROMPT, "-o", tmp_path / "a.png", *FAST, "--guidance", 2, "--negative", "dark"
    )
    recipe = read_record(tmp_path / "a.png")
    assert recipe is not None

    joyimage(
        *("edit", image_path, recipe["prompt"], "-o", tmp_path / "b.png"),
        *(
            "--model",
            recipe["model"],
            "--steps",
            recipe["num_inference_steps"],
            "--guidance",
            recipe["guidance_scale"],
        ),
        *(
            "--negative",
            recipe["negative_prompt"],
            "--seed",
            recipe["seed"],
            "--base-size",
            recipe["base_size"],
        ),
        *("--size", f"{recipe['width']}x{recipe['height']}"),
        *("--device", recipe["device"], "--dtype", recipe["dtype"]),
    )

    first, second = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    assert np.array_equal(first, second)


def test_edit_when_like_another_then_same_image_and_given_options_win(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    first = ("edit", image_path, PROMPT, "-o", tmp_path / "a.png", *FAST, "--seed", 11, "--guidance", 2)
    joyimage(*first, "--size", "64x128", "--fit", "pad", "--restore")

    same = joyimage("edit", image_path, "--like", tmp_path / "a.png", "-o", tmp_path / "b.png")
    other = joyimage("edit", image_path, "--like", tmp_path / "a.png", "-o", tmp_path / "c.png", "--seed", 12)

    assert (same.code, other.code) == (0, 0)
    images = [np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png", "c.png")]
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_edit_when_like_a_plain_image_or_no_prompt_then_one_sentence(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    like = joyimage("edit", image_path, "--like", image_path, "-o", tmp_path / "out.png")
    bare = joyimage("edit", image_path, "-o", tmp_path / "out.png")

    assert (like.code, bare.code) == (2, 2)
    assert "no record" in like.err
    assert "PROMPT" in bare.err


def test_edit_when_no_metadata_then_none_is_written(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    joyimage("edit", image_path, PROMPT, "-o", tmp_path / "out.png", *FAST, "--no-metadata")

    assert read_record(tmp_path / "out.png") is None
    assert joyimage("info", tmp_path / "out.png").code == 2


def test_edit_when_several_then_numbered_and_each_is_its_own_seed(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    common = ("edit", image_path, PROMPT, *FAST)
    outcome = joyimage(*common, "-o", tmp_path / "out.png", "--num", 2, "--seed", 5)
    joyimage(*common, "-o", tmp_path / "single.png", "--seed", 6)

    assert outcome.err.endswith(" of loading, seeds 5 to 6.\n")
    assert outcome.out.splitlines() == [str(tmp_path / f"out-{number}.png") for number in (1, 2)]
    second = np.asarray(Image.open(tmp_path / "out-2.png")).astype(int)
    single = np.asarray(Image.open(tmp_path / "single.png")).astype(int)
    assert np.abs(second - single).max() <= 2
    assert json.loads(joyimage("info", tmp_path / "out-2.png", "--json").out)["seed"] == 6
    assert "seed" in joyimage("info", tmp_path / "out-2.png").out


@pytest.mark.parametrize("output", ["out.jpg", "out.webp"])
def test_edit_when_other_formats_then_reads_and_writes_them(
    joyimage: Joyimage, tmp_path: Path, output: str
) -> None:
    source = tmp_path / "source.webp"
    random_models.make_image(0, 60, 120).convert("RGBA").save(source)

    outcome = joyimage(
        "edit", source, PROMPT, "-o", tmp_path / output, *FAST, "--base-size", 64, "--size", "64x64"
    )

    assert outcome.code == 0
    assert Image.open(tmp_path / output).size == (64, 64)


def test_edit_when_restored_transparent_image_goes_to_jpeg_then_on_white(
    joyimage: Joyimage, tmp_path: Path
) -> None:
    image = random_models.make_image(0, 96, 96).convert("RGBA")
    image.putalpha(0)
    image.save(tmp_path / "clear.png")

    # There is nothing to see in it, which the model says.
    options = (*FAST, "--restore", "--force")
    outcome = joyimage("edit", tmp_path / "clear.png", PROMPT, "-o", tmp_path / "out.jpg", *options)

    assert outcome.code == 0
    assert np.asarray(Image.open(tmp_path / "out.jpg")).min() > 250


def test_edit_when_jpeg_is_rotated_by_exif_then_upright(joyimage: Joyimage, tmp_path: Path) -> None:
    image = random_models.make_image(0, 64, 128)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", exif=exif, quality=95)

    joyimage("edit", tmp_path / "turned.jpg", PROMPT, "-o", tmp_path / "out.png", *FAST)

    width, height = Image.open(tmp_path / "out.png").size
    assert width > height


def test_edit_when_16_bit_then_read(joyimage: Joyimage, tmp_path: Path) -> None:
    gray = np.asarray(random_models.make_image(0, 96, 96).convert("L")).astype(np.uint16) * 257
    Image.fromarray(gray).save(tmp_path / "deep.png")

    assert joyimage("edit", tmp_path / "deep.png", PROMPT, "-o", tmp_path / "out.png", *FAST).code == 0


def test_generate_when_called_then_a_image_from_text_alone(joyimage: Joyimage, tmp_path: Path) -> None:
    outcome = joyimage("generate", "A red star.", "-o", tmp_path / "out.png", *FAST, "--size", "64x128")

    assert outcome.code == 0
    assert Image.open(tmp_path / "out.png").size == (64, 128)
    recipe = read_record(tmp_path / "out.png")
    assert recipe is not None
    assert (recipe["kind"], recipe["prompt"], recipe["input_sha256"]) == ("generate", "A red star.", None)


def test_generate_when_framed_then_rejected(joyimage: Joyimage, tmp_path: Path) -> None:
    outcome = joyimage("generate", "A red star.", "-o", tmp_path / "out.png", "--fit", "pad")

    assert outcome.code == 2
    assert "--fit" in outcome.err


def make_bad_files(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"not an image file" * 9)
    (folder / "text.jpg").write_text("hello")
    whole = folder / "whole.jpg"
    random_models.make_image(0, 200, 200).save(whole)
    (folder / "cut.jpg").write_bytes(whole.read_bytes()[:900])
    whole.unlink()
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    (folder / "folder.png").mkdir()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("missing.png", ["missing.png", "no such file"]),
        ("broken.png", ["broken.png"]),
        ("text.jpg", ["text.jpg", "not an image file"]),
        ("cut.jpg", ["cut.jpg", "damaged"]),
        ("huge.png", ["huge.png", "20000x20000", "at most 128,000,000 are read"]),
        ("folder.png", ["folder.png", "directory"]),
    ],
)
def test_edit_when_image_is_bad_then_one_sentence_and_exit_2(
    joyimage: Joyimage, tmp_path: Path, image: str, words: list[str]
) -> None:
    make_bad_files(tmp_path)
    before = folder_of(tmp_path)

    outcome = joyimage("edit", tmp_path / image, PROMPT, "-o", tmp_path / "out.png", *FAST)

    assert outcome.code == 2
    assert outcome.out == ""
    assert len(outcome.err.strip().splitlines()) == 1
    for word in words:
        assert word in outcome.err
    assert folder_of(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "out.gif"], ["out.gif", ".png"]),
        (["-o", "missing/out.png"], ["missing", "doesn't exist"]),
        (["-o", "out.png", "--size", "big"], ["--size", "big", "WIDTHxHEIGHT"]),
        (["-o", "out.png", "--steps", "0"], ["--steps", "0"]),
        (["-o", "out.png", "--steps", "many"], ["many"]),
        (["-o", "out.png", "--num", "0"], ["--num", "0"]),
        (["-o", "out.png", "--base-size", "100"], ["--base-size", "100", "1024"]),
        (["-o", "out.png", "--dtype", "int8"], ["--dtype", "int8", "bfloat16"]),
        (["-o", "out.png", "--model", "./nothing"], ["no folder ./nothing"]),
        (["-o", "out.png", "--lora", "nothing.safetensors"], ["nothing.safetensors"]),
        (["-o", "out.png", "--color", "red"], ["--color"]),
        ([], ["--output"]),
    ],
    ids=" ".join,
)
def test_edit_when_an_option_is_wrong_then_one_sentence_and_exit_2(
    joyimage: Joyimage,
    image_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    outcome = joyimage(
        "edit", image_path, PROMPT, *([] if "--model" in arguments else ["--model", "tiny"]), *arguments
    )

    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.err
    assert folder_of(tmp_path) == {"image.png"}


def test_edit_when_disk_is_full_then_one_sentence_and_no_partial_file(
    joyimage: Joyimage, image_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.png").write_bytes(b"older")

    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    outcome = joyimage("edit", image_path, PROMPT, "-o", tmp_path / "out.png", *FAST)

    assert outcome.code == 2
    assert "No space left" in outcome.err
    assert folder_of(tmp_path) == {"image.png", "out.png"}
    assert (tmp_path / "out.png").read_bytes() == b"older"


def test_edit_when_interrupted_then_exit_130(
    joyimage: Joyimage, image_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from joyimage.pipeline.edit import JoyImageEditPipeline

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(JoyImageEditPipeline, "__call__", interrupt)

    assert joyimage("edit", image_path, PROMPT, "-o", tmp_path / "out.png", *FAST).code == 130
    assert folder_of(tmp_path) == {"image.png"}


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_edit_when_region_then_nothing_changes_outside_and_like_keeps_it(
    kind: str, joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    mask = Image.new("L", (96, 96))
    mask.paste(255, (48, 0, 96, 96))
    mask.save(tmp_path / "mask.png")
    region = "0.5,0,1,1" if kind == "box" else tmp_path / "mask.png"

    first = joyimage("edit", image_path, PROMPT, "-o", tmp_path / "a.png", *FAST, "--region", region)
    joyimage("edit", image_path, "-o", tmp_path / "b.png", "--like", tmp_path / "a.png", *FAST)

    assert first.code == 0, first.err
    before, after, again = (
        np.asarray(Image.open(path).convert("RGB"))
        for path in (image_path, tmp_path / "a.png", tmp_path / "b.png")
    )
    assert (after[:, :48] == before[:, :48]).all()
    assert (after[:, 60:] != before[:, 60:]).any()
    assert (again == after).all()


def test_edit_when_like_and_a_framing_of_ones_own_then_ones_own(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    joyimage("edit", image_path, PROMPT, "-o", tmp_path / "a.png", *FAST, "--restore")
    joyimage(
        "edit", image_path, "-o", tmp_path / "b.png", "--like", tmp_path / "a.png", *FAST, "--fit", "pad"
    )

    recipe = read_record(tmp_path / "b.png")
    assert recipe is not None
    assert (recipe["fit"], recipe["restore"]) == ("pad", True)


def test_edit_when_region_is_neither_numbers_nor_a_file_then_one_sentence(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    outcome = joyimage("edit", image_path, PROMPT, "-o", tmp_path / "a.png", *FAST, "--region", "left half")

    assert outcome.code == 2
    assert "left half" in outcome.err
    assert folder_of(tmp_path) == {"image.png"}
