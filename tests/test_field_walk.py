"""Walk over every field of every kind of edit, through every surface: none may lose one.

A surface is a function that sends an edit through the real code and returns the edit that arrives. A new field is
walked by itself; a new surface is a row in `SURFACES`. What the page writes of a result is walked in
`tests/web/test_recipe.py`.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from joyimage.cli.main import app
from joyimage.cli.manifests import read_manifest
from joyimage.cli.options import RunOptions
from joyimage.cli.rows import read_row
from joyimage.client.protocol import as_edit, make_form
from joyimage.edits import KINDS, Describe, Edit, Record, from_dict, json_schemas
from joyimage.edits.compound_forms import Texts
from joyimage.edits.forms import Flag
from joyimage.imaging import read_record, write_image
from joyimage.serving.http.bodies import read_body
from joyimage.serving.jobs.task import Task
from tests.web.test_recipe import example

if TYPE_CHECKING:
    from collections.abc import Callable

    from joyimage.edits import AnyEdit

HTML = Path(__file__).parents[1] / "src" / "joyimage" / "web" / "static"


def command_line(edit: AnyEdit, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AnyEdit:
    """`joyimage KIND ...`, parsed by the real command."""
    words: list[str] = [] if edit.kind == "generate" else ["image.png"]
    for name, text in edit.to_text().items():
        one = edit.settings()[name]
        flag = f"--{name}" if one.is_positional else one.flags(name)[0]
        if isinstance(one.form, Flag):
            words.append(flag if edit.given()[name] else f"--no-{flag[2:]}")
        elif isinstance(one.form, Texts):
            words += [f"{flag}={value}" for value in edit.given()[name]]
        else:
            words.append(f"{flag}={text}")
    output = [] if isinstance(edit, Describe) else ["-o", "out.png"]
    command, bound, _ = app.parse_args([edit.kind, *words, *output], exit_on_error=False, print_error=False)
    arrived: list[AnyEdit] = []
    module = inspect.getmodule(command)
    monkeypatch.setattr(module, "run_command", lambda edit, *_, **__: arrived.append(edit), raising=False)

    if isinstance(edit, Describe):  # which runs by itself
        stub = type("Stub", (), {"model": "another", "describe": lambda _, edit, __: arrived.append(edit)})
        monkeypatch.setattr(module, "load_runner", lambda _: stub())
        Image.new("RGB", (8, 8)).save(folder / "image.png")
        monkeypatch.chdir(folder)
    command(*bound.args, **bound.kwargs)
    return arrived[0]


def json_row(edit: AnyEdit, folder: Path, _: pytest.MonkeyPatch) -> AnyEdit:
    """A row of a .jsonl file."""
    return _row(folder, "rows.jsonl", json.dumps({**_image_of(edit), **edit.to_dict()}))


def csv_row(edit: AnyEdit, folder: Path, _: pytest.MonkeyPatch) -> AnyEdit:
    """A row of a .csv file."""
    import csv
    import io

    file = io.StringIO()
    row = {"kind": edit.kind, **_image_of(edit), **edit.to_text()}
    writer = csv.DictWriter(file, list(row))
    writer.writeheader()
    writer.writerow(row)
    return _row(folder, "rows.csv", file.getvalue())


_LAYER = "diffusion_model.double_blocks.0.attn.img_attn_proj"
_ADAPTER = {f"{_LAYER}.lora_{matrix}.weight": np.ones((1, 1), np.float32) for matrix in "AB"}


def _image_of(edit: AnyEdit) -> dict[str, str]:
    return {"image": "image.png"} if edit.needs_image else {}


def _row(folder: Path, name: str, text: str) -> AnyEdit:
    Image.new("RGB", (64, 64)).save(folder / "image.png")
    for lora in ("one", "two"):
        save_file(_ADAPTER, folder / lora)
    (folder / name).write_text(text, encoding="utf-8")
    (entry,) = read_manifest(folder / name).entries
    return read_row(entry, folder / name, folder, Edit(), RunOptions(), set()).edit


def image_record(edit: AnyEdit, folder: Path, _: pytest.MonkeyPatch) -> AnyEdit:
    """The record in a PNG file, as `--like` reads it."""
    path = folder / "made.png"
    write_image(Image.new("RGB", (8, 8)), path, Record(edit=edit, made_with={"model": "tiny"}).to_dict())
    return Record.from_dict(read_record(path)).edit


def client_form(edit: AnyEdit, _folder: Path, _: pytest.MonkeyPatch) -> AnyEdit:
    """What `joyimage.client` and `--server` send, read as a form."""
    form = make_form(edit, [], None, {}, None)
    fields = {name: part[1].decode() for name, part in form["files"] if part[0] is None}
    return KINDS[fields.pop("kind")].from_text(fields)


def client_keywords(edit: AnyEdit, _folder: Path, _: pytest.MonkeyPatch) -> AnyEdit:
    """Fields given to `Client.run` as keywords."""
    fields = edit.to_dict()
    return as_edit(fields.pop("kind"), fields)[0]


def json_body(edit: AnyEdit, _folder: Path, _: pytest.MonkeyPatch) -> AnyEdit:
    """`to_dict`, which job rows and JSON bodies hold."""
    return from_dict(json.loads(json.dumps(edit.to_dict())))


def http_form(edit: AnyEdit, _folder: Path, _: pytest.MonkeyPatch) -> AnyEdit:
    """The fields of an HTTP form."""
    return read_body(edit.kind, dict(edit.to_text()), is_form=True).edit


def http_json(edit: AnyEdit, _folder: Path, _: pytest.MonkeyPatch) -> AnyEdit:
    """A JSON body."""
    body = {name: value for name, value in edit.to_dict().items() if name != "kind"}
    return read_body(edit.kind, body, is_form=False).edit


def job_row(edit: AnyEdit, _folder: Path, _: pytest.MonkeyPatch) -> AnyEdit:
    """A job's row in the database: the edit that runs, and the one that the page opens again."""
    task = Task.from_dict(json.loads(json.dumps(Task(edit=edit, given=edit.to_dict()).to_dict())))
    assert from_dict(task.given) == edit
    return task.edit


