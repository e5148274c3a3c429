"""`joyimage batch`: many edits, one after the other; resumable at any point.

An image is written in one go and carries the key of its row, so its being there says that the row is done.
"""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from tqdm import tqdm

from joyimage.cli.console import EXIT_INTERRUPTED, fail, notify, warn
from joyimage.cli.contact import write_contact_sheets
from joyimage.cli.manifests import Manifest, read_manifest
from joyimage.cli.options import BatchOptions, RunOptions
from joyimage.cli.rows import Row, read_row
from joyimage.cli.run import masks_of, run_and_write
from joyimage.cli.runners import load_runner
from joyimage.cli.scope import scope_warning
from joyimage.cli.surface import GROUPS, edit_command
from joyimage.edits import Edit
from joyimage.errors import ImageError, InvalidInputError, OutputFullError
from joyimage.imaging import clear_partial, read_record, write_text

if TYPE_CHECKING:
    from joyimage.cli.runners import Runner
    from joyimage.cli.sources import Source

_Output = Annotated[
    Path,
    Parameter(
        name=["--output", "-o"],
        help="Folder for the images (PNG), report.jsonl, contact.html and contact.png; created if missing.",
        group=GROUPS["Output"],
    ),
]
_Ray = Annotated[
    bool,
    Parameter(
        help="Run rows on Ray workers, each with its own pipeline.", group=GROUPS["Advanced"], negative=[]
    ),
]


@edit_command(Edit)
def batch(
    source: Annotated[
        Path,
        Parameter(
            help="A folder of images, or a .jsonl, .json, .csv or .tsv file: `image`, optionally `output`, and "
            "the fields of an edit under the names of its options. - reads such a table from standard input.",
            group=GROUPS["Input"],
        ),
    ],
    *,
    edit: Edit,
    output: _Output,
    ray: _Ray = False,
    ray_address: Annotated[
        str | None,
        Parameter(
            help="Address of a running Ray cluster whose machines see the same folders.",
            group=GROUPS["Advanced"],
            metavar="URL",
        ),
    ] = None,
    workers: Annotated[
        int, Parameter(help="Maximum number of workers with `--ray`.", group=GROUPS["Advanced"], metavar="N")
    ] = 1,
    options: BatchOptions | None = None,
) -> int:
    """Run many edits; resumable: interrupt it at any point and rerun the same command.

    A row with object and box is a move, with object and view a rotation, with yaw, pitch or zoom a camera move, and
    an edit by prompt otherwise. What a row gives wins over the options here.

    Raises:
        InvalidInputError: An option has a value that is not accepted, or the source cannot be read as a whole.
    """
    options = options or BatchOptions()
    options.check()
    if workers < 1 or (not ray and (workers > 1 or ray_address is not None)):
        raise InvalidInputError("`--workers` (1 or more) and `--ray-address` need `--ray`; give it too.")
    manifest = read_manifest(source)
    if source.is_dir() and edit.prompt is None:
        raise InvalidInputError(
            f"`PROMPT` is missing; {source} is a folder: one prompt is for all its images."
        )
    check_output_folder(output, source)
    output.mkdir(parents=True, exist_ok=True)

    problems: dict[int, str] = {}
    rows = checked_rows(manifest, source, output, edit, options, problems)
    try:
        if ray:
            from joyimage.cli.ray_batch import run_rows_on_ray

            reports = run_rows_on_ray(rows, options, problems, workers=workers, address=ray_address)
        else:
            reports = run_rows(rows, options, problems)
    except KeyboardInterrupt:
        notify("Interrupted; run the same command again to continue.")
        return EXIT_INTERRUPTED
    return write_report(output, manifest, rows, reports, problems, json=options.json)


def check_output_folder(output: Path, source: Path) -> None:
    """Reject an output that is a file, or the folder that the images come from.

    Raises:
        InvalidInputError: It is.
    """
    if output.exists() and not output.is_dir():
        raise InvalidInputError(f"`--output` is {output}, a file; expected a folder.")
    if source.is_dir() and output.exists() and output.samefile(source):
        raise InvalidInputError(
            f"`--output` is {output}, the folder of the images; the next run would edit the results. Name another."
        )


def checked_rows(
    manifest: Manifest,
    source: Path,
    output: Path,
    common: Edit,
    options: RunOptions,
    problems: dict[int, str],
) -> list[Row]:
    """Return the rows that can run; what is wrong with the others is put into `problems` by row number."""
    rows: list[Row] = []
    taken: set[str] = set()
    for entry in manifest.entries:
        try:
            row = read_row(entry, source, output, common, options, taken)
        except Exception as error:  # noqa: BLE001 - a row can be wrong in any way; the others continue
            problems[entry.number] = _reason(error)
        else:
            rows.append(row)
            taken.update(row.claims)
    inputs = {_identify(path) for row in rows for path in (*row.images, *masks_of(row.edit))}
    for row in rows:
        for path in row.outputs:
            if path.exists() and _identify(path) in inputs:
                problems[row.number] = (
                    f"its output {path} is an input image; name another folder with `--output`."
                )
    return [row for row in rows if row.number not in problems]


