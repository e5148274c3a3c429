"""Tables as people's programs write them, and rows that ask for what cannot be."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from joyimage.cli.commands.batch import checked_rows
from joyimage.cli.manifests import read_manifest
from joyimage.cli.options import RunOptions
from joyimage.edits import Edit
from joyimage.errors import InvalidInputError
from tests import random_models

if TYPE_CHECKING:
    from collections.abc import Callable

    from joyimage.cli.rows import Row
    from tests.cli.conftest import CommandResult

    Joyimage = Callable[..., CommandResult]
_COMPOSED, _DECOMPOSED = "K\u00fcche \u00e9.png", "Ku\u0308che e\u0301.png"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a.png to d.png."""
    for name in "abcd":
        random_models.make_image(ord(name), 32, 32).save(tmp_path / f"{name}.png")
    return tmp_path


def read(source: Path, prompt: str | None = None) -> tuple[list[Row], dict[int, str]]:
    """Return the rows of a source that can run, and what is wrong with the others."""
    problems: dict[int, str] = {}
    common = Edit(prompt=prompt)
    manifest = read_manifest(source)
    return checked_rows(manifest, source, source.parent / "out", common, RunOptions(), problems), problems


def read_text(
    folder: Path, name: str, text: str, encoding: str = "utf-8"
) -> tuple[list[Row], dict[int, str]]:
    (folder / name).write_bytes(text.encode(encoding))
    return read(folder / name)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl", "rows.json"])
def test_table_when_in_any_unicode_encoding_then_read(folder: Path, name: str, encoding: str) -> None:
    row = {"image": "a.png", "prompt": "Füge 赤い ♥ hinzu"}
    text = {
        ".csv": f"image,prompt\r\n{row['image']},{row['prompt']}\r\n",
        ".tsv": f"image\tprompt\r\n{row['image']}\t{row['prompt']}\r\n",
        ".jsonl": json.dumps(row, ensure_ascii=False) + "\r\n",
        ".json": json.dumps([row], ensure_ascii=False),
    }[Path(name).suffix]

    rows, problems = read_text(folder, name, text, encoding)

    assert problems == {}
    assert [one.edit.given()["prompt"] for one in rows] == [row["prompt"]]


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (" image , prompt \n a.png , x \n", {"prompt": "x"}),
        ("Unnamed: 0,image,prompt\n0,a.png,x\n", {"prompt": "x"}),
        (",image,prompt\n0,a.png,x\n", {"prompt": "x"}),
        ("image|prompt\na.png|x, y; z\n", {"prompt": "x, y; z"}),
        ("image;prompt;guidance\na.png;1,5 Herzen;1,5\n", {"prompt": "1,5 Herzen", "guidance_scale": 1.5}),
        ("image,prompt,seed\na.png,x,1.23457E+09\n", {"prompt": "x", "seed": 1234570000}),
        ("image,prompt,restore\na.png,x,TRUE\n", {"prompt": "x", "restore": True}),
        ('image,prompt\r\n"a.png","Say ""hi"",\r\nplease"\r\n', {"prompt": 'Say "hi",\r\nplease'}),
        ("image,prompt\na.png," + "x" * 200_000 + "\n", {"prompt": "x" * 200_000}),
        ("image,prompt\na.png,None\n", {"prompt": "None"}),
        ("image,prompt\ra.png,x\r", {"prompt": "x"}),
        ('"sep=;"\r\nimage;prompt\r\na.png;x\r\n', {"prompt": "x"}),
        ("Unnamed: 0.1,Unnamed: 0,image,prompt\n0,0,a.png,x\n", {"prompt": "x"}),
        ("Image,Prompt,Negative Prompt\na.png,x,y\n", {"prompt": "x", "negative_prompt": "y"}),
        ("image\tprompt\tguidance\na.png\tx\t1,5\n", {"prompt": "x", "guidance_scale": 1.5}),
        ("image,prompt,restore\na.png,x,1.0\n", {"prompt": "x", "restore": True}),
        ('image,prompt,"unnamed: a; b; c; d"\na.png,x,\n', {"prompt": "x"}),
        ("image;prompt;guidance\na.png;x 1.000;1.25\n", {"prompt": "x 1.000", "guidance_scale": 1.25}),
    ],
)
def test_csv_when_a_program_has_its_own_habits_then_read_as_meant(
    folder: Path, text: str, fields: dict[str, Any]
) -> None:
    rows, problems = read_text(folder, "rows.csv", text)

    assert problems == {}
    assert [one.edit.given() for one in rows] == [fields]


