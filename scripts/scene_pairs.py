"""Drawn scenes with their results as pairs to train an adapter on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from PIL import Image

from joyimage.tiny.worlds.scenes import TASKS, generate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def write_scenes(
    folder: Path,
    num_per_task: int,
    *,
    first_seed: int,
    drawings_share: int = 1,
    tasks: Sequence[str] = TASKS,
) -> Path:
    """Draw scenes of tasks with their results, and list them in pairs.jsonl.

    Args:
        folder: Folder to write; created if missing.
        num_per_task: Scenes per task.
        first_seed: Seed of the first scene of each task.
        drawings_share: Times as many scenes that are made from text alone.
        tasks: Which tasks.

    Returns:
        The list.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    for task in tasks:
        for number in range(num_per_task * (drawings_share if task == "text-to-image" else 1)):
            case = generate(task, first_seed + number)
            row = {"target": f"{task}-{number}-after.png", "prompt": case.prompt}
            Image.fromarray(case.target).save(folder / row["target"])
            if case.source is not None:
                row["image"] = f"{task}-{number}-before.png"
                Image.fromarray(case.source).save(folder / row["image"])
            rows.append(row)
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path
