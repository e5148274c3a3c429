"""`joyimage batch`: many edits, one after the other; stopped at any moment, it goes on where it was.

A picture is written in one go and carries the key of its row, so its being there says that the row is done.
"""

from __future__ import annotations

import json as json_format
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from tqdm import tqdm

from joyimage.cli.commands.spatial import bind_record
from joyimage.cli.console import fail, note
from joyimage.cli.contact import write_contact_sheets
from joyimage.cli.options import EditOptions, Loaded, load, run_edit, word_prompt
from joyimage.cli.pictures import clear_partial, read_metadata, read_picture, write_text
from joyimage.cli.rows import Row, read_entries, read_row


def batch(
    source: Path,
    prompt: str | None = None,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    ray: bool = False,
    ray_address: str | None = None,
    workers: int = 1,
    options: EditOptions | None = None,
) -> int:
    """Run many edits; after an interruption it goes on where it was.

    Args:
        source: A .jsonl or .csv file with the fields image and prompt and, if wished, output, negative, seed,
            steps, guidance and size; in place of prompt a row may have object and box (a move), object and
            view (a rotation), or some of yaw, pitch and zoom (a camera move). Or a folder of pictures.
        prompt: What to do with every picture of a folder, or in rows without a prompt.
        output: Folder for the pictures (PNG), report.jsonl, contact.html and contact.png; made where missing.
        ray: Share the rows out to workers on Ray, a pipeline each.
        ray_address: Of a running Ray cluster, whose machines see the same folders; else Ray is started here.
        workers: Most workers with --ray.
        options: What all editing commands have in common.

    Returns:
        Exit code: 0, or 1 where rows were skipped.

    Raises:
        ValueError: The source can't be read as a whole, or an option is out of range.
    """
    options = replace(options or EditOptions(), num=1, metadata=True)
    options.check()
    if workers < 1 or (not ray and (workers > 1 or ray_address is not None)):
        raise ValueError("`--workers` (1 or more) and `--ray-address` go with `--ray`; give it too.")
    entries = read_entries(source, prompt)
    if output.exists() and not output.is_dir():
        raise ValueError(f"`--output` is {output}, a file; expected a folder.")
    output.mkdir(parents=True, exist_ok=True)

    rows: list[Row] = []
    problems: dict[int, str] = {}
    for number, entry in entries:
        try:
            rows.append(
                read_row(number, entry, source, output, prompt, options, {row.output for row in rows})
            )
        except ValueError as error:
            problems[number] = str(error)
    if ray:
        from joyimage.cli.ray_batch import run_rows_on_ray

        reports = run_rows_on_ray(rows, options, problems, workers=workers, address=ray_address)
    else:
        reports = run_rows(rows, options, problems)

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


def run_rows(
    rows: list[Row], options: EditOptions, problems: dict[int, str], loaded: Loaded | None = None
) -> dict[int, dict[str, Any]]:
    """Run the rows that aren't done.

    Args:
        rows: Checked.
        options: Of the command.
        problems: What goes wrong is put here, by row number.
        loaded: A pipeline that is there already; None has it loaded when the first row needs it.

    Returns:
        By row number: the file, and whether it was made now.
    """
    reports: dict[int, dict[str, Any]] = {}
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
                    if row.spatial is not None:
                        record = {**row.spatial, "key": key}
                        call = bind_record(row.spatial, loaded.pipe, picture)
                    else:
                        worded = word_prompt(loaded, row.options, row.prompt, picture)
                        record = {"command": "edit", "key": key, **worded}
                        call = partial(loaded.pipe, image=picture, prompt=worded["prompt"])
                    # Without a seed of its own a row's comes from its key: the same after an interruption.
                    seed = int(key[:7], 16) if row.options.seed is None else row.options.seed
                    run_edit(
                        loaded, replace(row.options, seed=seed), row.output, call, record, source=row.image
                    )
                reports[row.number] = {"output": str(row.output), "made": not is_done}
            except (ValueError, TypeError, OSError) as error:
                problems[row.number] = str(error)
    return reports
