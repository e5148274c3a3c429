"""Put a benchmark into words: JSON, a page of Markdown per device, and a plot."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from joyimage.benchmark.baseline import BASELINES
from joyimage.benchmark.plot import draw_stages
from joyimage.benchmark.stages import STAGES
from joyimage.benchmark.timing import WHOLE
from joyimage.devices import GPUS_CHOICES

if TYPE_CHECKING:
    from pathlib import Path

SIDES = ("diffusers", "joyimage")

_COUNTERS = {
    "encoder_tflop": ("text encoder, both prompts", "TFLOP", 21.5),
    "vae_encode_tflop": ("VAE encoding", "TFLOP", 2.85),
    "vae_decode_tflop": ("VAE decoding", "TFLOP", 4.71),
    "transformer_tflop": ("transformer, 40 steps", "TFLOP", 16132),
    "transformer_forwards": ("transformer passes", "", 80),
    "encoder_tokens": ("tokens through the language model", "", None),
    "vision_passes": ("forwards of the vision tower", "", 1),
    "vae_frames_encoded": ("frames encoded", "", 1),
    "vae_frames_decoded": ("frames decoded", "", 1),
    "eager_block_gb": ("elementwise traffic of a block, operator by operator", "GB", None),
    "compiled_block_gb": ("the same, compiled", "GB", None),
    "kernel_block_gb": ("the same, with kernels", "GB", 0.91),
    "first_step_copies": ("copies to the device, first step", "", 0),
    "first_step_syncs": ("waits for the device, first step", "", 0),
    "step_copies": ("copies to the device, every later step", "", 0),
    "step_copy_mb": ("their size", "MB", 0),
    "step_syncs": ("waits for the device, every later step", "", 0),
    "step_host_tensors": ("tensors built on the host, every later step", "", 0),
}
"""Counter → its row, its unit, and what arithmetic predicts for an exact implementation."""

SGLANG_SECONDS = {
    "prompt encoding": 0.603,
    "VAE encoding": 0.068,
    "one step": 0.673,
    "decoding": 0.0143,
    "whole edit of 40 steps": 27.69,
}
"""Seconds of this model at 1024 x 1024 pixels and guidance 4 on one H100. Source: SGLang 0.5.23's baseline file."""


