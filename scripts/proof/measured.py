"""Run an edit as a process of its own, with limited memory, and read what it took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from scripts.proof.memory_group import MemoryGroup


def run_edit(
    log: Path, options: dict[str, Any], *, limit_bytes: int | None = None, timeout_s: float | None = None
) -> dict[str, Any]:
    """Run `scripts.proof.edit` and return its figures.

    Args:
        log: File for its events.
        options: Command-line options of the measured process.
        limit_bytes: Memory of the process, enforced by a control group on the CPU and by torch on a GPU; None
            without a limit.
        timeout_s: Seconds after which it is ended; None to wait for it.

    Raises:
        NoMemoryGroupError: No control group can be made here.
    """
    is_limited = limit_bytes is not None and not str(options.get("device", "cpu")).startswith("cuda")
    given = options if is_limited or limit_bytes is None else {**options, "limit_bytes": limit_bytes}
    command = [sys.executable, "-m", "scripts.proof.edit", str(log)]
    command += [
        word for key, value in given.items() if value is not None for word in (f"--{key}", str(value))
    ]
    drop_cache(options)
    log.unlink(missing_ok=True)
    with MemoryGroup(limit_bytes) if is_limited and limit_bytes else nullcontext() as group:
        process = subprocess.Popen(
            [sys.executable, "-m", "scripts.proof.edit", *command_line(log, given)],
            preexec_fn=None if group is None else group.enter,
            stdout=log.with_suffix(".txt").open("wb"),
            stderr=subprocess.STDOUT,
        )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
        figures = read_log(log)
        figures["outcome"] = _outcome(code, 0 if group is None else group.num_kills(), timeout_s)
        figures["limit"] = limit_bytes
        figures["group_peak"] = None if group is None else group.peak_bytes()
    return figures


def command_line(log: Path, options: dict[str, Any]) -> list[str]:
    """Return the words after `python -m scripts.proof.edit`.

    Args:
        log: File for the events.
        options: Options by name; None is left out.
    """
    given = [(f"--{key}", str(value)) for key, value in options.items() if value is not None]
    return [str(log), *(word for pair in given for word in pair)]


def _outcome(code: int | None, num_kills: int, timeout_s: float | None) -> str:
    if num_kills:
        return "killed for memory"
    if code is None:
        return f"not done after {timeout_s / 60:.0f} min" if timeout_s else "stopped"
    return "done" if code == 0 else f"failed with exit code {code}"


def read_log(path: Path) -> dict[str, Any]:
    """Return the figures in the events of an edit, complete or not.

    Args:
        path: Log of `scripts.proof.edit`.

    Returns:
        The plan, seconds of loading and of each stage and step, sizes in bytes, and what the image is known by.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    events: list[dict[str, Any]] = [json.loads(line) for line in lines]
    figures: dict[str, Any] = {"stages": {}, "steps": [], "blocks": 0}
    stage, begun = "loading", 0.0
    for event in events:
        if event["event"] == "plan":
            figures |= {key: event[key] for key in ("offload", "text", "host_predicted", "device_predicted")}
        elif event["event"] == "block":
            figures["blocks"] += 1
        elif event["event"] == "stage" and event["name"] == "step":
            figures["steps"].append(round(event["s"] - begun, 3))
            begun = event["s"]
        elif event["event"] in {"loaded", "stage", "finished"}:
            if stage not in {"", "denoising"}:
                figures["stages"][stage] = round(event["s"] - begun, 3)
            stage, begun = event.get("name", ""), event["s"]
            if event["event"] == "finished":
                figures |= {key: event[key] for key in ("sha256", "mean", "std", "device_peak")}
    if events:
        last = events[-1]
        figures |= {"seconds": last["s"], "last": last.get("name", last["event"])}
        figures |= {key: last[key] for key in ("rss_peak", "anonymous_peak", "read")}
        # Of programs and libraries, which are mapped as weight files are.
        figures["code"] = events[0]["rss"] - events[0]["anonymous_peak"]
    return figures


def drop_cache(options: dict[str, Any]) -> None:
    """Have the operating system forget the weight files, so that the edit reads them from the disk.

    Pages that another process has read would not be counted in the group of this one.
    """
    for path in (
        Path(str(options[key])) for key in ("model", "transformer", "text_encoder", "vae") if options.get(key)
    ):
        for file in path.glob("*/*.safetensors") if path.is_dir() else [path]:
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
