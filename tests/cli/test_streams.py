"""What the command prints where a terminal or pipe does not take it, and inputs that are no files."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests import random_models

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import CommandResult

    Joyimage = Callable[..., CommandResult]

RUN = [sys.executable, "-c", "import sys; from joyimage.cli.main import main; sys.exit(main())"]
# What is not UTF-8 in a file's name, and what Windows' code page does not have.
NAMES = [b"caf\xe9.png", "赤い.png".encode(), b"line\nbreak.png"]


def write_recorded(path: Path) -> None:
    from joyimage.edits import Defaults, Edit, Record
    from joyimage.imaging import write_image

    edit = Edit(prompt="Füge ein 赤い Herz hinzu").resolve(Defaults())
    write_image(random_models.make_image(0, 32, 32), path, Record(edit=edit).to_dict())


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_info_when_the_terminal_lacks_a_character_then_still_printed(tmp_path: Path, encoding: str) -> None:
    write_recorded(tmp_path / "a.png")
    environment = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"}

    run = subprocess.run(
        [*RUN, "info", "a.png"], cwd=tmp_path, env=environment, capture_output=True, check=False
    )

    assert run.returncode == 0, run.stderr
    assert b"prompt" in run.stdout
    assert ("赤い".encode() in run.stdout) == (encoding == "utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_path_when_its_bytes_are_no_text_then_printed_as_they_are(tmp_path: Path, name: bytes) -> None:
    folder = tmp_path / os.fsdecode(name)
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}

    run = subprocess.run(
        [*RUN, "examples", folder.name], cwd=tmp_path, env=environment, capture_output=True, check=False
    )

    assert run.returncode == 0, run.stderr
    assert name + b"/shapes.png" in run.stdout


def test_pipe_when_its_reader_is_gone_then_no_traceback(tmp_path: Path) -> None:
    write_recorded(tmp_path / "a.png")
    reader, writer = os.pipe()
    os.close(reader)

    run = subprocess.run(
        [*RUN, "info", "a.png"], cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, check=False
    )

    os.close(writer)
    assert run.returncode == 1
    assert run.stderr == b""


@pytest.mark.parametrize("address", ["https://example.com/a.png", "file:///tmp/a.png", "s3://bucket/a.png"])
def test_image_when_it_is_an_address_then_says_to_download_it(
    joyimage: Joyimage, tmp_path: Path, address: str
) -> None:
    outcome = joyimage("edit", address, "x", "-o", tmp_path / "out.png")

    assert outcome.code == 2
    assert "it is an address; expected a file. Download it first." in outcome.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["edit", "", "x", "-o", "out.png"], "`IMAGE` is empty"),
        (["edit", "image.png", "x", "-o", ""], "`-o` is empty"),
        (["edit", "image.png", "x", "-o", "out.png", "--ref", ""], "`--ref` is empty"),
        (["edit", "image.png", "x", "-o", "out.png", "--vae", ""], "`--vae` is empty"),
        (["batch", "", "x", "-o", "out"], "`SOURCE` is empty"),
        (["batch", "image.png", "x", "-o", "-"], "`-o` is -, a standard stream"),
        (["examples", ""], "`FOLDER` is empty"),
        (["examples", "-"], "`FOLDER` is -, a standard stream"),
        (["convert", "lora", "a.safetensors", "-"], "`OUTPUT` is -, a standard stream"),
        (["edit", "file:///a.png", "x", "-o", "out.png"], "file:///a.png can't be read"),
        (["edit", "nan.tif", "x", "-o", "out.png"], "nan.tif holds the value nan"),
        (["edit", "image.png", "x", "-o", "image-1.png", "--region", "image-1.png"], "is the input file"),
        (["edit", "-", "--like", "-", "-o", "out.png"], "`-` is given for more than one image"),
        (["edit", "image.png", "x", "-o", "image.png/out.png"], "image.png is a file, not a folder"),
        (["edit", "image.png", "x", "-o", "image.png/sub/out.png"], "can't be written"),
        (["edit", "image.png/in.png", "x", "-o", "out.png"], "not a directory"),
        (["edit", "loop.png", "x", "-o", "out.png"], "symbolic links"),
        (["edit", "/dev/null", "x", "-o", "out.png"], "is empty"),
        (["edit", "image.png", "x", "-o", "/dev/null"], "no known format"),
        (["edit", "-", "x", "-o", "out.png", "--ref", "-"], "`-` is given for more than one image"),
        (["edit", "image.png", "x", "-o", "-", "--num", "2"], "standard output takes one image"),
        (
            ["edit", "image-1.png", "x", "-o", "image.png", "--num", "2"],
            "image-1.png is the input file",
        ),
        (["edit", "image.png", "x", "-o", "out.png", "--model", " "], "`--model` is empty"),
        (["rewrite", "x", "--how", "ftp://host"], "`--how` is 'ftp://host'"),
        (
            ["move", "image.png", "heart", "50,50,10,10", "-o", "out.png"],
            "50, 50, 10, 10 (left, top, right",
        ),
        (["move", "image.png", "heart", "0,0,97,97", "-o", "out.png"], "inside the image of 96x96 pixels"),
    ],
)
def test_path_when_it_leads_nowhere_then_one_line_before_the_model_is_loaded(
    joyimage: Joyimage, image_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(image_path.parent)
    Path("loop.png").symlink_to("loop.png")
    Path("image-1.png").write_bytes(image_path.read_bytes())
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save("nan.tif")
    before = sorted(image_path.parent.iterdir())

    outcome = joyimage(*arguments)

    assert outcome.code == 2
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
    assert "Loading" not in outcome.err
    assert sorted(image_path.parent.iterdir()) == before


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_standard_input_when_closed_empty_or_no_image_then_named_in_one_line(
    joyimage: Joyimage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    stream = None if content is None else SimpleNamespace(buffer=io.BytesIO(content))
    monkeypatch.setattr("sys.stdin", stream)

    outcome = joyimage("edit", "-", "x", "-o", tmp_path / "out.png")

    assert outcome.code == 2
    assert outcome.err.startswith("Standard input is ")
    assert outcome.err.count("\n") == 1


def test_standard_input_when_it_is_an_output_then_its_record_is_read(
    joyimage: Joyimage, image_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recorded(tmp_path / "made.jpg")

    def give_input() -> None:
        content = (tmp_path / "made.jpg").read_bytes()
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))

    give_input()
    shown = joyimage("info", "-", "--json")
    give_input()
    command = ("edit", image_path, "--like", "-", "--model", "tiny", "--steps", 1, "-o", tmp_path / "out.png")
    repeated = joyimage(*command)

    assert json.loads(shown.out)["prompt"] == "Füge ein 赤い Herz hinzu"
    assert repeated.code == 0, repeated.err
    assert json.loads(joyimage("info", tmp_path / "out.png", "--json").out)["prompt"].endswith("Herz hinzu")


RECORDS: list[object] = [
    {},
    [],
    "x",
    5,
    None,
    {"kind": 5},
    {"kind": "frob", "prompt": "x"},
    {"kind": "edit"},
    {"kind": "edit", "prompt": None},
    {"kind": "edit", "prompt": ["x"]},
    {"kind": "edit", "prompt": "x", "seed": "abc"},
    {"kind": "edit", "prompt": "x", "seed": 2**60},
    {"kind": "edit", "prompt": "x", "guidance_scale": float("nan")},
    {"kind": "edit", "prompt": "x", "width": "abc", "height": 3},
    {"kind": "edit", "prompt": "x", "width": -5, "height": 3},
    {"kind": "edit", "prompt": "x", "model": 5},
    {"kind": "edit", "prompt": "x", "model": ["tiny"]},
    {"kind": "edit", "prompt": "x", "base_size": "96"},
    {"kind": "edit", "prompt": "x", "base_size": 7},
    {"kind": "edit", "prompt": "x", "dtype": "int8"},
    {"kind": "edit", "prompt": "x", "loras": ["gone.safetensors"]},
    {"kind": "edit", "prompt": "x", "region": "gone.png"},
    {"kind": "move", "object": "heart", "box": [1, 1, 40, 40]},
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: json.dumps(record)[:60])
def test_record_when_any_program_wrote_it_then_one_line_and_never_a_bug(
    joyimage: Joyimage, image_path: Path, tmp_path: Path, record: object
) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("joyimage", json.dumps(record))
    random_models.make_image(0, 32, 32).save(tmp_path / "made.png", pnginfo=info)

    shown = joyimage("info", tmp_path / "made.png")
    repeated = joyimage("edit", image_path, "--like", tmp_path / "made.png", "-o", tmp_path / "out.png")

    assert shown.code == (0 if isinstance(record, dict) and record else 2)
    assert repeated.code == 2
    for outcome in (shown, repeated):
        assert "Internal error" not in outcome.err
        assert outcome.err.count("\n") <= 1
    assert "Loading" not in repeated.err
    assert not (tmp_path / "out.png").exists()
