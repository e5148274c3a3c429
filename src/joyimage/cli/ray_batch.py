"""`joyimage batch --ray`: the rows of a batch shared out to workers on Ray Data.

A row is done when its picture, with the row's key in it, is there. So it doesn't matter which worker does it,
whether that dies on the way, or how often the row is tried: it is the same picture, written whole.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from joyimage.serving.workers.ray_cluster import start_ray

if TYPE_CHECKING:
    from joyimage.cli.options import EditOptions
    from joyimage.cli.rows import Row

_ROWS_A_TASK = 4


class RowWorker:
    """Runs rows with a pipeline that is loaded once, when the first row needs it.

    Args:
        options: Of the command.
    """

    def __init__(self, options: EditOptions) -> None:
        self._options = options
        self._loaded: Any = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Run some rows; give back what the report says of them."""
        from joyimage.cli.commands.batch import run_rows
        from joyimage.cli.options import load

        if self._loaded is None:
            self._loaded = load(self._options)
            self._loaded.pipe.set_progress_bar_config(disable=True)
        rows: list[Row] = list(batch["row"])
        problems: dict[int, str] = {}
        reports = run_rows(rows, self._options, problems, self._loaded)
        return {
            "number": [row.number for row in rows],
            "worker": [os.getpid()] * len(rows),
            "output": [reports.get(row.number, {}).get("output", "") for row in rows],
            "made": [bool(reports.get(row.number, {}).get("made")) for row in rows],
            "problem": [problems.get(row.number, "") for row in rows],
        }


def run_rows_on_ray(
    rows: list[Row], options: EditOptions, problems: dict[int, str], *, workers: int, address: str | None
) -> dict[int, dict[str, Any]]:
    """Run the rows that aren't done, on Ray.

    Args:
        rows: Checked.
        options: Of the command.
        problems: What goes wrong is put here, by row number.
        workers: Most workers.
        address: Of a Ray cluster; None starts one here, on loopback.

    Returns:
        By row number: the file, and whether it was made now.

    Raises:
        ValueError: Ray isn't installed.
    """
    if not rows:
        return {}
    is_own = start_ray(workers, address)
    import ray

    needs_gpu = (options.device or "cuda").startswith("cuda") and ray.cluster_resources().get("GPU", 0) > 0
    place: dict[str, Any] = {"num_gpus": 1} if needs_gpu else {"num_cpus": 1}
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
    return {
        entry["number"]: {"output": entry["output"], "made": entry["made"]}
        for entry in found
        if not entry["problem"]
    }
