"""Pairs from tables: our batch rows, musubi-tuner's JSON Lines, DiffSynth's CSV, SimpleTuner's backends."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import TYPE_CHECKING, Any

from joyimage.edits import KINDS, Edit, FieldError, Move
from joyimage.errors import InvalidInputError
from joyimage.spatial.box import resolve_box
from joyimage.training.data.examples import Example, ImageSource
from joyimage.training.data.folders import read_folders

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Fields of a row that name images or say what an edit is; all others are an edit's options, which do not matter here.
_PROMPTS = ("caption", "prompt", "instruction", "text")
_CONTROL = re.compile(r"^control_path(?:_(\d+))?$|^edit_image(?:_(\d+))?$")


def read_table(path: Path, caption: str | None, source: int = 0) -> list[Example]:
    """Read the pairs that a file lists; relative paths are relative to its folder.

    Args:
        path: A .jsonl, .json, .csv or .tsv file.
        caption: Prompt of rows without one.
        source: Number of the data section.

    Raises:
        InvalidInputError: A row is no pair; the message gives file and line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} can't be read: {error}.") from None
    rows = _rows(path, text)
    if rows and all("instance_data_dir" in row or "dataset_type" in row for _, row in rows):
        return _read_backends([row for _, row in rows], path, caption, source)
    examples: list[Example] = []
    for number, row in rows:
        try:
            examples.append(_read_row(row, path.parent, caption, source))
        except InvalidInputError as error:
            raise InvalidInputError(f"{path}, row {number}: {error}") from None
    if not examples:
        raise InvalidInputError(f"{path} lists no pairs.")
    return examples


def _rows(path: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    """Return the rows of a file with their numbers.

    Raises:
        InvalidInputError: A row is no object.
    """
    suffix = path.suffix.lower()
    if suffix in {".csv", ".tsv"}:
        lines = csv.DictReader(io.StringIO(text), delimiter="\t" if suffix == ".tsv" else ",")
        return [
            (number, {key: value for key, value in row.items() if key and value and value.strip()})
            for number, row in enumerate(lines, 2)
        ]
    try:
        if suffix == ".json":
            content = json.loads(text)
            found = list(enumerate(content if isinstance(content, list) else [content], 1))
        else:
            found = [
                (number, json.loads(line)) for number, line in enumerate(text.splitlines(), 1) if line.strip()
            ]
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path} is not JSON: {error}.") from None
    for number, row in found:
        if not isinstance(row, dict):
            raise InvalidInputError(f"{path}, row {number}: it is {type(row).__name__}; expected an object.")
    return found


def _read_row(row: Mapping[str, Any], folder: Path, caption: str | None, source: int) -> Example:
    target, references = _image_fields(row)
    kind = _kind(row)
    box = None
    if kind is Edit:
        prompt = next((str(row[name]) for name in _PROMPTS if row.get(name)), caption or "").strip()
        if not prompt:
            raise InvalidInputError(f"it lacks a prompt; expected one of {', '.join(_PROMPTS)}.")
    else:
        names = {alias for name, one in kind.settings().items() for alias in (name, *one.aliases)}
        fields = {name: value for name, value in row.items() if name in names}
        try:
            is_text = all(isinstance(value, str) for value in fields.values())
            edit: Any = kind.from_text(fields) if is_text else kind.from_dict(fields)
            prompt = edit.prompt
        except FieldError as error:
            raise InvalidInputError(f"its {error}") from None
        if kind is Move:
            box = edit.box, edit.box_form or "xyxy"
    paths = [folder / name for name in (target, *references)]
    for path in paths:
        if not path.is_file():
            raise InvalidInputError(f"there is no file {path}.")
    images = [ImageSource(path=path) for path in paths]
    if box is not None:
        if not references:
            raise InvalidInputError("it is a move without a reference; expected `image`.")
        size = images[1].open().size
        box = resolve_box(box[0], size, form=box[1])
    return Example(target=images[0], references=tuple(images[1:]), caption=prompt, box=box, source=source)


def _image_fields(row: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the names of a row's target and references.

    Raises:
        InvalidInputError: The target is missing.
    """
    controls = sorted(
        (int(match[1] or match[2] or 0), value)
        for name, value in row.items()
        if (match := _CONTROL.match(name)) and isinstance(value, str)
    )
    listed = [value for name, value in row.items() if _CONTROL.match(name) and isinstance(value, list)]
    found = [value for _, value in controls] + [str(one) for values in listed for one in values]
    if "image_path" in row:  # musubi-tuner
        return str(row["image_path"]), found
    if found or "edit_image" in row:  # DiffSynth: `image` is the target
        if "image" not in row:
            raise InvalidInputError("it lacks `image`, the target of `edit_image`.")
        return str(row["image"]), found
    if not isinstance(row.get("target"), str):
        raise InvalidInputError(
            "it lacks `target`, the image after the edit; expected `image` and `target` (our rows), `image_path` and "
            "`control_path` (musubi-tuner), or `image` and `edit_image` (DiffSynth)."
        )
    references = [row["image"]] if row.get("image") else []
    refs = row.get("refs", [])
    if not isinstance(refs, (str, list)):
        raise InvalidInputError(f"its `refs` is {refs!r}; expected a list of image files.")
    references += (
        [part.strip() for part in refs.split("|") if part.strip()] if isinstance(refs, str) else refs
    )
    return row["target"], [str(one) for one in references]


def _kind(row: Mapping[str, Any]) -> Any:
    """Return the kind of edit that a row is about, from its fields as in a batch.

    Raises:
        InvalidInputError: There is no such kind.
    """
    if row.get("kind"):
        name = str(row["kind"])
        if name not in KINDS or name == "describe":
            raise InvalidInputError(f"its `kind` is {name!r}; expected edit, move, rotate or camera.")
        return KINDS[name]
    marks = {"box": "move", "view": "rotate", "yaw": "camera", "pitch": "camera", "zoom": "camera"}
    return KINDS[next((kind for mark, kind in marks.items() if mark in row), "edit")]


def _read_backends(rows: list[dict[str, Any]], path: Path, caption: str | None, source: int) -> list[Example]:
    """Read SimpleTuner's list of data backends: image folders that name their conditioning folders.

    Raises:
        InvalidInputError: A folder has no partner.
    """
    by_id = {row.get("id"): row for row in rows}
    examples: list[Example] = []
    for row in rows:
        if row.get("dataset_type", "image") != "image" or "instance_data_dir" not in row:
            continue
        partners = row.get("conditioning_data", [])
        partners = [partners] if isinstance(partners, str) else partners
        unknown = [one for one in partners if "instance_data_dir" not in by_id.get(one, {})]
        if unknown or not partners:
            raise InvalidInputError(
                f"{path}: the backend {row.get('id')!r} has `conditioning_data` {row.get('conditioning_data')!r};"
                " expected ids of other backends that have `instance_data_dir`."
            )
        controls = [path.parent / by_id[one]["instance_data_dir"] for one in partners]
        text = row.get("instance_prompt") or caption
        examples += read_folders(path.parent / row["instance_data_dir"], controls, text, source)
    if not examples:
        raise InvalidInputError(f"{path} has no backend of `dataset_type` image.")
    return examples
