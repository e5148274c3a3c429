"""What a turbo adapter gains: task success at few steps with it and without it, as the tables in docs/speed.md.

`python -m scripts.turbo_table RUN` draws training scenes, trains adapters on the embedded checkpoint (or another), and
measures them. Run it again to resume.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from joyimage.evaluation.editors import Editor, pipeline_editor
from joyimage.evaluation.runner import evaluate
from joyimage.loading import load_pipeline
from joyimage.pipeline.schedule import TURBO_SCHEDULE
from joyimage.tiny.suite import DrawnScenes
from joyimage.tiny.worlds.scenes import TASKS
from joyimage.training import train
from joyimage.training.config import config_from_dict
from scripts.scene_pairs import write_scenes

if TYPE_CHECKING:
    from collections.abc import Sequence

FIRST_SEED = 600_000
"""Scenes that neither the checkpoint nor the evaluation has seen."""
BATCH = 20
DRAWINGS = "text-to-image"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the adapters are trained.

    Attributes:
        steps: Optimizer steps.
        pairs: Scenes per task.
        drawings_share: Times as many images from text alone. Few steps cost these the most, and they cost the least
            to learn: they have no reference.
        tasks: What the scenes are about.
        teacher_steps: Steps of the teacher.
        guidance: Guidance scale of the teacher.
        own_share: Share of the batches in which the adapter goes through all of its steps.
        batch_size: Scenes per optimizer step.
        learning_rate: Peak rate.
        dtype: What is computed in.
    """

    steps: int = 400
    pairs: int = 60
    drawings_share: int = 4
    tasks: Sequence[str] = TASKS
    teacher_steps: int = 8
    guidance: float = 3.0
    own_share: float = 0.5
    batch_size: int = 8
    learning_rate: float = 1e-3
    dtype: str = "float32"


def train_adapter(run: Path, model: str, num_steps: int, recipe: Recipe) -> Path:
    """Train a turbo adapter for a number of steps, or resume.

    Args:
        run: Folder of the run.
        model: The checkpoint.
        num_steps: Steps that the adapter is for.
        recipe: How it is trained.
    """
    table = run / "scenes" / "pairs.jsonl"
    if not table.exists():
        write_scenes(
            table.parent,
            recipe.pairs,
            first_seed=FIRST_SEED,
            drawings_share=recipe.drawings_share,
            tasks=recipe.tasks,
        )
    config = config_from_dict(
        {
            "model": model,
            "device": "cpu",
            "output": str(run / f"turbo{num_steps}.safetensors"),
            "data": [{"pairs": str(table), "held_out": 0.02}],
            "lora": {"rank": 32},
            "train": {
                "steps": recipe.steps,
                "batch_size": recipe.batch_size,
                "learning_rate": recipe.learning_rate,
                "warmup_steps": 20,
                "decay_steps": recipe.steps // 2,
                "ema": 0.99,
                "save_every": 50,
                "dtype": recipe.dtype,
            },
            "turbo": {
                "num_inference_steps": num_steps,
                "teacher_steps": recipe.teacher_steps,
                "teacher_guidance": recipe.guidance,
                "own_share": recipe.own_share,
            },
            "validate": {"every": 0},
        }
    )
    return train(config).adapter


def score(
    model: str,
    num: int,
    adapter: Path | None = None,
    *,
    tasks: Sequence[str] = TASKS,
    num_drawings: int | None = None,
    **call: Any,
) -> dict[str, float]:
    """Return the share of each row's edits that happened, and their mean.

    Args:
        model: The checkpoint.
        num: Scenes per row.
        adapter: Adapter to load; its own settings apply where `call` gives none.
        tasks: The rows; with all tasks there is one more, of combinations held out.
        num_drawings: Scenes of the row of images from text, where few steps cost the most; `num` if None.
        **call: Settings of `pipeline_editor`.
    """
    pipe: Any = load_pipeline(model, device="cpu", dtype="float32").pipe
    if adapter is not None:
        pipe.load_lora_weights(adapter)
    torch.manual_seed(0)
    editor = pipeline_editor(pipe, **call)
    rows = _shares_done(editor, num, None if tuple(tasks) == TASKS else tasks)
    if num_drawings is not None and DRAWINGS in rows:
        rows |= _shares_done(editor, num_drawings, (DRAWINGS,))
    return {**rows, "mean": float(np.mean(list(rows.values())))}


