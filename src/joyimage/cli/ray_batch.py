"""`joyimage batch --ray`: the rows of a batch, distributed to workers with Ray Data.

A row is done when its image, with the row's key in it, is there. So it does not matter which worker runs it,
whether the worker dies, or how often the row is tried: it is the same image, written whole.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from joyimage.serving.workers.ray_cluster import start_ray

if TYPE_CHECKING:
    from joyimage.cli.options import RunOptions
    from joyimage.cli.rows import Row
    from joyimage.cli.runners import Runner

_ROWS_A_TASK = 4


class RowWorker:
    """Runs rows with a pipeline that is loaded once, when the first row needs it.

    Args:
        options: Options of the command.
    """

    def __init__(self, options: RunOptions) -> None:
        self._options = options
        self._runner: Runner | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Run some rows; return their part of the report."""
        from joyimage.cli.commands.batch import run_rows
        from joyimage.cli.runners import load_runner

        if self._runner is None:
            self._runner = load_runner(self._options)
        rows: list[Row] = list(batch["row"])
        problems: dict[int, str] = {}
        reports = run_rows(rows, self._options, problems, self._runner)
        return {
            "number": [row.number for row in rows],
            "worker": [os.getpid()] * len(rows),
            "report": [json.dumps(reports.get(row.number)) for row in rows],
            "problem": [problems.get(row.number, "") for row in rows],
        }


def run_rows_on_ray(
    rows: list[Row], options: RunOptions, problems: dict[int, str], *, workers: int, address: str | None
) -> dict[int, dict[str, Any]]:
    """Run the rows that are not done, on Ray.

    Args:
        rows: Checked rows.
        options: Options of the command.
        problems: What goes wrong is put here, by row number.
        workers: Most workers.
        address: Address of a Ray cluster; None starts one here, on loopback.

    Returns:
        By row number: the files, and whether they were made now.

    Raises:
        ValueError: Ray isn't installed.
    """
    if not rows:
        return {}
    is_own = start_ray(workers, address)
    import ray

    needs_gpu = (options.device or "cuda").startswith("cuda") and ray.cluster_resources().get("GPU", 0) > 0
    place: dict[str, Any] = {"num_gpus": options.gpus or 1} if needs_gpu else {"num_cpus": 1}
    try:
        done = ray.data.from_items(
            [{"row": row} for row in rows], override_num_blocks=-(-len(rows) // _ROWS_A_TASK)
        )
        done = done.map_batches(
            RowWorker,
            fn_constructor_args=(options,),
            batch_size=_ROWS_A_TASK,
            concurrency=(1, workers),
            **place,
        )
        found = done.take_all()
    finally:
        if is_own:
            ray.shutdown()
    problems.update({entry["number"]: entry["problem"] for entry in found if entry["problem"]})
    reports = {entry["number"]: json.loads(entry["report"]) for entry in found}
    return {number: report for number, report in reports.items() if report is not None}