@pytest.mark.parametrize("word", ["", " ", "nan", "NaN", "None", "NULL", "<NA>", "N/A", "#N/A", "NaT", "NA"])
@pytest.mark.parametrize("column", ["seed", "guidance", "restore", "region", "size", "lora"])
def test_csv_when_a_value_is_missing_in_any_spelling_then_not_given(
    folder: Path, column: str, word: str
) -> None:
    rows, problems = read_text(folder, "rows.csv", f"image,prompt,{column}\na.png,x,{word}\nb.png,y,{word}\n")

    assert problems == {}
    assert [one.edit.given() for one in rows] == [{"prompt": "x"}, {"prompt": "y"}]


@pytest.mark.parametrize(("named", "there"), [(_COMPOSED, _DECOMPOSED), (_DECOMPOSED, _COMPOSED)])
def test_table_when_it_encodes_accents_in_another_way_than_the_file_then_the_file_is_found(
    folder: Path, named: str, there: str
) -> None:
    (folder / "a.png").rename(folder / there)

    rows, problems = read_text(folder, "rows.csv", f"image,prompt\n{named},x\n")

    assert problems == {}
    assert [row.images for row in rows] == [(folder / there,)]


def test_row_when_it_names_a_mask_or_an_adapter_then_found_beside_the_table_and_its_content_counts(
    folder: Path,
) -> None:
    layer = "double_blocks.0.attn.img_attn_qkv"
    factors = {f"{layer}.lora_A.weight": torch.zeros(1, 8), f"{layer}.lora_B.weight": torch.zeros(24, 1)}
    save_file(factors, folder / "style.safetensors")
    row = {"image": "a.png", "prompt": "x", "region": "b.png", "loras": ["style.safetensors:0.5"]}
    text = json.dumps(row)

    rows, problems = read_text(folder, "rows.jsonl", text)
    assert problems == {}
    (first,) = rows
    key = first.key(first.read())
    Image.new("L", (32, 32), 255).save(folder / "b.png")
    changed = first.key(first.read())

    assert first.edit.given()["region"] == str(folder / "b.png")
    assert first.edit.given()["loras"] == (str(folder / "style.safetensors:0.5"),)
    assert key != changed
    assert first.key(first.read()) == changed


def test_row_when_its_mask_is_an_output_then_reported(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "b.png").rename(folder / "out" / "a.png")

    rows, problems = read_text(
        folder, "rows.jsonl", '{"image": "a.png", "prompt": "x", "region": "out/a.png"}'
    )

    assert rows == []
    assert "out/a.png is an input image; name another folder" in problems[1]


