"""Tables as editors, pandas, Excel and Windows write them; folders as people keep them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from joyimage.cli.manifests import read_manifest
from joyimage.cli.options import RunOptions
from joyimage.cli.rows import Row, read_row
from joyimage.edits import Edit
from joyimage.errors import ImageError, InvalidInputError
from joyimage.types import ImageSize

CASES = Path(__file__).parents[2] / "../shared/cases/manifests"
# The cases' own, copied by value, so that they run in every checkout.
ROW = {"image": "a.png", "prompt": "Recolor the heart orange.", "seed": "3"}


def rows_of(source: Path, folder: Path, common: Edit | None = None) -> list[Row | str]:
    """Every row of a source, or what is wrong with it."""
    rows: list[Row | str] = []
    taken: set[str] = set()
    for entry in read_manifest(source).entries:
        try:
            row = read_row(entry, source, folder / "out", common or Edit(), RunOptions(), taken)
        except (InvalidInputError, ImageError) as error:
            rows.append(f"{entry.number}: {error}")
        else:
            taken.update(row.claims)
            rows.append(row)
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two images."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 64), "red").save(tmp_path / name)
    return tmp_path


def write_csv(rows: list[dict[str, str]], delimiter: str, line_end: str) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, lineterminator=line_end)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["rows.csv", "ROWS.CSV", "rows.tsv"])
def test_table_when_any_program_wrote_it_then_the_same_row(
    folder: Path, encoding: str, delimiter: str, line_end: str, name: str
) -> None:
    row = {**ROW, "prompt": "Écris « cœur », s'il te plaît; a, b"}
    (folder / name).write_bytes(write_csv([row], delimiter, line_end).encode(encoding))

    (found,) = rows_of(folder / name, folder)

    assert isinstance(found, Row), found
    assert found.edit == Edit.from_text({"prompt": row["prompt"], "seed": "3"})
    assert found.images == (folder / "a.png",)


@pytest.mark.parametrize("seed", ["3", "3.0", " 3 ", "+3"])
@pytest.mark.parametrize("header", ["image,prompt,seed,steps,guidance", "Image, Prompt ,SEED,Steps,Guidance"])
def test_table_when_numbers_come_from_pandas_then_read_and_missing_ones_are_not_given(
    folder: Path, seed: str, header: str
) -> None:
    (folder / "rows.csv").write_text(f"{header}\na.png,x,{seed},,nan\n,,,,\nb.png,y,NaN,4.0,\n")

    first, second = rows_of(folder / "rows.csv", folder)

    assert isinstance(first, Row), first
    assert first.edit.given() == {"prompt": "x", "seed": 3}
    assert isinstance(second, Row), second
    assert second.edit.given() == {"prompt": "y", "num_inference_steps": 4}


def test_table_when_excel_names_its_delimiter_then_read_and_numbers_are_those_of_the_file(
    folder: Path,
) -> None:
    (folder / "rows.csv").write_bytes(b"sep=;\r\nimage;prompt;seed\r\na.png;x;1\r\nb.png;y;many\r\n")

    first, second = rows_of(folder / "rows.csv", folder)

    assert isinstance(first, Row), first
    assert second == "4: its `seed` is 'many'; expected a whole number from 0 to 9007199254740991."


def test_table_when_a_row_has_more_cells_than_the_header_then_rejected_by_number(folder: Path) -> None:
    (folder / "rows.csv").write_text("image,prompt\na.png,x,y\nb.png,z,\n")

    first, second = rows_of(folder / "rows.csv", folder)

    assert first == "2: it has 3 cells; expected 2."
    assert isinstance(second, Row)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(
    prompts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
            lambda text: any(one.isprintable() and not one.isspace() for one in text)
        ),
        min_size=1,
        max_size=4,
        unique=True,
    ),
    name=st.sampled_from(["rows.jsonl", "rows.NDJSON", "rows.json"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    line_end=st.sampled_from(["\n", "\r\n"]),
)
def test_json_when_prompts_hold_any_character_then_one_row_each(
    folder: Path, prompts: list[str], name: str, encoding: str, line_end: str
) -> None:
    rows = [{"image": "a.png", "prompt": prompt} for prompt in prompts]
    if name == "rows.json":
        text = json.dumps(rows, ensure_ascii=False)
    else:
        text = line_end.join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / name).write_bytes(text.encode(encoding))

    found = rows_of(folder / name, folder)

    assert [row.edit.given()["prompt"] for row in found if isinstance(row, Row)] == prompts


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"image": "a.png", "prompt": ["x", "y"]}, "`prompt` is ['x', 'y']; expected text"),
        ({"image": "a.png", "prompt": 5}, "`prompt` is 5; expected text"),
        ({"image": 5, "prompt": "x"}, "`image` is 5"),
        ({"image": "a.png", "prompt": "x", "steps": "4"}, "`steps` is '4'; expected a whole number"),
        ({"image": "a.png", "prompt": "x", "restore": "yes"}, "`restore` is 'yes'; expected true or false"),
        ({"image": "a.png", "prompt": "x", "output": "x/y.png"}, "`output` is 'x/y.png'"),
        ({"image": "a.png", "prompt": "x", "output": 7}, "`output` is 7"),
        ({"image": "a.png", "prompt": "x", "color": "red"}, "`color` is not a field here"),
        ({"image": "a.png", "yaw": 500}, "`yaw` is 500; expected a number from -360 to 360"),
        ({"image": "a.png", "yaw": 0}, "does not move"),
        ({"image": "gone.png", "prompt": "x"}, "gone.png"),
        ({"prompt": "x"}, "lacks the field `image`"),
        ({"image": "a.png"}, "lacks the field `prompt`"),
        ({"image": "a.png", "kind": "paint"}, "`kind` is 'paint'"),
        ([1, 2], "expected an object"),
        ("text", "expected an object"),
    ],
)
def test_json_row_when_wrong_then_row_field_value_and_what_is_expected(
    folder: Path, row: Any, problem: str
) -> None:
    (folder / "rows.jsonl").write_text("\n" + json.dumps(row) + "\n")

    (found,) = rows_of(folder / "rows.jsonl", folder)

    assert isinstance(found, str), found
    assert found.startswith("2: ")
    assert problem in found


def test_row_when_it_gives_a_value_then_it_wins_over_the_command_even_where_zero_or_false(
    folder: Path,
) -> None:
    row = {
        "image": "a.png",
        "prompt": "x",
        "seed": 0,
        "guidance": 0,
        "restore": False,
        "num": 2,
        "size": "64x96",
    }
    (folder / "rows.jsonl").write_text(json.dumps(row))
    common = Edit.from_dict({"prompt": "y", "seed": 5, "guidance": 3.0, "restore": True, "steps": 7})

    (found,) = rows_of(folder / "rows.jsonl", folder, common)

    assert isinstance(found, Row), found
    assert found.edit.given() == {
        "prompt": "x",
        "num_inference_steps": 7,
        "guidance_scale": 0,
        "seed": 0,
        "num_images": 2,
        "size": ImageSize(64, 96),
        "restore": False,
    }
    assert [path.name for path in found.outputs] == ["a-1.png", "a-2.png"]


def test_outputs_when_files_are_added_then_those_of_the_others_keep_their_names(tmp_path: Path) -> None:
    for name in ("b.png", "b.jpg", "c.webp"):
        Image.new("RGB", (64, 64)).save(tmp_path / name)
    common = Edit(prompt="x")
    before = {
        row.images[0].name: row.output.name
        for row in rows_of(tmp_path, tmp_path, common)
        if isinstance(row, Row)
    }

    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    after = {
        row.images[0].name: row.output.name
        for row in rows_of(tmp_path, tmp_path, common)
        if isinstance(row, Row)
    }

    assert before == {"b.png": "b.png", "b.jpg": "b-jpg.png", "c.webp": "c-webp.png"}
    assert after == before | {"a.png": "a.png"}


def test_outputs_when_one_image_is_edited_twice_then_distinct_and_the_same_again(folder: Path) -> None:
    rows = [{"image": "a.png", "prompt": prompt} for prompt in ("x", "y", "x")]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))

    first, second, third = rows_of(folder / "rows.jsonl", folder)
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows[:2])))
    again = rows_of(folder / "rows.jsonl", folder)

    assert isinstance(first, Row)
    assert isinstance(second, Row)
    assert first.output != second.output
    assert [row.output for row in again if isinstance(row, Row)] == [first.output, second.output]
    assert isinstance(third, Row)
    assert third.output not in {first.output, second.output}


def test_folder_when_it_holds_other_things_then_each_is_named_with_the_reason(folder: Path) -> None:
    (folder / "d.png").mkdir()
    (folder / "._a.png").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    info = PngImagePlugin.PngInfo()
    info.add_itxt("joyimage", '{"kind": "edit", "key": "00"}')
    Image.new("RGB", (8, 8)).save(folder / "made.png", pnginfo=info)
    for name, kind in (("c.gif", "GIF"), ("e.jfif", "JPEG"), ("f.avif", "AVIF"), ("g.jp2", "JPEG2000")):
        Image.new("RGB", (64, 64)).save(folder / name, kind)

    manifest = read_manifest(folder)

    names = [entry.fields["image"] for entry in manifest.entries if entry.fields]
    assert names == ["a.png", "b.png", "c.gif", "e.jfif", "f.avif", "g.jp2"]
    assert set(manifest.left_out) == {"d.png", "._a.png", "notes.txt", "made.png"}
    assert "joyimage batch" in manifest.left_out["made.png"]


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not beside this checkout")
@pytest.mark.parametrize(
    "name", ["bom.csv", "semi.csv", "u16.csv", "pd.csv", "up.CSV", "bom.jsonl", "ls.jsonl"]
)
def test_case_when_people_sent_it_then_every_row_is_read(tmp_path: Path, name: str) -> None:
    copy = tmp_path / name
    copy.write_bytes((CASES / name).read_bytes())
    for entry in read_manifest(copy).entries:
        assert entry.fields, entry.problem
        Image.new("RGB", (8, 8)).save(tmp_path / Path(entry.fields["image"]).name)

    found = rows_of(copy, tmp_path, Edit(prompt="x"))

    assert found
    assert [row for row in found if isinstance(row, str)] == []
