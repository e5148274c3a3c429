"""Write the figures of the proof as tables."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from joyimage.imaging.atomic import write_text

if TYPE_CHECKING:
    from pathlib import Path

_FULL = (
    "edit",
    "plan",
    "outcome",
    "peak of the group, GB",
    "RSS, GB",
    "anonymous, GB",
    "device, GB",
    "loading, s",
    "prompt encoding, s",
    "VAE encoding, s",
    "each step, s",
    "decoding, s",
    "read, GB",
    "load",
)
_SMALLER = ("blocks", "text layers", "dtype", "plan", "predicted, GB", "measured, GB", "difference", "image")


def write_report(results: dict[str, Any], path: Path) -> Path:
    """Write the results as JSON and as a page of tables.

    Args:
        results: From `prove`.
        path: Where to write, without a suffix.

    Returns:
        The page.
    """
    write_text(path.with_suffix(".json"), json.dumps(results, indent=2) + "\n")
    page = path.with_suffix(".md")
    write_text(page, render(results))
    return page


def render(results: dict[str, Any]) -> str:
    """Return the page of tables.

    Args:
        results: From `prove`.
    """
    edits: dict[str, Any] = results["edits"]
    smaller = {name: edit for name, edit in edits.items() if "-blocks-" in name}
    full = {name: edit for name, edit in edits.items() if name not in smaller}
    sections = [
        "# The published size in little memory",
        _describe(results["machine"]),
        "## A guided edit of 256 x 256 pixels, 2 steps, bf16, by the memory it may take",
        _table(_FULL, [_full_row(name, edit) for name, edit in full.items()]),
        *[f"- {name}: {edit['text']}" for name, edit in full.items() if "text" in edit],
        _EXPLANATION,
        "## Streamed and resident, predicted and measured",
        _table(_SMALLER, [_smaller_row(name, smaller) for name in smaller]),
        _SMALLER_EXPLANATION,
    ]
    return "\n\n".join(sections).replace("\n\n- ", "\n- ") + "\n"


_EXPLANATION = """\
The weights are random, drawn from normal(0, 0.02), the same for all blocks; the shapes, files and layout are the
published ones. Each step runs both guidance branches. The peak of the control group counts the page cache of the
weight files, which the kernel gives back when memory is short: it grows to the limit whatever is needed. RSS counts the
pages of mapped weight files that are in use, anonymous memory what cannot be given back. Read is what the process had
the disk read, from a cold cache. Load is the mean number of running processes in the minute before the edit began and
before it ended: beside other work an edit takes longer."""

_SMALLER_EXPLANATION = """\
The published width with fewer blocks and text layers, without a limit. Measured is the peak RSS on the CPU, the peak of
reserved memory on a GPU. Where all weights are cast while they are loaded (float32, plan none), it is that of anonymous
memory and code: pages of the files that have been cast stay mapped for as long as the kernel likes. The image is
compared bit for bit with that of plan none."""


def _describe(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    gpu = f"{machine['gpu']['name']}, {machine['gpu']['memory_gb']} GB; " if "gpu" in machine else ""
    disk = f", disk {machine['disk_mb_per_s']} MB/s" if "disk_mb_per_s" in machine else ""
    return (
        f"{gpu}{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB{disk}; torch with"
        f" {machine['threads']} threads. {machine['date']}; {versions}."
    )


def _full_row(name: str, edit: dict[str, Any]) -> list[str]:
    stages = edit["stages"]
    return [
        name,
        edit.get("offload", "-"),
        edit["outcome"],
        _gb(edit.get("group_peak")),
        _gb(edit.get("rss_peak")),
        _gb(edit.get("anonymous_peak")),
        _gb(edit.get("device_peak")),
        _seconds(stages.get("loading")),
        _seconds(stages.get("prompt encoding")),
        _seconds(stages.get("VAE encoding")),
        ", ".join(map(_seconds, edit["steps"])) or "-",
        _seconds(stages.get("decoding")),
        _gb(edit.get("read")),
        f"{edit['load_before'] or '-'}, {edit['load_after']}",
    ]


def _smaller_row(name: str, edits: dict[str, Any]) -> list[str]:
    num_blocks, _, num_text_layers, _, dtype, offload = name.split("-")
    edit = edits[name]
    resident = edits.get(name.replace(f"-{offload}", "-none"), {})
    is_on_gpu = bool(edit.get("device_peak"))
    predicted = edit.get("device_predicted" if is_on_gpu else "host_predicted")
    measured = edit.get("device_peak") if is_on_gpu else _needed(edit, dtype, offload)
    difference = f"{predicted / measured - 1:+.1%}" if predicted and measured else "-"
    return [
        num_blocks,
        num_text_layers,
        dtype,
        offload,
        _gb(predicted),
        _gb(measured),
        difference,
        _compare(edit, resident),
    ]


def _needed(edit: dict[str, Any], dtype: str, offload: str) -> int | None:
    """Return the peak of host memory without what the kernel can take back."""
    if offload == "none" and dtype != "bfloat16" and "code" in edit:
        return edit["anonymous_peak"] + edit["code"]
    return edit.get("rss_peak")


def _compare(edit: dict[str, Any], resident: dict[str, Any]) -> str:
    if "sha256" not in edit:
        return edit["outcome"]
    if "sha256" not in resident:
        return "not compared"
    return "equal" if edit["sha256"] == resident["sha256"] else "different"


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _gb(num_bytes: int | None) -> str:
    return f"{num_bytes / 1e9:.2f}" if num_bytes else "-"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"
