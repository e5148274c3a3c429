"""Print how well the tiny model edits in each quantized format: `python -m scripts.quantization_table`.

One row per format: share of edits that are done, and the mean PSNR between its images and those of the model in
full precision, for the same scenes, prompts and noise. int8, fp8 and nf4 are quantized while loading; the others are
read from files that `joyimage quantize` writes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from joyimage.acceleration.quantization import QUANTIZATIONS
from joyimage.evaluation.editors import pipeline_editor
from joyimage.evaluation.metrics import psnr
from joyimage.evaluation.runner import evaluate
from joyimage.loading import load_pipeline
from joyimage.pipeline.quantizing import quantize_file
from joyimage.tiny import weights_folder
from joyimage.tiny.suite import DrawnScenes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image

FORMATS = {
    "float32": None,
    "int8_convrot": "int8",
    "fp8": "fp8",
    "mxfp8": "mxfp8",
    "nf4": "nf4",
    "nvfp4": "nvfp4",
    "GGUF Q8_0": "gguf-q8_0",
    "GGUF Q4_0": "gguf-q4_0",
}
"""Name in the table → format of `load`."""


def main() -> None:
    """Measure all formats."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=20, help="scenes per task")
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS)[1:], default=list(FORMATS)[1:])
    options = parser.parse_args()
    num = options.num
    print("| format | edits done | change | PSNR to float32 |")
    print("|---|---|---|---|")
    baseline: list[Image] = []
    done = {}
    for name in ("float32", *options.formats):
        pipe = load(FORMATS[name])
        images: list[Image] = []
        suite = DrawnScenes(seed=0, size=pipe.config["base_size"])
        result = evaluate(recorded(pipeline_editor(pipe), images), suite, num=num, batch_size=20)
        results = list(result.tasks.values())
        done[name] = sum(task.done * task.n for task in results) / sum(task.n for task in results)
        baseline = baseline or images
        decibels = np.mean(
            [psnr(np.asarray(a), np.asarray(b)) for a, b in zip(baseline, images, strict=True)]
        )
        change = done[name] - done["float32"]
        print(f"| {name} | {done[name]:.3f} | {change:+.3f} | {decibels:.1f} dB |", flush=True)


def load(format: str | None) -> Any:
    """Return the tiny model in a format: quantized while loading, or read from files where loading does not do it."""
    if format is None or format in QUANTIZATIONS:
        return load_pipeline("tiny", device="cpu", quantization=format).pipe
    with tempfile.TemporaryDirectory() as folder:
        suffix = ".gguf" if format.startswith("gguf") else ".safetensors"
        files: dict[str, Any] = {
            part: quantize_file(weights_folder(), Path(folder) / f"{part}{suffix}", format=format, part=part)
            for part in ("transformer", "text_encoder")
        }
        return load_pipeline("tiny", device="cpu", **files).pipe


def recorded(edit: Callable, images: list[Image]) -> Callable:
    """Return an editor that also keeps the images it makes."""

    def run(cases: Sequence) -> Sequence[Image]:
        made = edit(cases)
        images.extend(made)
        return made

    return run


if __name__ == "__main__":
    main()
