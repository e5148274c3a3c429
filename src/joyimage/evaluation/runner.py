"""Run an editor over a suite and average its scores per task."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from joyimage.errors import InvalidInputError
from joyimage.progress import Progress, progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image

    from joyimage.evaluation.suites import CaseT, Score, Suite

HELD_OUT = "held-out combinations"


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """Means over the cases of one task; None where a column does not apply.

    Attributes:
        n: Number of cases.
        done: Share of cases in which the requested change happened.
        strict: Share of cases in which it happened and nothing else changed.
        iou: Mean overlap of the edited object with its right place.
        red_gone: Share of moves whose red box is gone.
        view_right: Share of cases whose nearest rendered view or pose is the requested one.
        psnr: Mean of the whole image against the target, dB.
        background_psnr: Mean outside every object's old and new place, dB.
        sharpness: Mean gradient energy as a share of the target's.
    """

    n: int
    done: float
    strict: float
    iou: float | None
    red_gone: float | None
    view_right: float | None
    psnr: float
    background_psnr: float
    sharpness: float | None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of one editor.

    Attributes:
        tasks: One result per task, and one over the held-out combinations of all tasks under `HELD_OUT` unless only
            some tasks were asked for.
        seconds_per_edit: Wall time of the editor alone, batches included.
    """

    tasks: dict[str, TaskResult]
    seconds_per_edit: float


def check_amounts(suite: Suite[Any], *, num: int, batch_size: int) -> None:
    """Check how many cases are scored, before anything is loaded.

    Args:
        suite: The cases.
        num: Cases per task.
        batch_size: Cases per call of an editor.

    Raises:
        InvalidInputError: `num` or `batch_size` is out of range.
    """
    if not 1 <= num <= suite.max_num:
        raise InvalidInputError(f"`num` is {num}; expected 1 to {suite.max_num} cases per task.")
    if batch_size < 1:
        raise InvalidInputError(f"`batch_size` is {batch_size}; expected 1 or more.")


def evaluate(
    edit: Callable[[Sequence[CaseT]], Sequence[Image.Image]],
    suite: Suite[CaseT],
    *,
    num: int = 200,
    batch_size: int = 20,
    tasks: Sequence[str] | None = None,
    progress: bool = True,
) -> Evaluation:
    """Score an editor on a suite.

    Args:
        edit: Takes cases of one task and returns one image for each.
        suite: The cases and how they are scored.
        num: Cases per task; as many again are held-out combinations, spread over the tasks.
        batch_size: Cases per call of the editor.
        tasks: Those of the suite's tasks that are run, without the held-out combinations. None for all tasks with them.
        progress: Whether to show a progress bar.

    Returns:
        The means per task.

    Raises:
        InvalidInputError: `num` or `batch_size` is out of range, or `tasks` holds none, or one that the suite
            does not have.
    """
    check_amounts(suite, num=num, batch_size=batch_size)
    numbers = _case_numbers(suite, num, tasks)
    num_cases = sum(map(len, numbers.values()))
    results: dict[str, TaskResult] = {}
    held_out: list[Score] = []
    edit_seconds = 0.0
    edits: Progress[None] = progress_bar(label="eval", unit="edit", total=num_cases, is_shown=progress)
    with edits as bar:
        for task, own in numbers.items():
            scores: list[Score] = []
            for first in range(0, len(own), batch_size):
                batch = own[first : first + batch_size]
                cases = [suite.case(task, number, is_held_out) for number, is_held_out in batch]
                before = time.perf_counter()
                images = edit(cases)
                edit_seconds += time.perf_counter() - before
                scores += [suite.score(case, image) for case, image in zip(cases, images, strict=True)]
                bar.update(len(cases), task=task)
            results[task] = _summarize(scores[:num])
            held_out += scores[num:]
    if held_out:
        results[HELD_OUT] = _summarize(held_out)
    return Evaluation(tasks=results, seconds_per_edit=edit_seconds / num_cases)


def _case_numbers(
    suite: Suite[Any], num: int, tasks: Sequence[str] | None
) -> dict[str, list[tuple[int, bool]]]:
    """Return, by task, the number of each case and whether it is a held-out combination.

    Raises:
        InvalidInputError: The suite has no such task, or none is asked for.
    """
    plain = [(number, False) for number in range(num)]
    if tasks is None:
        share, rest = divmod(num, len(suite.tasks))
        return {
            task: plain + [(number, True) for number in range(share + (position < rest))]
            for position, task in enumerate(suite.tasks)
        }
    unknown = [task for task in tasks if task not in suite.tasks]
    if unknown or not tasks:
        raise InvalidInputError(f"`tasks` is {list(tasks)}; expected some of {', '.join(suite.tasks)}.")
    return dict.fromkeys(tasks, plain)


def _summarize(scores: Sequence[Score]) -> TaskResult:
    def mean(values: Sequence[float | bool | None]) -> float | None:
        given = [value for value in values if value is not None]
        return float(np.mean(given)) if given else None

    return TaskResult(
        n=len(scores),
        done=float(np.mean([item.done for item in scores])),
        strict=float(np.mean([item.strict for item in scores])),
        iou=mean([item.iou for item in scores]),
        red_gone=mean([item.red_gone for item in scores]),
        view_right=mean([item.view_right for item in scores]),
        psnr=float(np.mean([item.psnr for item in scores])),
        background_psnr=float(np.mean([item.background_psnr for item in scores])),
        sharpness=mean([item.sharpness for item in scores]),
    )
