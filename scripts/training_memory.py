"""Measure what training takes: seconds per step and peak memory of each preset, beside the predicted peak.

    python -m scripts.training_memory                                # full on a GPU, scaled on a CPU
    python -m scripts.training_memory --output docs/benchmarks       # also a page and its numbers as JSON

The model "full" has the published sizes (16 billion parameters to adapt, 50 GB on disk and in host memory), "scaled"
the same proportions at a CPU's size. Weights are random. Each way trains in a process of its own, from a checkpoint
folder, with everything that a user's run does: encoding, loading, steps. Peaks are those of the device, on a CPU of the
process. On a GPU a preset's process cannot reserve more than the preset.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from joyimage.benchmark.measure import describe_device
from joyimage.benchmark.models import build, resolve
from joyimage.benchmark.report import device_slug
from joyimage.imaging.atomic import write_text
from joyimage.training import train
from joyimage.training.config import config_from_dict
from joyimage.training.lora import plan

PRESETS: dict[str, dict[str, Any]] = {preset: {"preset": preset} for preset in ("80", "48", "24", "16", "12")}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {"gradient_checkpointing": False, "quantization": "none"},
    "checkpointing": {"gradient_checkpointing": True, "quantization": "none"},
    "int8": {"gradient_checkpointing": True, "quantization": "int8"},
    "nf4": {"gradient_checkpointing": True, "quantization": "nf4"},
    "disk": {"offload": "disk"},
}
NUM_PAIRS = 2


def main(arguments: list[str] | None = None) -> None:
    """Build the checkpoint, run each way, print a Markdown table, and write it where asked to.

    Args:
        arguments: Words of the command line; those of this process if None.
    """
    has_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if has_gpu else "cpu")
    parser.add_argument("--model", choices=("full", "scaled"), help="default: full on a GPU, scaled on a CPU")
    parser.add_argument("--size", type=int, help="side of the images in pixels; the model's own if not given")
    parser.add_argument("--layers", type=int, help="blocks of the transformer; the model's own if not given")
    parser.add_argument("--steps", type=int, default=4, help="of which the first is not timed")
    parser.add_argument("--ways", nargs="+", choices=(*PRESETS, *WAYS))
    parser.add_argument("--output", type=Path, help="folder for training-DEVICE.md and .json")
    parser.add_argument("--run", nargs=2, metavar=("FOLDER", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.run:
        folder, way = options.run
        print(json.dumps(run(Path(folder), way, options.device, options.steps)))
        return
    is_on_gpu = options.device.startswith("cuda")
    options.model = options.model or ("full" if is_on_gpu else "scaled")
    ways = options.ways or list(PRESETS if is_on_gpu else WAYS)
    results = describe(options)
    with tempfile.TemporaryDirectory() as name:
        write_inputs(Path(name), options)
        print(_HEAD)
        for way in ways:
            results["ways"][way] = measure(Path(name), way, options)
            print(row(way, results["ways"][way]), flush=True)
            if options.output is not None:  # after each way: hours of measuring are not lost
                write_results(results, options.output)


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the measurements are of: machine, versions, model and size, without any measurement yet."""
    model = resolve(options.model, size=options.size, num_layers=options.layers)
    assert model is not None
    return {
        "device": describe_device(torch.device(options.device)),
        "torch": torch.__version__,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "model": options.model,
        "layers": model.num_layers,
        "size": model.base_size,
        "steps": options.steps,
        "ways": {},
    }


def write_inputs(folder: Path, options: argparse.Namespace) -> None:
    """Write a checkpoint with random weights, and pairs of its size."""
    model = resolve(options.model, size=options.size, num_layers=options.layers)
    assert model is not None
    build(model, torch.device("cpu"), torch.bfloat16).save_pretrained(folder / "model")
    for name, sigma in (("target", 40), ("control", 90)):
        (folder / name).mkdir()
        for number in range(NUM_PAIRS):
            image = Image.effect_noise((model.base_size, model.base_size), sigma)
            image.convert("RGB").save(folder / name / f"{number}.png")


def measure(folder: Path, way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the numbers of one way, or the message with which it ended."""
    command = [sys.executable, "-m", "scripts.training_memory", "--device", options.device]
    command += ["--steps", str(options.steps), "--run", str(folder), way]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


_HEAD = (
    "| way | how memory is kept low | predicted peak | measured peak | difference | seconds per step |\n"
    "|---|---|---:|---:|---:|---:|"
)


def row(way: str, found: dict[str, Any]) -> str:
    """Return a row of the table."""
    if "error" in found:
        return f"| {way} | {found['error']} | | | | |"
    difference = found["predicted"] / found["measured"] - 1
    return (
        f"| {way} | {found['savings']} | {found['predicted'] / 1e9:.2f} GB | {found['measured'] / 1e9:.2f} GB |"
        f" {difference:+.0%} | {found['seconds']:.2f} |"
    )


def write_results(results: dict[str, Any], folder: Path) -> Path:
    """Write the measurements as JSON and as a page with a table.

    Args:
        results: From `describe`, with measured ways.
        folder: Folder to write to; made if missing.

    Returns:
        The page.
    """
    device = results["device"]
    stem = folder / f"training-{device_slug(device['name'])}-{results['model']}"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(stem.with_suffix(".json"), json.dumps(results, indent=1) + "\n")
    machine = ", ".join(
        [device["name"]]
        + [
            f"{device[key]} {unit}"
            for key, unit in (("memory_gb", "GB"), ("cores", "cores"))
            if key in device
        ]
    )
    page = stem.with_suffix(".md")
    lines = [
        f"# Training the {results['model']} model",
        "",
        f"{machine}; torch {results['torch']}, {results['date']}. {results['layers']} blocks with random weights, pairs"
        f" of {results['size']} x {results['size']} pixels, one at a time, rank 16.",
        "",
        _HEAD,
        *(row(way, found) for way, found in results["ways"].items()),
        "",
        _EXPLANATION,
    ]
    write_text(page, "\n".join(lines) + "\n")
    return page


_EXPLANATION = """\
Measured by `python -m scripts.training_memory`. A number as the name of a way is `memory.preset` in GB; on a GPU the
process cannot reserve more. Peaks are those of reserved memory on a GPU and of the whole process on a CPU. Seconds per
step are those after the first step; beside other work on the machine they are longer."""


def run(folder: Path, way: str, device: str, steps: int) -> dict[str, Any]:
    """Train in one way, and return what was predicted and measured."""
    if way in PRESETS and device.startswith("cuda"):
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, int(way) * 1e9 / total), device)

    def config(num_steps: int) -> Any:
        return config_from_dict(
            {
                "model": str(folder / "model"),
                "device": device,
                "output": str(folder / f"{way}.safetensors"),
                "data": [
                    {
                        "target": str(folder / "target"),
                        "control": [str(folder / "control")],
                        "caption": "Make the car red",
                        "held_out": 0.0,
                    }
                ],
                "train": {"steps": num_steps},
                "memory": {**PRESETS, **WAYS}[way],
                "validate": {"every": 0},
            }
        )

    planned = plan(config(1), progress=False).memory
    train(config(1), progress=False)
    train(config(steps), progress=False)  # resumes: its pace is that of warm steps
    log = (folder / f"{way}-run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "savings": str(planned.savings),
        "predicted": planned.peak,
        "measured": peak_bytes(device),
        "seconds": json.loads(log[-1])["seconds_per_step"],
    }


def peak_bytes(device: str) -> int:
    """Return the most memory that this process had on a device, or on a CPU in all."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_reserved()
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
