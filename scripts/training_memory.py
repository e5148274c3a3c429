"""Measure what training takes: seconds per step and peak memory of each preset, beside the predicted peak.

    python -m scripts.training_memory --model full --device cuda     # the published sizes, about 50 GB on disk
    python -m scripts.training_memory --model scaled --device cpu    # the same proportions at a CPU's size

Weights are random. Each way trains in a process of its own, from a checkpoint folder, with everything that a user's run
does: encoding, loading, steps. Peaks are those of the device, on a CPU of the process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from joyimage.benchmark.models import build, resolve
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


def main() -> None:
    """Build the checkpoint, run each way and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("full", "scaled"), default="scaled")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, help="side of the images in pixels; the model's own if not given")
    parser.add_argument("--layers", type=int, help="blocks of the transformer; the model's own if not given")
    parser.add_argument("--steps", type=int, default=4, help="of which the first is not timed")
    parser.add_argument("--ways", nargs="+", choices=(*PRESETS, *WAYS))
    parser.add_argument("--run", nargs=2, metavar=("FOLDER", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        folder, way = options.run
        print(json.dumps(run(Path(folder), way, options.device, options.steps)))
        return
    ways = options.ways or list(PRESETS if options.device.startswith("cuda") else WAYS)
    with tempfile.TemporaryDirectory() as name:
        write_inputs(Path(name), options)
        print("| way | how memory is kept low | predicted peak | measured peak | seconds per step |")
        print("|---|---|---:|---:|---:|")
        for way in ways:
            print(measure(Path(name), way, options), flush=True)


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


def measure(folder: Path, way: str, options: argparse.Namespace) -> str:
    """Return a row of the table."""
    command = [sys.executable, "-m", "scripts.training_memory", "--device", options.device]
    command += ["--steps", str(options.steps), "--run", str(folder), way]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"| {way} | {done.stderr.strip().splitlines()[-1]} | | | |"
    found = json.loads(done.stdout.splitlines()[-1])
    return (
        f"| {way} | {found['savings']} | {found['predicted'] / 1e9:.2f} GB | {found['measured'] / 1e9:.2f} GB |"
        f" {found['seconds']:.2f} |"
    )


def run(folder: Path, way: str, device: str, steps: int) -> dict[str, Any]:
    """Train in one way, and return what was predicted and measured."""

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
