"""Training pairs, rendered once and cached in the folder of the run."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from joyimage.tiny.checkpoint import SIZE
from joyimage.tiny.worlds.scenes import TASKS, generate

if TYPE_CHECKING:
    from pathlib import Path

    from joyimage.tiny.worlds.drawing import Pixels

# Share of the scenes and of the samples; the tasks that are learned last get the most.
TASK_WEIGHTS = {
    "add": 1.0,
    "remove": 0.5,
    "recolor": 2.0,
    "replace": 1.25,
    "move": 1.5,
    "rotate": 2.5,
    "camera": 2.25,
    "text-to-image": 1.25,
}
# A batch mixes the tasks of one group: their prompts have similar lengths, so there is little padding.
GROUPS = (("add", "remove", "recolor", "replace", "move"), ("rotate",), ("camera",), ("text-to-image",))


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Rendered pairs of all tasks.

    Attributes:
        tasks: Index into `TASKS` of each pair, `[N]`.
        prompts: One per pair.
        sources: `[N, H, W, 3]` 8-bit RGB; zeros for text-to-image.
        targets: `[N, H, W, 3]` 8-bit RGB.
    """

    tasks: np.ndarray
    prompts: list[str]
    sources: Pixels
    targets: Pixels


def render_pairs(run_path: Path, num: int, *, progress: bool = True) -> Pairs:
    """Render about `num` training pairs, or read them if the run already has them.

    Args:
        run_path: Folder of the run.
        num: Pairs over all tasks.
        progress: Whether to show a progress bar.

    Returns:
        The pairs, the same for the same `num`.
    """
    folder = run_path / f"pairs-{num}"
    if not (folder / "prompts.json").exists():
        _render(folder, num, progress)
    return Pairs(
        tasks=np.load(folder / "tasks.npy"),
        prompts=json.loads((folder / "prompts.json").read_text(encoding="utf-8")),
        sources=np.load(folder / "sources.npy"),
        targets=np.load(folder / "targets.npy"),
    )


def _render(folder: Path, num: int, progress: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    whole = sum(TASK_WEIGHTS.values())
    plan = [(task, seed) for task in TASKS for seed in range(round(num * TASK_WEIGHTS[task] / whole))]
    sources = np.zeros((len(plan), SIZE, SIZE, 3), np.uint8)
    targets = np.zeros_like(sources)
    prompts: list[str] = []
    with ProcessPoolExecutor() as pool:
        cases = pool.map(_render_case, plan, chunksize=32)
        for index, (source, target, prompt) in enumerate(
            tqdm(cases, total=len(plan), desc="render", unit="pair", disable=not progress)
        ):
            if source is not None:
                sources[index] = source
            targets[index] = target
            prompts.append(prompt)
    np.save(folder / "tasks.npy", np.array([TASKS.index(task) for task, _ in plan]))
    np.save(folder / "sources.npy", sources)
    np.save(folder / "targets.npy", targets)
    # Written last: the folder is complete if it exists.
    (folder / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")


def _render_case(task_and_seed: tuple[str, int]) -> tuple[Pixels | None, Pixels, str]:
    case = generate(*task_and_seed, SIZE)
    return case.source, case.target, case.prompt
