"""Training pairs, rendered once and cached in the folder of the run."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from joyimage.progress import progress_bar
from joyimage.tiny.checkpoint import SIZE
from joyimage.tiny.worlds.scenes import TASKS, generate

if TYPE_CHECKING:
    from pathlib import Path

    from joyimage.tiny.worlds.drawing import Pixels

# Share of the scenes and of the samples; the tasks that are learned last get the most.
TASK_WEIGHTS = {
    "add": 0.75,
    "remove": 0.75,
    "recolor": 1.25,
    "replace": 1.0,
    "move": 2.0,
    "rotate": 2.5,
    "camera": 2.5,
    "text-to-image": 3.0,
}
# Shares of the samples where training continues from a checkpoint that does the first five tasks: what is still weak.
CONTINUED_WEIGHTS = {
    **{"add": 0.5, "remove": 0.5, "recolor": 0.75, "replace": 0.75, "move": 1.5},
    **{"rotate": 3.0, "camera": 3.0, "text-to-image": 5.0},
}
# Share of the removals, replacements and moves whose prompt names the object without its color. A scene never has two
# objects of one shape, so the shape alone says which one is meant.
SHORT_NAMES = 0.4
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


def render_pairs(run_path: Path, num: int, *, first_seed: int = 0, progress: bool = True) -> Pairs:
    """Render about `num` training pairs, or read them if the run already has them.

    Args:
        run_path: Folder of the run.
        num: Pairs over all tasks.
        first_seed: Seed of the first scene of each task.
        progress: Whether to show a progress bar.

    Returns:
        The pairs, the same for the same `num` and `first_seed`.
    """
    folder = run_path / (f"pairs-{num}" if first_seed == 0 else f"pairs-{num}-from-{first_seed}")
    if not (folder / "prompts.json").exists():
        _render(folder, num, first_seed, progress)
    return Pairs(
        tasks=np.load(folder / "tasks.npy"),
        prompts=json.loads((folder / "prompts.json").read_text(encoding="utf-8")),
        sources=np.load(folder / "sources.npy"),
        targets=np.load(folder / "targets.npy"),
    )


def _render(folder: Path, num: int, first_seed: int, progress: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    whole = sum(TASK_WEIGHTS.values())
    counts = {task: round(num * TASK_WEIGHTS[task] / whole) for task in TASKS}
    plan = [(task, first_seed + number) for task in TASKS for number in range(counts[task])]
    sources = np.zeros((len(plan), SIZE, SIZE, 3), np.uint8)
    targets = np.zeros_like(sources)
    prompts: list[str] = []
    with ProcessPoolExecutor() as pool:
        cases = pool.map(_render_case, plan, chunksize=32)
        for index, (source, target, prompt) in enumerate(
            progress_bar(cases, label="render", unit="pair", total=len(plan), is_shown=progress)
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
    prompt = case.prompt
    if case.subject is not None and case.seed % 10 < 10 * SHORT_NAMES:
        prompt = prompt.replace(case.subject.name, case.subject.shape)
    return case.source, case.target, prompt
