"""Measure the judge against exact scores, and what choosing among candidates gains.

    python -m scripts.judge_table --num 25

Prints two tables. First, the AUC of the verdict on the model's own outputs, of which half follow a wrong instruction.
Second, the share of edits done for 1, 2, 4 and 8 candidates, chosen by the judge, by the exact score and at random,
against forwards.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from joyimage.loading import load_pipeline
from joyimage.spatial import draw_red_box
from joyimage.tiny.suite import DrawnScenes

if TYPE_CHECKING:
    from joyimage.tiny.worlds.scenes import EditCase

SCENES = DrawnScenes()


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny", help="checkpoint that makes and judges")
    parser.add_argument("--num", type=int, default=25, help="scenes per task")
    parser.add_argument("--candidates", type=int, nargs="*", default=[1, 2, 4, 8])
    arguments = parser.parse_args()
    pipe = load_pipeline(arguments.model, device="cpu", dtype="float32").pipe
    pipe.set_progress_bar_config(disable=True)
    _print_auc(pipe, arguments.num)
    _print_candidates(pipe, arguments.num, arguments.candidates)


def _print_auc(pipe: Any, num: int) -> None:
    print("| task | outputs | failures | AUC of done | AUC of score |\n|---|---|---|---|---|")
    everything: list[tuple[bool, bool, float, float]] = []
    for task in SCENES.tasks:
        rows: list[tuple[bool, bool, float, float]] = []
        for number in range(num):
            case, other = (SCENES.case(task, one, False) for one in (number, num + number))
            for image in (_edit(pipe, case, case.prompt), _failure(pipe, case, other, number)):
                exact, verdict = SCENES.score(case, image), _judge(pipe, case, image)
                rows.append((exact.done, exact.strict, verdict.done or 0.0, verdict.score))
        everything += rows
        _print_row(task, rows)
    _print_row("all", everything)


def _print_row(name: str, rows: list[tuple[bool, bool, float, float]]) -> None:
    done, strict, probability, score = map(np.array, zip(*rows, strict=True))
    print(
        f"| {name} | {len(rows)} | {(~done).sum()} | {auc(done, probability):.3f} | {auc(strict, score):.3f} |"
    )


def _print_candidates(pipe: Any, num: int, counts: list[int]) -> None:
    """Print done against forwards for text-to-image, the task that a single sample fails most often."""
    print("\n| candidates | forwards | judge | oracle | random |\n|---|---|---|---|---|")
    cases = [SCENES.case("text-to-image", number, False) for number in range(num)]
    for count in counts:
        exact = np.array(
            [
                [SCENES.score(case, _edit(pipe, case, case.prompt, seed)).done for seed in range(count)]
                for case in cases
            ]
        )
        chosen, forwards = exact[:, 0].astype(float), 1.0
        if count > 1:
            outputs = [_choose(pipe, case, count) for case in cases]
            chosen = np.array(
                [SCENES.score(case, one.images[0]).done for case, one in zip(cases, outputs, strict=True)],
                float,
            )
            forwards = np.mean(
                [
                    sum(one.steps for one in output.candidates) / output.candidates[0].steps
                    for output in outputs
                ]
            )
        print(
            f"| {count} | {forwards:.2f} | {chosen.mean():.3f} | {exact.any(1).mean():.3f} | {exact.mean():.3f} |"
        )


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _edit(pipe: Any, case: EditCase, prompt: str, seed: int = 0) -> Image.Image:
    return pipe(case.source_image, prompt, generator=_generator(seed)).images[0]


def _choose(pipe: Any, case: EditCase, count: int) -> Any:
    return pipe(case.source_image, case.prompt, generator=_generator(0), num_candidates=count)


def _judge(pipe: Any, case: EditCase, image: Image.Image) -> Any:
    before = case.source_image
    if case.box is None:
        return pipe.judge(before, image, case.prompt)
    clean = Image.fromarray(_without_box(case))
    return pipe.judge(clean, image, case.prompt, box=case.box)


def _without_box(case: EditCase) -> Any:
    from joyimage.tiny.worlds.scenes import render_objects

    assert case.background is not None
    return render_objects(case.before, case.background, case.size)


def _failure(pipe: Any, case: EditCase, other: EditCase, number: int) -> Image.Image:
    """Return an output that follows another instruction, is unchanged, or still has its red box."""
    if case.source_image is not None and number % 4 == 0:
        return Image.fromarray(_without_box(case)) if case.box is not None else case.source_image
    if case.box is not None and number % 4 == 1:
        return draw_red_box(_edit(pipe, case, case.prompt), case.box)
    bystanders = [item for item in case.before if item != case.subject] if case.subject is not None else []
    if bystanders and case.subject is not None and case.subject.name in case.prompt and number % 4 == 2:
        return _edit(pipe, case, case.prompt.replace(case.subject.name, bystanders[0].name))
    return _edit(pipe, case, other.prompt)


def auc(truth: np.ndarray, found: np.ndarray) -> float:
    """Return the area under the ROC curve: how often a true case is found likelier than a false one."""
    right, wrong = found[truth], found[~truth]
    if not len(right) or not len(wrong):
        return float("nan")
    return float((right[:, None] > wrong).mean() + 0.5 * (right[:, None] == wrong).mean())


if __name__ == "__main__":
    main()
