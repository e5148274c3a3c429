"""Print how well the tiny model edits in each quantized format: `python scripts/quantization_table.py`.

One row per format: share of edits that are done, and the mean PSNR between its images and those of the model in
full precision, for the same scenes, prompts and noise.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from joyimage.evaluation.editors import pipeline_editor
from joyimage.evaluation.metrics import psnr
from joyimage.evaluation.runner import evaluate
from joyimage.loading import load_pipeline
from joyimage.tiny.suite import DrawnScenes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image

FORMATS = {"float32": None, "int8_convrot": "int8", "fp8": "fp8", "nf4": "nf4"}


def main() -> None:
    """Measure all formats."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=20, help="scenes per task")
    num = parser.parse_args().num
    print("| format | edits done | change | PSNR to float32 |")
    print("|---|---|---|---|")
    baseline: list[Image] = []
    done = {}
    for name, quantization in FORMATS.items():
        pipe = load_pipeline("tiny", device="cpu", quantization=quantization).pipe
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


def recorded(edit: Callable, images: list[Image]) -> Callable:
    """Return an editor that also keeps the images it makes."""

    def run(cases: Sequence) -> Sequence[Image]:
        made = edit(cases)
        images.extend(made)
        return made

    return run


if __name__ == "__main__":
    main()