def write_report(report: dict[str, Any], folder: Path) -> Path:
    """Write a benchmark's files; a page keeps the other models that were measured on the device.

    Args:
        report: Made by `measure`.
        folder: Where to; made if missing.

    Returns:
        The page, `<device>.md`; beside it lie `<device>-<model>.json` and `.svg`, for several devices
        `<device>-<model>-<number>-gpus.json` and `.svg`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    slug = device_slug(report["device"]["name"])
    stem = f"{slug}-{_name(report['model'], report.get('gpus', 1))}"
    (folder / f"{stem}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    bars = {BASELINES["eager"]: report["seconds"]["diffusers"]}
    for kind, baseline in report["baselines"].items():
        if "seconds" in baseline:
            bars[kind] = baseline["seconds"]
    shown = {"diffusers": bars.pop(BASELINES["eager"]), **bars, "joyimage": report["seconds"]["joyimage"]}
    (folder / f"{stem}.svg").write_text(draw_stages(shown, _title(report)), encoding="utf-8")

    reports = [
        json.loads(path.read_text(encoding="utf-8"))
        for model in ("full", "scaled", "tiny")
        for gpus in GPUS_CHOICES
        if (path := folder / f"{slug}-{_name(model, gpus)}.json").is_file()
    ]
    page = folder / f"{slug}.md"
    page.write_text(to_markdown(reports), encoding="utf-8")
    return page


def device_slug(name: str) -> str:
    """Return a device's name as part of a file's."""
    plain = re.sub(r"\((?:R|TM)\)|\bCPU\b|@.*|\bProcessor\b", " ", name)
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-") or "cpu"


def to_markdown(reports: list[dict[str, Any]]) -> str:
    """Return the page of one device.

    Args:
        reports: Reports of one device, one per model.

    Returns:
        Markdown.
    """
    device = reports[0]["device"]
    extra = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in device.items() if name != "name")
    lines = [f"# {device['name']}", "", f"joyimage beside diffusers, same weights; {extra}.", ""]
    for report in reports:
        lines += _section(report)
    counted = [report for report in reports if "counters" in report]
    if counted:
        newest = max(counted, key=lambda report: report["date"])
        lines += _counters(newest["counters"])
    return "\n".join(lines)


def to_summary(report: dict[str, Any]) -> str:
    """Return the tables of one run, for a terminal."""
    lines = _section(report)
    return "\n".join(lines + (_counters(report["counters"]) if "counters" in report else []))


def _section(report: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items() if number)
    name = _name(report["model"], report.get("gpus", 1))
    image = f"{device_slug(report['device']['name'])}-{name}.svg"
    lines = [
        f"## {_title(report)}",
        "",
        f"`{report['command']}`, {report['date']}; {versions}.",
        "",
        f"![Stages of both]({image})",
        "",
        "| stage | diffusers, s | joyimage, s | times faster |",
        "| --- | --- | --- | --- |",
    ]
    for stage in (*STAGES, WHOLE):
        cells = [_spread(report["seconds"][side][stage], 3) for side in SIDES]
        lines.append(f"| {stage} | {cells[0]} | {cells[1]} | {_spread(report['ratios'][stage], 2)} |")
    lines.append(f"| VAE, encode and decode | | | {_spread(report['ratios']['VAE'], 2)} |")
    agreement = report["agreement"]
    lines += [
        "",
        f"Medians of {2 * report['rounds']} runs each in the order A B B A, least and most; ratios"
        " are taken round by round. Both images agree: they differ by"
        f" {agreement['max']:.1e} of 1 at most (allowed: {agreement['allowed']}).",
        "",
    ]
    return lines + _baselines(report) + _published(report) + _rest(report)


def _baselines(report: dict[str, Any]) -> list[str]:
    if not report["baselines"]:
        return []
    lines = ["| baseline | whole edit, s | times faster | denoising |", "| --- | --- | --- | --- |"]
    for kind, baseline in report["baselines"].items():
        if "failed" in baseline:
            lines.append(f"| {BASELINES[kind]} | doesn't run here: {baseline['failed']} | | |")
            continue
        ratios = baseline["ratios"]
        lines.append(
            f"| {BASELINES[kind]} | {_spread(baseline['seconds'][WHOLE], 3)}"
            f" | {_spread(ratios[WHOLE], 2)} | {_spread(ratios['denoising'], 2)} |"
        )
    return [*lines, ""]


def _published(report: dict[str, Any]) -> list[str]:
    """Return the table beside another engine's published seconds, where the published size was measured on a GPU."""
    if "floor_s" not in report:
        return []
    seconds = {name: one["median"] for name, one in report["seconds"]["joyimage"].items()}
    own = {
        STAGES[0]: seconds[STAGES[0]],
        STAGES[1]: seconds[STAGES[1]],
        "one step": seconds[STAGES[2]] / report["steps"],
        STAGES[3]: seconds[STAGES[3]],
    }
    # The benchmark's edits are shorter than published ones: the loop is as long as its steps.
    own["whole edit of 40 steps"] = seconds[WHOLE] + (40 - report["steps"]) * own["one step"]
    lines = [
        "| stage | SGLang 0.5.23, one H100, as published, s | joyimage here, s |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {SGLANG_SECONDS[name]:.3f} | {value:.3f} |" for name, value in own.items()),
    ]
    return [*lines, ""]