def test_outputs_when_names_differ_in_case_or_accents_alone_then_each_has_its_own_file(folder: Path) -> None:
    """On a Mac and on Windows A.png and a.png are one file: the second result would replace the first."""
    for place, name in (("x", "A.png"), ("y", "\u00e9.png"), ("z", "e\u0301.png")):
        (folder / place).mkdir()
        os.link(folder / "b.png", folder / place / name)
    names = ["a.png", "x/A.png", "y/\u00e9.png", "z/e\u0301.png"]
    text = "\n".join(json.dumps({"image": name, "prompt": "x"}) for name in names)

    rows, problems = read_text(folder, "rows.jsonl", text)
    _, given = read_text(
        folder,
        "rows.csv",
        "image,prompt,output\na.png,x,R.png\nb.png,x,r.png\n",
    )

    assert problems == {}
    assert len({name for row in rows for name in row.claims}) == 4
    assert [row.output.name for row in rows][::2] == ["a.png", "\u00e9.png"]
    assert "its `output` is 'r.png', which an earlier row uses." in given[3]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_json_when_it_holds_one_object_then_one_row(folder: Path, name: str) -> None:
    rows, problems = read_text(folder, name, '\n{"image": "a.png",\n "prompt": "x"}\n')

    assert problems == {}
    assert [row.number for row in rows] == [2]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("rows.csv", "image,prompt,Prompt\na.png,x,y\n", "the column `prompt` twice"),
        ("rows.csv", 'image,prompt\na.png,"x\nb.png,y\n', "line 3 is not CSV"),
        ("rows.json", '"a.png"', "expected a JSON array"),
        ("rows.jsonl", '[{"image": "a.png"}, 5x]', "not JSON: .* character 23"),
        ("rows.csv", "My photos,,\n,,\nimage,prompt,seed\na.png,x,1\n", "first row is 'My photos"),
        ("rows.csv", "a.png,Remove the heart.\nb.png,y\n", "names no field"),
        ("rows.csv", "PK\x03\x04\x14", "Export it as CSV"),
        ("rows.xlsx", "PK\x03\x04\x14", "Export the sheet as CSV"),
    ],
)
def test_table_when_it_cannot_be_read_as_a_whole_then_one_sentence_and_no_row_is_guessed(
    folder: Path, name: str, text: str, words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        read_text(folder, name, text)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"image":"a.png","prompt":"x","PROMPT":"y"}', "the field `prompt` twice"),
        ('{"image":"a.png","prompt":"x","output":"../o.png"}', "without a folder"),
        ('{"image":"a.png","prompt":"x","output":"contact.png"}', "the name of the contact sheet"),
        ('{"image":"a.png","prompt":"x","output":"CONTACT.PNG"}', "the name of the contact sheet"),
        (f'{{"image":"a.png","prompt":"x","output":"{"n" * 300}.png"}}', "at most 240 bytes"),
        ('{"image":"a.png","prompt":"x","output":"a\\u0000b.png"}', "a file name of at most"),
        ('{"image":"a.png","prompt":"x","output":"a\\ud800.png"}', "a file name of at most"),
        ('{"image":"a\\u0000.png","prompt":"x"}', "can't be read"),
        ('{"image":"a\\ud800.png","prompt":"x"}', "not the name of a file"),
        ('{"image":"' + "n" * 5000 + '.png","prompt":"x"}', ""),
        ('{"kind":"describe","image":"a.png","question":"x"}', "expected one of edit, generate, move"),
        ('{"kind":"generate","image":"a.png","prompt":"x"}', "takes none"),
        ('{"image":"a.png","prompt":' + "[" * 9000 + "]" * 9000 + "}", "nested too deeply"),
        ('{"image":"a.png","prompt":"x","seed":' + "9" * 5000 + "}", "too many digits"),
        ('{"image":"a.png","prompt":"x","refs":{"a":1}}', "its `refs` is"),
        ('{"kind":"paint","image":"a.png","prompt":"x"}', "rotate, camera."),
        ('{"image":"file:///a.png","prompt":"x"}', "it is an address"),
    ],
)
def test_row_when_it_asks_for_what_cannot_be_then_named_and_the_others_run(
    folder: Path, row: str, words: str
) -> None:
    rows, problems = read_text(folder, "rows.jsonl", f'{row}\n{{"image":"b.png","prompt":"y"}}\n')

    assert [one.edit.given()["prompt"] for one in rows] == ["y"]
    assert set(problems) == {1}
    assert words in problems[1]
    assert "Errno" not in problems[1]
    assert "codec" not in problems[1]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
@pytest.mark.parametrize(
    "ends", [("", "\n", "\n"), ("", ",\n", ",\n"), ("[", ",\n", "]\n"), ("[\n", "\n,", "\n]")]
)
def test_json_when_an_array_or_lines_with_or_without_commas_then_every_row(
    folder: Path, name: str, ends: tuple[str, str, str]
) -> None:
    first, between, last = ends
    one, two = ('{"Kind":"Edit","image":"a.png","prompt":"x"}', '{"image":"b.png","prompt":"y"}')

    rows, problems = read_text(folder, name, f"{first}{one}{between}{two}{last}")

    assert problems == {}
    assert [one.edit.given()["prompt"] for one in rows] == ["x", "y"]