SURFACES: dict[str, Callable[[AnyEdit, Path, pytest.MonkeyPatch], AnyEdit]] = {
    "command line": command_line,
    "JSON row": json_row,
    "CSV row": csv_row,
    "record in an image": image_record,
    "client form": client_form,
    "client keywords": client_keywords,
    "JSON": json_body,
    "HTTP form": http_form,
    "HTTP JSON": http_json,
    "job row": job_row,
}


def fields() -> list[tuple[str, str]]:
    return [(kind, name) for kind, cls in KINDS.items() for name in cls.settings()]


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize(("kind", "name"), fields(), ids=lambda one: str(one))
def test_field_when_sent_through_a_surface_then_it_arrives(
    kind: str, name: str, surface: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "describe" and surface in {"JSON row", "CSV row"}:
        assert name in {"question", "max_new_tokens"}  # a batch makes images; it asks nothing
        return
    cls = KINDS[kind]
    settings = cls.settings()
    needed = {other for other, one in settings.items() if one.is_required}
    if kind == "camera":
        needed |= {"yaw"}
    monkeypatch.chdir(tmp_path)
    edit = cls.from_dict({other: value_of(other, settings[other].form) for other in needed | {name}})

    arrived = SURFACES[surface](edit, tmp_path, monkeypatch)

    assert arrived.given()[name] == edit.given()[name]
    assert arrived == edit


def value_of(name: str, form: Any) -> Any:
    if name == "region":
        return (1.0, 2.0, 30.0, 40.0)
    value = example(form)
    return value.lstrip("-").replace(";", ",") if isinstance(value, str) and name in {"object"} else value


@pytest.mark.parametrize(("kind", "name"), fields(), ids=lambda one: str(one))
def test_field_when_the_schema_is_read_then_described_with_group_and_option(kind: str, name: str) -> None:
    schema = json_schemas()[kind]["properties"][name]

    assert schema["description"] == KINDS[kind].settings()[name].help
    assert schema["x-group"]
    assert "x-flag" in schema


def test_page_when_its_fields_are_listed_then_each_has_a_control_or_is_built_from_the_schema() -> None:
    """The page builds a control for every field without one of its own; no control is for a field that is gone."""
    import re

    text = (HTML / "index.html").read_text(encoding="utf-8")
    own = {name for names in re.findall(r'data-field="([^"]+)"', text) for name in names.split()}
    known = {name for _, name in fields()}

    assert own
    assert own <= known
    assert {"prompt", "object", "box", "view", "yaw", "seed", "num_inference_steps", "loras"} <= own
