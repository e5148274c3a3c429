"""`joyimage batch`: many edits, one after the other; stopped at any moment, it goes on where it was.

A picture is written in one go and carries the key of its row, so its being there says that the row is done.
"""

from __future__ import annotations

import csv
import hashlib
import json as json_format
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from tqdm import tqdm

from joyimage.cli.console import fail, note
from joyimage.cli.contact import write_contact_sheets
from joyimage.cli.options import EditOptions, load, run_edit, word_prompt
from joyimage.cli.pictures import clear_partial, read_metadata, read_picture, write_text
from joyimage.errors import PictureError

FIELDS = ("image", "prompt", "output", "negative", "seed", "steps", "guidance", "size")
_NUMBERS = {"seed": int, "steps": int, "guidance": float}
_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
_SETTINGS = (
    *("model", "steps", "guidance", "negative", "seed", "size", "base_size", "fit", "restore", "preserve"),
    "rewrite",
    *("device", "dtype", "lora"),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One edit of a batch.

    Attributes:
        number: Its line in the manifest, or place in the folder, from 1.
        image: Picture file.
        prompt: What to do.
        output: File to write.
        options: The command's options with the row's own in their place.
    """

    number: int
    image: Path
    prompt: str
    output: Path
    options: EditOptions

    def key(self) -> str:
        """Return what tells this edit from any other: the picture, the prompt and all settings.

        Raises:
            OSError: The picture can't be read.
        """
        settings = {name: str(getattr(self.options, name)) for name in _SETTINGS}
        content = hashlib.sha256(self.image.read_bytes()).hexdigest()
        text = json_format.dumps([content, self.prompt, settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def batch(
    source: Path,
    prompt: str | None = None,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    options: EditOptions | None = None,
) -> int:
    """Run many edits; call it again after an interruption and it goes on where it was.

    Args:
        source: A .jsonl or .csv file with the fields image and prompt and, if wished, output, negative, seed,
            steps, guidance and size; or a folder of pictures.
        prompt: What to do with every picture of a folder, or in rows without a prompt.
        output: Folder for the pictures (PNG), report.jsonl, contact.html and contact.png; made where missing.
        options: What all editing commands have in common.

    Returns:
        Exit code: 0, or 1 where rows were skipped.

    Raises:
        ValueError: The source can't be read as a whole, or an option is out of range.
    """
    options = replace(options or EditOptions(), num=1, metadata=True)
    options.check()
    entries = _read_entries(source, prompt)
    if output.exists() and not output.is_dir():
        raise ValueError(f"`--output` is {output}, a file; expected a folder.")
    output.mkdir(parents=True, exist_ok=True)

    rows: list[Row] = []
    problems: dict[int, str] = {}
    for number, entry in entries:
        try:
            rows.append(
                _read_row(number, entry, source, output, prompt, options, {row.output for row in rows})
            )
        except ValueError as error:
            problems[number] = str(error)
    reports = _run(rows, options, problems)

    lines = [
        {"row": number, **({"error": problems[number]} if number in problems else reports[number])}
        for number, _ in entries
    ]
    write_text(
        output / "report.jsonl", "".join(json_format.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    )
    done = [row for row in rows if row.number in reports]
    write_contact_sheets(output, [(row.prompt, row.image, row.output) for row in done])
    made = sum(report["made"] for report in reports.values())
    for number, problem in sorted(problems.items()):
        fail(f"Row {number}: {problem}")
    note(f"{made} made, {len(reports) - made} there already, {len(problems)} skipped.")
    if options.json:
        print(
            json_format.dumps({"made": made, "done": len(reports), "skipped": len(problems), "rows": lines})
        )
    else:
        print(output / "contact.html")
    return 1 if problems else 0


def _run(rows: list[Row], options: EditOptions, problems: dict[int, str]) -> dict[int, dict[str, Any]]:
    """Run the rows that aren't done; put what goes wrong into `problems`.

    Returns:
        By row number: the file, and whether it was made now.
    """
    reports: dict[int, dict[str, Any]] = {}
    loaded = None
    with tqdm(rows, unit="edit", disable=None) as bar:
        for row in bar:
            bar.set_description(row.image.name)
            try:
                clear_partial(row.output)
                key = row.key()
                is_done = row.output.exists() and (read_metadata(row.output) or {}).get("key") == key
                if not is_done:
                    picture = read_picture(row.image)
                    if loaded is None:
                        loaded = load(options)
                        loaded.pipe.set_progress_bar_config(disable=True)
                    record = {
                        "command": "edit",
                        "key": key,
                        **word_prompt(loaded, row.options, row.prompt, picture),
                    }
                    call = partial(loaded.pipe, image=picture, prompt=record["prompt"])
                    # Without a seed of its own a row's comes from its key: the same after an interruption.
                    seed = int(key[:7], 16) if row.options.seed is None else row.options.seed
                    run_edit(
                        loaded, replace(row.options, seed=seed), row.output, call, record, source=row.image
                    )
                reports[row.number] = {"output": str(row.output), "made": not is_done}
            except (ValueError, TypeError, OSError) as error:
                problems[row.number] = str(error)
    return reports


def _read_entries(source: Path, prompt: str | None) -> list[tuple[int, Any]]:
    """Return number and content of every row.

    Raises:
        ValueError: The source is missing, of another kind or empty.
    """
    if source.is_dir():
        if prompt is None:
            raise ValueError(
                f"`prompt` is missing; {source} is a folder, so one prompt goes for all its pictures."
            )
        files = sorted(file for file in source.iterdir() if file.suffix.lower() in _PICTURES)
        entries: list[tuple[int, Any]] = [(n, {"image": file.name}) for n, file in enumerate(files, start=1)]
    elif not source.is_file():
        raise ValueError(f"`source` is {source}; there is no such file or folder.")
    elif source.suffix == ".jsonl":
        lines = source.read_text(encoding="utf-8").splitlines()
        entries = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    elif source.suffix == ".csv":
        with source.open(encoding="utf-8", newline="") as file:
            entries = list(enumerate(csv.DictReader(file), start=2))
    else:
        raise ValueError(f"`source` is {source}; expected a folder, a .jsonl or a .csv file.")
    if not entries:
        raise ValueError(f"`source` is {source}; it holds no row and no picture.")
    return entries


def _read_row(
    number: int,
    entry: Any,
    source: Path,
    output: Path,
    prompt: str | None,
    options: EditOptions,
    taken: set[Path],
) -> Row:
    """Check one row.

    Raises:
        ValueError: What is wrong with it.
        PictureError: Its picture isn't there.
    """
    if isinstance(entry, str):
        try:
            entry = json_format.loads(entry)
        except ValueError as error:
            raise ValueError(f"it is no JSON: {error}.") from None
    if not isinstance(entry, dict):
        raise ValueError(f"it is {entry!r}; expected an object with the fields {', '.join(FIELDS)}.")
    entry = {name: value for name, value in entry.items() if value not in (None, "")}
    unknown = [str(name) for name in entry if name not in FIELDS]
    if unknown:
        raise ValueError(f"it has the field {unknown[0]!r}; expected some of {', '.join(FIELDS)}.")
    if "image" not in entry or not (entry.get("prompt") or prompt):
        raise ValueError("it lacks the field `image` or `prompt`.")
    own: dict[str, Any] = {name: entry[name] for name in ("negative", "size") if name in entry}
    for name, kind in _NUMBERS.items():
        if name in entry:
            try:
                own[name] = kind(entry[name])
            except (TypeError, ValueError):
                raise ValueError(f"its `{name}` is {entry[name]!r}; expected a number.") from None
    image = (source if source.is_dir() else source.parent) / str(entry["image"])
    name = Path(str(entry.get("output", f"{number:05d}-{image.stem}.png")))
    if name.is_absolute() or len(name.parts) != 1 or name.suffix.lower() != ".png":
        raise ValueError(f"its `output` is {str(name)!r}; expected the name of a .png file without a folder.")
    if output / name in taken:
        raise ValueError(f"its `output` is {str(name)!r}, which an earlier row has.")
    if not image.is_file():
        raise PictureError(f"{image} can't be read: there is no such file.")
    row_options = replace(options, **own)
    row_options.check()
    text = str(entry.get("prompt") or prompt)
    return Row(number=number, image=image, prompt=text, output=output / name, options=row_options)