def _identify(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from others, whatever its name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def run_rows(
    rows: list[Row], options: RunOptions, problems: dict[int, str], runner: Runner | None = None
) -> dict[int, dict[str, Any]]:
    """Run the rows that are not done.

    Args:
        rows: Checked rows.
        options: Options of the command.
        problems: What goes wrong is put here, by row number.
        runner: What runs the edits; None loads it when the first row needs it.

    Returns:
        By row number: the files, and whether they were made now. Rows behind one whose image finds the disk full
        are neither here nor in `problems`: they would only fail after all the work.
    """
    reports: dict[int, dict[str, Any]] = {}
    is_cautioned = False
    with tqdm(rows, unit="edit", disable=not sys.stderr.isatty()) as bar:
        for row in bar:
            bar.set_description(row.images[0].name if row.images else row.edit.kind)
            try:
                sources = row.read()
                # Only the server knows what its adapters hold.
                if runner is None and options.server is not None and row.edit.given().get("loras"):
                    runner = load_runner(options)
                key = row.key(sources) if runner is None else row.key(sources, runner.identify_adapter)
                if is_done(row, key):
                    reports[row.number] = _row_report(row, is_made=False)
                    continue
                if runner is None:
                    runner = load_runner(options)
                if not is_cautioned:
                    caution = scope_warning(row.edit, options, runner, [one.image for one in sources])
                    is_cautioned = caution is not None
                    if caution is not None:
                        warn(f"row {row.number}: {caution}")
                reports[row.number] = _run_row(runner, row, key, sources)
            except Exception as error:
                if runner is None and not isinstance(error, ImageError | InvalidInputError):
                    raise  # the model cannot be loaded: no row can run
                problems[row.number] = _reason(error)
                if isinstance(error, OutputFullError):
                    break
    return reports


def is_done(row: Row, key: str) -> bool:
    """Tell whether every file of a row is there and was made of this very row."""
    for path in row.outputs:
        clear_partial(path)
        if not path.exists():
            return False
        try:
            record = read_record(path)
        except ImageError:  # another program's file, or a broken one
            return False
        if (record or {}).get("key") != key:
            return False
    return True


def _run_row(runner: Runner, row: Row, key: str, sources: list[Source]) -> dict[str, Any]:
    edit = row.edit
    # Without a seed of its own a row's comes from its key: the same after an interruption.
    if edit.given().get("seed") is None:
        edit = edit.replace(seed=int(key[:7], 16))
    written = run_and_write(runner, edit, row.options, row.output, sources, extra={"key": key}, quiet=True)
    report = _row_report(row, is_made=True)
    if written.report.get("checks"):
        report["checks"] = written.report["checks"]
    return report


def _row_report(row: Row, *, is_made: bool) -> dict[str, Any]:
    outputs = [str(path) for path in row.outputs]
    return {"output": outputs[0], **({"outputs": outputs} if len(outputs) > 1 else {}), "made": is_made}


def write_report(
    output: Path,
    manifest: Manifest,
    rows: list[Row],
    reports: dict[int, dict[str, Any]],
    problems: dict[int, str],
    *,
    json: bool,
) -> int:
    """Write report.jsonl and the contact sheets, print what happened, and return the exit code."""
    lines: list[dict[str, Any]] = [
        {"row": one.number, **_outcome(one.number, reports, problems)} for one in manifest.entries
    ]
    lines += [{"file": name, "left_out": reason} for name, reason in manifest.left_out.items()]
    made = sum(report["made"] for report in reports.values())
    num_left = len(manifest.entries) - len(reports) - len(problems)
    for number, problem in sorted(problems.items()):
        fail(f"Row {number}: {problem}")
    for name, reason in manifest.left_out.items():
        notify(f"Left out {name}: {reason}.")
    not_run = f", {num_left} not run" if num_left else ""
    notify(f"{made} made, {len(reports) - made} already there, {len(problems)} failed{not_run}.")
    done = [row for row in rows if row.number in reports]
    is_written = _write_summaries(output, lines, done)
    if num_left or not is_written:
        notify("What was made is kept. Free space, then run the same command again to continue.")
    if json:
        report = {"made": made, "done": len(reports), "failed": len(problems), "rows": lines}
        print(json_format.dumps(report, ensure_ascii=False))
    elif is_written:
        print(output / "contact.html")
    return 1 if problems or num_left or not is_written else 0


def _outcome(number: int, reports: dict[int, dict[str, Any]], problems: dict[int, str]) -> dict[str, Any]:
    """Return what report.jsonl says of a row."""
    if number in problems:
        return {"error": problems[number]}
    return reports.get(number, {"error": "not run: the disk was full"})


def _write_summaries(output: Path, lines: list[dict[str, Any]], done: list[Row]) -> bool:
    """Write report.jsonl and the contact sheets, and return whether there was room for them."""
    text = "".join(json_format.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    # Bytes of a file's name that are not text become JSON escapes, which read as the same name.
    text = text.encode(errors="backslashreplace").decode()
    pairs = [(row.title, row.images[0] if row.images else None, path) for row in done for path in row.outputs]
    try:
        write_text(output / "report.jsonl", text)
        write_contact_sheets(output, pairs)
    except OutputFullError as error:
        fail(str(error))
        return False
    return True


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
