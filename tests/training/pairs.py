"""Small training pairs of drawn scenes, on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from joyimage.tiny.worlds.scenes import generate
from joyimage.training.config import config_from_dict
from scripts.scene_pairs import write_scenes

if TYPE_CHECKING:
    from pathlib import Path

    from joyimage.training.config import TrainingConfig

GREEN = (45, 165, 75)
MARGIN_PX = 8
FRAME_PX = 8
CAPTION = "Frame it in green."
FIRST_OTHER_SEED = 200_000
FLAT_TASKS = ("add", "remove", "recolor", "replace")


def scene(number: int) -> np.ndarray:
    """Return a drawn scene of 96x96 pixels."""
    source = generate(FLAT_TASKS[number % 4], number).source
    assert source is not None
    return source


def framed(image: np.ndarray, color: tuple[int, int, int] = GREEN) -> np.ndarray:
    """Return an image with a frame: a task that the tiny model cannot do.

    The frame stands off the edge: the tiny VAE has never seen an object at an edge.
    """
    result = image.copy()
    result[frame_mask(image.shape[0])] = color
    return result


def frame_mask(size: int) -> np.ndarray:
    """Return which pixels of a square image belong to the frame."""
    mask = np.zeros((size, size), bool)
    mask[MARGIN_PX : size - MARGIN_PX, MARGIN_PX : size - MARGIN_PX] = True
    inner = MARGIN_PX + FRAME_PX
    mask[inner : size - inner, inner : size - inner] = False
    return mask


def write_pairs(folder: Path, num: int, first: int = 0) -> Path:
    """Write the folders target and control."""
    for name in ("target", "control"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(first, first + num):
        source = scene(number)
        Image.fromarray(source).save(folder / "control" / f"{number:04}.png")
        Image.fromarray(framed(source)).save(folder / "target" / f"{number:04}.png")
    return folder


def make_config(folder: Path, output: Path, **sections: Any) -> TrainingConfig:
    """Return a config for the pairs in a folder, with the tiny model on a CPU and few steps."""
    train = {
        "steps": 4,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "warmup_steps": 0,
        **sections.pop("train", {}),
    }
    data = {
        "target": str(folder / "target"),
        "control": [str(folder / "control")],
        "caption": CAPTION,
        "held_out": 0.0,
        **sections.pop("data", {}),
    }
    return config_from_dict(
        {
            "model": "tiny",
            "device": "cpu",
            "output": str(output),
            "data": [data],
            "train": train,
            "validate": {"every": 0, **sections.pop("validate", {})},
            **sections,
        }
    )


def write_other_tasks(folder: Path, num_per_task: int) -> Path:
    """Write pairs of everything that the tiny model can do already, as pairs.jsonl."""
    write_scenes(folder, num_per_task, first_seed=FIRST_OTHER_SEED)
    return folder