def test_number_when_its_point_may_group_digits_then_rejected_not_guessed(folder: Path) -> None:
    rows, problems = read_text(folder, "rows.csv", "image;prompt;seed\na.png;x;1.000\nb.png;y;1.0\n")

    assert [one.edit.given()["seed"] for one in rows] == [1]
    assert problems[2] == "its `seed` is '1.000', which may mean 1000 or 1; write one of them."


def test_json_when_its_fields_are_in_another_case_then_read(folder: Path) -> None:
    rows, problems = read_text(folder, "rows.jsonl", '{"Image": "a.png", "PROMPT": "x", "Seed": 3}\n')

    assert problems == {}
    assert [one.edit.given() for one in rows] == [{"prompt": "x", "seed": 3}]


def test_path_when_windows_wrote_it_then_found(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "a.png").rename(folder / "sub" / "a.png")
    (folder / "b.png").rename(folder / "odd\\name.png")

    rows, problems = read_text(folder, "rows.csv", "image,prompt\nsub\\a.png,x\nodd\\name.png,y\n")

    assert problems == {}
    assert [one.images[0] for one in rows] == [folder / "sub" / "a.png", folder / "odd\\name.png"]


def test_output_when_the_image_has_a_long_name_or_that_of_the_contact_sheet_then_another_one(
    folder: Path,
) -> None:
    images = folder / "images"
    images.mkdir()
    names = ["contact.png", "n" * 251 + ".png", "ü" * 120 + ".jpg", "ok.png"]
    for name in names:
        random_models.make_image(0, 32, 32).save(images / name)

    rows, problems = read(images, "x")

    assert problems == {}
    outputs = {one.images[0].name: one.output.name for one in rows}
    assert outputs["ok.png"] == "ok.png"
    assert outputs["contact.png"] == "contact-edited.png"
    assert len(set(outputs.values())) == len(names)
    for output in outputs.values():
        (folder / output).write_bytes(b"")  # a name that the system takes, also with a number behind it
        (folder / output).with_stem(f"{Path(output).stem}-1000").write_bytes(b"")


def test_folder_when_it_holds_pipes_and_dangling_links_then_named_and_never_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "phone.HEIC").write_bytes(b"")

    manifest = read_manifest(folder)

    assert manifest.left_out == {"pipe.png": "no regular file", "gone.png": "a dangling link"}
    assert [one.fields for one in manifest.entries][-1] == {"image": "phone.HEIC"}


def test_folder_when_all_is_left_out_then_says_what_and_why(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")

    with pytest.raises(InvalidInputError, match=r"no row and no image\. Left out notes\.txt: no image file"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("link", ["same", "hard", "symbolic"])
def test_batch_when_an_output_is_an_input_image_then_rejected_and_the_photo_is_untouched(
    joyimage: Joyimage, folder: Path, link: str
) -> None:
    output = folder / "out"
    if link == "same":
        output = folder
    else:
        output.mkdir()
        make = os.link if link == "hard" else os.symlink
        make(folder / "a.png", output / "a.png")
    before = (folder / "a.png").read_bytes()
    (folder / "rows.csv").write_text("image,prompt,output\na.png,x,\nb.png,y,made.png\n")

    outcome = joyimage(
        "batch", folder / "rows.csv", "-o", output, "--model", "tiny", "--device", "cpu", "--steps", 1
    )

    assert outcome.code == 1
    assert "a.png is an input image; name another folder" in outcome.err
    assert "1 made" in outcome.err
    assert (folder / "a.png").read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        '{"image":"a.png","prompt":"x"}\n{"image":"b.png","prompt":"y"}\n',
        '[{"image":"a.png","prompt":"x"},{"image":"b.png","prompt":"y"}]',
        "\ufeffimage,prompt\na.png,x\nb.png,y\n",
    ],
)
def test_batch_when_the_source_is_a_dash_then_the_table_comes_from_standard_input(
    joyimage: Joyimage, folder: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))

    outcome = joyimage("batch", "-", "-o", "out", "--model", "tiny", "--device", "cpu", "--steps", 1)

    assert outcome.code == 0, outcome.err
    assert {path.name for path in (folder / "out").glob("[ab].png")} == {"a.png", "b.png"}
