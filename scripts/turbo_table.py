"""What a turbo adapter gains: task success at few steps with it and without it, as the table in docs/speed.md.

`python -m scripts.turbo_table RUN` draws training scenes, trains adapters on the embedded checkpoint (or another), and
measures them. Run it again to resume.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from joyimage.evaluation.editors import pipeline_editor
from joyimage.evaluation.runner import evaluate
from joyimage.loading import load_pipeline
from joyimage.tiny.suite import DrawnScenes
from joyimage.training import train
from joyimage.training.config import config_from_dict
from scripts.scene_pairs import write_scenes

FIRST_SEED = 600_000
"""Scenes that neither the checkpoint nor the evaluation has seen."""


def train_adapter(
    run: Path, model: str, num_steps: int, *, steps: int, pairs: int, teacher_steps: int, guidance: float
) -> Path:
    """Train a turbo adapter for a number of steps, or resume.

    Args:
        run: Folder of the run.
        model: The checkpoint.
        num_steps: Steps that the adapter is for.
        steps: Optimizer steps.
        pairs: Scenes per task.
        teacher_steps: Steps of the teacher.
        guidance: Guidance scale of the teacher.
    """
    table = run / "scenes" / "pairs.jsonl"
    if not table.exists():
        # Few steps cost images from text alone the most, and these cost the least to learn: they have no reference.
        write_scenes(table.parent, pairs, first_seed=FIRST_SEED, drawings_share=4)
    config = config_from_dict(
        {
            "model": model,
            "device": "cpu",
            "output": str(run / f"turbo{num_steps}.safetensors"),
            "data": [{"pairs": str(table), "held_out": 0.02}],
            "lora": {"rank": 32},
            "train": {
                "steps": steps,
                "batch_size": 8,
                "learning_rate": 1e-3,
                "warmup_steps": 20,
                "ema": 0.99,
                "save_every": 50,
            },
            "turbo": {
                "num_inference_steps": num_steps,
                "teacher_steps": teacher_steps,
                "teacher_guidance": guidance,
            },
            "validate": {"every": 0},
        }
    )
    return train(config).adapter


def score(model: str, num: int, adapter: Path | None = None, **call: Any) -> dict[str, float]:
    """Return the share of each row's edits that happened, and their mean.

    Args:
        model: The checkpoint.
        num: Scenes per row.
        adapter: Adapter to load; its own settings apply where `call` gives none.
        **call: `num_inference_steps` and `guidance_scale`.
    """
    pipe: Any = load_pipeline(model, device="cpu", dtype="float32").pipe
    if adapter is not None:
        pipe.load_lora_weights(adapter)
    torch.manual_seed(0)
    found = evaluate(pipeline_editor(pipe, **call), DrawnScenes(), num=num, batch_size=20, progress=False)
    rows = {name: row.done for name, row in found.tasks.items()}
    return {**rows, "mean": float(np.mean(list(rows.values())))}


def main() -> None:
    """Train and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--num", type=int, default=60, help="scenes per row")
    parser.add_argument("--pairs", type=int, default=60, help="training scenes per task")
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps")
    parser.add_argument("--teacher-steps", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=3.0, help="of the teacher")
    parser.add_argument("--few", type=int, nargs="+", default=[2, 4], help="steps of the adapters")
    options = parser.parse_args()
    table: dict[str, dict[str, float]] = {}

    def measure(name: str, adapter: Path | None = None, **call: Any) -> None:
        table[name] = score(options.model, options.num, adapter, **call)
        print(f"{name}: {table[name]}", file=sys.stderr, flush=True)

    for scale in (1.0, options.guidance):
        measure(f"16 steps, guidance {scale:g}", num_inference_steps=16, guidance_scale=scale)
    for few in options.few:
        measure(f"{few} steps, guidance 1", num_inference_steps=few, guidance_scale=1.0)
        started = time.process_time()
        adapter = train_adapter(
            options.run,
            options.model,
            few,
            steps=options.steps,
            pairs=options.pairs,
            teacher_steps=options.teacher_steps,
            guidance=options.guidance,
        )
        seconds = time.process_time() - started
        measure(f"{few} steps with the adapter", adapter)
        print(f"trained in {seconds:.0f} s of CPU time", file=sys.stderr, flush=True)
    rows = list(next(iter(table.values())))
    print("| " + " | ".join(["edit", *rows]) + " |")
    print("| --- " + "| ---: " * len(rows) + "|")
    for name, found in table.items():
        print("| " + " | ".join([name, *(f"{found[row]:.3f}" for row in rows)]) + " |")


if __name__ == "__main__":
    main()
