"""The result of an evaluation between its two bounds, as a Markdown table or JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from joyimage.evaluation.runner import HELD_OUT, Evaluation

if TYPE_CHECKING:
    from joyimage.evaluation.suites import CaseT, Suite

_HEADER: tuple[str, ...] = (
    "task",
    "done",
    "strict",
    "IoU",
    "red gone",
    "view",
    "PSNR",
    "background",
    "sharpness",
    "VAE round trip",
    "copied input",
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An editor between the two that bound it, all on the same cases.

    Attributes:
        model: The editor that is measured.
        round_trip: The targets encoded and decoded by its VAE, the upper bound.
        copied: The untouched sources, the lower bound.
    """

    model: Evaluation
    round_trip: Evaluation
    copied: Evaluation


def to_json(result: Comparison) -> dict[str, Any]:
    """Arrange a comparison for programs: `{"tasks": {"add": {"done": ..., "n": ...}, ...}, ...}`."""

    def rows(evaluation: Evaluation) -> dict[str, Any]:
        return {task: asdict(row) for task, row in evaluation.tasks.items() if task != HELD_OUT}

    return {
        "tasks": rows(result.model),
        "held_out": asdict(result.model.tasks[HELD_OUT]),
        "vae_round_trip": rows(result.round_trip),
        "copied_input": rows(result.copied),
        "seconds_per_edit": result.model.seconds_per_edit,
    }


def to_table(result: Comparison, suite: Suite[CaseT]) -> str:
    """Arrange a comparison for a reader, as a Markdown table with a row per task.

    Args:
        result: The three evaluations.
        suite: The suite that they were made on.

    Returns:
        The table and the notes that explain its columns.
    """
    rows: list[list[str]] = [list(_HEADER)]
    for name, row in result.model.tasks.items():
        best, least = result.round_trip.tasks[name], result.copied.tasks[name]
        rows.append(
            [
                name,
                share(row.done),
                share(row.strict),
                share(row.iou),
                share(row.red_gone),
                share(row.view_right),
                f"{row.psnr:.1f}",
                f"{row.background_psnr:.1f}",
                "-" if row.sharpness is None else f"{row.sharpness:.2f}".removeprefix("0"),
                f"{share(best.strict)} ({best.psnr:.1f})",
                f"{share(least.done)} ({least.psnr:.1f})",
            ]
        )
    tasks = [result.model.tasks[task] for task in suite.tasks]
    means = [share(float(np.mean([getattr(row, name) for row in tasks]))) for name in ("done", "strict")]
    rows.insert(-1, ["mean of the tasks", *means, *[""] * (len(_HEADER) - 3)])
    return "\n".join([*align(rows), *_notes(result, suite, tasks[0].n)])


def align(rows: list[list[str]]) -> list[str]:
    """Lay rows out as a Markdown table, the first row as its header and the first column on the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in (rows[0], rule, *rows[1:]):
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _notes(result: Comparison, suite: Suite[CaseT], num: int) -> list[str]:
    margin = 1.96 * (0.9 * 0.1 / num) ** 0.5
    return [
        "",
        f"{num} {suite.description} per task that were never trained on,"
        f" {result.model.seconds_per_edit:.2f} s per edit in batches;"
        f" at .90 the 95 % interval is ± {margin:.2f}.",
        "done: the requested change happened; strict: and nothing else changed. PSNR and background in dB.",
        "Sharpness: gradient energy as a share of the target's, of tasks that change the view.",
        "VAE round trip: strict (PSNR) of the true result encoded and decoded by the VAE, the upper bound.",
        "Copied input: done (PSNR) of the untouched source, the lower bound.",
        f"{HELD_OUT}: {suite.held_out_description}, all tasks together.",
    ]


def share(value: float | None) -> str:
    """Write a share of 1 with two digits, "-" where there is none."""
    if value is None:
        return "-"
    # Rounded, but never up to 1.00: 199 of 200 is not all.
    return "1.00" if value == 1 else f"{min(value, 0.99):.2f}".removeprefix("0")
