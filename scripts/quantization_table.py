"""Print how well the tiny model edits in each quantized format: `python -m scripts.quantization_table`.

One row per format: share of edits that are done, and the mean PSNR between its images and those of the model in
full precision, for the same scenes, prompts and noise. int8, fp8 and nf4 are quantized while loading; Q4_0 is read from
GGUF files that the `gguf` package writes (which has no K-quants to write).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import torch

from joyimage.evaluation.editors import pipeline_editor
from joyimage.evaluation.metrics import psnr
from joyimage.evaluation.runner import evaluate
from joyimage.loading import load_pipeline
from joyimage.model.checkpoint.parts import is_quantizable
from joyimage.pipeline.components import open_part
from joyimage.tiny import weights_folder
from joyimage.tiny.suite import DrawnScenes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image

FORMATS = {
    "float32": None,
    "int8_convrot": "int8",
    "fp8": "fp8",
    "nf4": "nf4",
    "GGUF Q4_0, transformer only": "Q4_0 transformer",
    "GGUF Q4_0": "Q4_0",
}


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


def load(quantization: str | None) -> Any:
    """Return the tiny model in a format of `FORMATS`."""
    if quantization is None or not quantization.startswith("Q4_0"):
        return load_pipeline("tiny", device="cpu", quantization=quantization).pipe
    with tempfile.TemporaryDirectory() as folder:
        transformer = write_q4_0("transformer", Path(folder) / "transformer.gguf")
        text_encoder = None
        if quantization == "Q4_0":
            text_encoder = write_q4_0("text_encoder", Path(folder) / "text_encoder.gguf")
        return load_pipeline("tiny", device="cpu", transformer=transformer, text_encoder=text_encoder).pipe


def write_q4_0(part: str, path: Path) -> Path:
    """Write a part of the tiny model as a GGUF: Q4_0 where other formats quantize too, fp32 elsewhere."""
    source = open_part(weights_folder() / part, part)
    writer = gguf.GGUFWriter(path, "joyimage")
    for name in source.weights:
        encoded = source.read(name)
        values = encoded.decode(torch.float32).reshape(encoded.shape)
        if values.ndim > 4:  # GGUF has four dimensions at most
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(values.shape))
            values = values.flatten(1)
        stored, kind = values.numpy(), None
        if is_quantizable(part, name, encoded.shape) and values.shape[-1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q4_0
            stored = gguf.quants.quantize(stored, kind)
        writer.add_tensor(name, stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def recorded(edit: Callable, images: list[Image]) -> Callable:
    """Return an editor that also keeps the images it makes."""

    def run(cases: Sequence) -> Sequence[Image]:
        made = edit(cases)
        images.extend(made)
        return made

    return run


if __name__ == "__main__":
    main()