def _shares_done(editor: Editor, num: int, tasks: Sequence[str] | None) -> dict[str, float]:
    """Return the share of each row's edits that happened; with all tasks there is one more of combinations held out."""
    found = evaluate(editor, DrawnScenes(), num=num, batch_size=BATCH, tasks=tasks, progress=False)
    return {name: row.done for name, row in found.tasks.items()}


def main() -> None:
    """Train and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--num", type=int, default=60, help="scenes per row")
    parser.add_argument(
        "--num-drawings", type=int, help="scenes of the row of images from text; as --num if left out"
    )
    parser.add_argument("--few", type=int, nargs="+", default=[2, 4], help="steps of the adapters")
    for name, kind, text in (
        ("pairs", int, "training scenes per task"),
        ("drawings-share", int, "times as many images from text"),
        ("steps", int, "optimizer steps"),
        ("batch-size", int, "scenes per optimizer step"),
        ("learning-rate", float, "peak rate"),
        ("teacher-steps", int, "of the teacher"),
        ("guidance", float, "of the teacher"),
        ("own-share", float, "share of batches that start where the adapter's own steps led"),
        ("dtype", str, "of the training"),
    ):
        default = getattr(Recipe, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)
    options = vars(parser.parse_args())
    num = {name: options.pop(name) for name in ("num", "num_drawings")}
    run, model, few = (options.pop(name) for name in ("run", "model", "few"))
    print_table(measure(run, model, few, Recipe(**options), **num))


def measure(
    run: Path, model: str, few: Sequence[int], recipe: Recipe, *, num: int, num_drawings: int | None
) -> dict[str, dict[str, float]]:
    """Train adapters, and return the rows of the table by their names.

    Args:
        run: Folder of the run.
        model: The checkpoint.
        few: Steps of each adapter.
        recipe: How they are trained.
        num: Scenes per row.
        num_drawings: Scenes of the row of images from text; `num` if None.
    """
    table: dict[str, dict[str, float]] = {}

    def add(name: str, adapter: Path | None = None, **call: Any) -> None:
        table[name] = score(model, num, adapter, tasks=recipe.tasks, num_drawings=num_drawings, **call)
        print(f"{name}: {table[name]}", file=sys.stderr, flush=True)

    for scale in (1.0, recipe.guidance):
        add(f"16 steps, guidance {scale:g}", num_inference_steps=16, guidance_scale=scale)
    for steps in few:
        # In the adapter's own noise levels as well: they are better than the default ones at few steps.
        for schedule in (None, TURBO_SCHEDULE):
            name = f"{steps} steps, guidance 1" + (f", schedule {schedule}" if schedule else "")
            add(name, num_inference_steps=steps, guidance_scale=1.0, schedule=schedule)
        started = time.process_time()
        adapter = train_adapter(run, model, steps, recipe)
        seconds = time.process_time() - started
        add(f"{steps} steps with the adapter", adapter)
        print(f"trained in {seconds:.0f} s of CPU time", file=sys.stderr, flush=True)
    return table


def print_table(table: dict[str, dict[str, float]]) -> None:
    """Print a table in Markdown."""
    rows = list(next(iter(table.values())))
    print("| " + " | ".join(["edit", *rows]) + " |")
    print("| --- " + "| ---: " * len(rows) + "|")
    for name, found in table.items():
        print("| " + " | ".join([name, *(f"{found[row]:.3f}" for row in rows)]) + " |")


if __name__ == "__main__":
    main()
