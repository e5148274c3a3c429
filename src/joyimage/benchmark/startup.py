"""Measure a cold start of the command: CPU seconds of processes that begin with nothing imported."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joyimage.errors import InvalidInputError
from joyimage.tiny.examples import load_example

if TYPE_CHECKING:
    from collections.abc import Callable

_COMMAND = "import sys; from joyimage.cli.main import main; sys.exit(main())"
_EXAMPLE = "shapes"
_PROMPT = "Recolor the heart orange."


@dataclass(frozen=True, kw_only=True)
class StartupTime:
    """Cold start of one program, the median of several runs.

    Attributes:
        name: What was run.
        cpu_s: CPU seconds of the process, user and system.
        wall_s: Seconds until the process ended.
        first_output_s: Seconds until it printed something; None if it printed nothing.
    """

    name: str
    cpu_s: float
    wall_s: float
    first_output_s: float | None


def measure_startup(rounds: int = 3, log: Callable[[str], None] = print) -> list[StartupTime]:
    """Start each program several times, one after the other.

    Args:
        rounds: Runs of each program, 1 or more. One more run before them fills the caches of the disk.
        log: Is called with the name of each program before it runs.

    Returns:
        One entry per program: `import torch`, `import joyimage`, `joyimage --help`, and an edit by the tiny
        checkpoint on the CPU.

    Raises:
        InvalidInputError: `rounds` is less than 1.
        RuntimeError: A program failed.
    """
    if rounds < 1:
        raise InvalidInputError(f"`rounds` is {rounds}; expected 1 or more.")
    with tempfile.TemporaryDirectory() as folder:
        source, output = (str(Path(folder, name)) for name in ("in.png", "out.png"))
        load_example(_EXAMPLE).image.save(source)
        edit = ["edit", source, _PROMPT, "-o", output, "--model", "tiny", "--device", "cpu", "--seed", "0"]
        programs = {
            "import torch": ["-c", "import torch"],
            "import joyimage": ["-c", "import joyimage"],
            "joyimage --help": ["-c", _COMMAND, "--help"],
            "joyimage edit": ["-c", _COMMAND, *edit],
        }
        results = []
        for name, arguments in programs.items():
            log(f"{name} ...")
            runs = [_run(arguments) for _ in range(rounds + 1)][1:]
            outputs = [first for _, _, first in runs if first is not None]
            results.append(
                StartupTime(
                    name=name,
                    cpu_s=statistics.median(cpu for cpu, _, _ in runs),
                    wall_s=statistics.median(wall for _, wall, _ in runs),
                    first_output_s=statistics.median(outputs) if outputs else None,
                )
            )
    return results


def to_startup_json(results: list[StartupTime]) -> list[dict[str, Any]]:
    """Return the measurement as plain values."""
    return [asdict(result) for result in results]


def to_startup_table(results: list[StartupTime]) -> str:
    """Return the measurement as a Markdown table, and the bound that an edit is held to."""
    rows = [
        "| cold start | CPU seconds | seconds | first output after |",
        "|---|---|---|---|",
        *(
            f"| `{one.name}` | {one.cpu_s:.2f} | {one.wall_s:.2f} |"
            f" {'-' if one.first_output_s is None else f'{one.first_output_s:.2f} s'} |"
            for one in results
        ),
    ]
    cpu_s = {one.name: one.cpu_s for one in results}
    bound_s = 2 * cpu_s["import torch"] + 1
    rows += ["", f"Bound for an edit, twice `import torch` and one second: {bound_s:.2f} CPU seconds."]
    return "\n".join(rows)


def _run(arguments: list[str]) -> tuple[float, float, float | None]:
    """Run Python, and return its CPU seconds, its seconds, and those until its first output.

    Raises:
        RuntimeError: It failed.
    """
    before, started = os.times(), time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
    )
    assert process.stdout is not None
    first = process.stdout.read(1)
    first_output_s = time.perf_counter() - started if first else None
    output = first + process.stdout.read()
    code = process.wait()
    wall_s, after = time.perf_counter() - started, os.times()
    if code != 0:
        raise RuntimeError(f"`{' '.join(arguments)}` failed: {output.decode(errors='replace').strip()}")
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu_s, wall_s, first_output_s