def _rest(report: dict[str, Any]) -> list[str]:
    """Return the lines on memory, loading, the device's peaks and what was reached of them."""
    lines = []
    if report["peak_gb"]["joyimage"]:
        peaks = " and ".join(f"{report['peak_gb'][side]:.1f} GB ({side})" for side in SIDES)
        lines.append(f"- Peak memory: {peaks}.")
    again = {name: one["median"] for name, one in report["again_s"].items()}
    lines.append(
        f"- The same image again, in a session and with another prompt: {again[WHOLE]:.3f} s, of which"
        f" {again[STAGES[0]]:.3f} s are {STAGES[0]} and {again[STAGES[1]]:.3f} s {STAGES[1]}."
    )
    parts = [f"{side} {report['first_run_s'][side][WHOLE]:.2f} s" for side in SIDES]
    lines.append(f"- First edit in this process, weights on the device: {', '.join(parts)}.")
    if report["loading"]:
        parts = [
            f"{side} {times['loading']:.2f} s + {times['first edit']:.2f} s"
            for side, times in report["loading"].items()
        ]
        lines.append(f"- Time to the first edit, loading + edit, files in memory: {', '.join(parts)}.")
    if "acceleration" in report:
        lines.append(f"- {_acceleration(report['acceleration'])}")
    peaks = report["peaks"]
    lines.append(
        f"- Measured in the same run: matmul {peaks['matmul_tflops']:.3g} TFLOP/s, attention"
        f" {peaks['attention_tflops']:.3g} TFLOP/s, copy {peaks['copy_gbs']:.0f} GB/s."
    )
    if "achieved_tflops" in report:
        parts = [f"{side} {report['achieved_tflops'][side]:.0f}" for side in SIDES]
        lines.append(f"- Reached while denoising, TFLOP/s: {', '.join(parts)}.")
    if "floor_s" in report:
        times = report["seconds"]["joyimage"][WHOLE]["median"] / report["floor_s"]
        lines.append(
            f"- Floor, the counted work at the measured matmul rate: {report['floor_s']:.2f} s;"
            f" joyimage takes {times:.2f} times that."
        )
    if "kernels_gbs" in report:
        parts = [f"`{name}` {value:.0f}" for name, value in report["kernels_gbs"].items()]
        lines.append(f"- Kernels, GB/s: {', '.join(parts)}.")
    return [*lines, ""]


def _acceleration(report: dict[str, Any]) -> str:
    """Return what ran and what did not as one line."""
    parts = [
        f"{report['ops']} operations",
        f"{report['attention']} attention ({report['attention_backend']})",
    ]
    parts += ["forward cache"] if report["forward_cache"] else []
    skipped = [f"{name} ({reason})" for name, reason in report["skipped"].items()]
    return f"joyimage ran: {', '.join(parts)}; skipped: {', '.join(skipped) or 'nothing'}."


def _counters(counters: dict[str, Any]) -> list[str]:
    lines = [
        "## Counted at the published sizes",
        "",
        f"One edit of 1024 x 1024 pixels, guided, {counters['steps']} steps; the same on every machine.",
        "",
        "| | diffusers | joyimage | predicted |",
        "| --- | --- | --- | --- |",
    ]
    for name, (row, unit, predicted) in _COUNTERS.items():
        values = [counters[side][name] for side in SIDES]
        cells = [_number(value) for value in (*values, predicted)]
        lines.append(f"| {row}{', ' + unit if unit else ''} | {' | '.join(cells)} |")
    lines += ["", "| budget | at most | joyimage | |", "| --- | --- | --- | --- |"]
    for budget in counters["budgets"]:
        unit = f" {budget['unit']}" if budget["unit"] else ""
        verdict = "holds" if budget["holds"] else "**missed**"
        lines.append(
            f"| {budget['name']} | {budget['limit']:g}{unit} | {budget['got']:.4g}{unit} | {verdict} |"
        )
    return [*lines, ""]


def _title(report: dict[str, Any]) -> str:
    gpus = report.get("gpus", 1)  # reports of earlier versions have none
    shared = "" if gpus == 1 else f", joyimage's edits shared by {gpus} devices"
    return (
        f"{report['model']}: {report['size']} x {report['size']}, {report['layers']} blocks,"
        f" {report['steps']} steps, {report['dtype']}{shared}"
    )


def _name(model: str, gpus: int) -> str:
    """Return the part of a file's name that says what was measured."""
    return model if gpus == 1 else f"{model}-{gpus}-gpus"


def _spread(summary: dict[str, Any], digits: int) -> str:
    return f"{summary['median']:.{digits}f} ({summary['min']:.{digits}f}-{summary['max']:.{digits}f})"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
