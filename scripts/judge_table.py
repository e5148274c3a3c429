"""Measure the judge against exact scores, and what choosing among candidates gains.

    python -m scripts.judge_table --num 25 --page docs/how-to/judge.md

Prints two tables. First, the AUC of the verdict on the model's own outputs, of which half follow a wrong instruction.
Second, the share of images made from text that show their prompt, for 1, 2, 4 and 8 candidates, chosen by the judge, by
the exact score and at random, against forwards of the transformer. With `--page` both replace those of a page of the
docs, and the plot beside it.
"""

from __future__ import annotations

import argparse
from dataclasses import astuple, dataclass
from pathlib import Path
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


@dataclass(frozen=True)
class Judged:
    """An output with its exact score and its verdict.

    Attributes:
        done: Whether the requested change happened.
        strict: Whether it happened and nothing else changed.
        judged_done: What the verdict says of `done`, from 0 to 1; None: not judged.
        score: Score of the verdict.
    """

    done: bool
    strict: bool
    judged_done: float | None
    score: float


@dataclass(frozen=True)
class Chosen:
    """What a number of candidates gives.

    Attributes:
        candidates: How many.
        forwards: Forwards of the transformer, 1 for one image that runs to its end.
        halving: Share done of the judge's choice, worse candidates dropped early.
        whole: Share done of the judge's choice, all run to their end.
        oracle: Share of scenes of which any candidate is done.
        random: Share done of all candidates.
    """

    candidates: int
    forwards: float
    halving: float
    whole: float
    oracle: float
    random: float


def main() -> None:
    """Print both tables, and write them into a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny", help="checkpoint that makes and judges")
    parser.add_argument("--num", type=int, default=25, help="scenes per task")
    parser.add_argument("--candidates", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--page", type=Path, help="Markdown file whose tables and plot are replaced")
    arguments = parser.parse_args()
    pipe = load_pipeline(arguments.model, device="cpu", dtype="float32").pipe
    pipe.set_progress_bar_config(disable=True)
    verdicts = verdict_table(measure_verdicts(pipe, arguments.num))
    print(verdicts, flush=True)
    chosen = measure_choice(pipe, arguments.num, arguments.candidates)
    table = choice_table(chosen, arguments.num)
    print(table)
    if arguments.page is not None:
        arguments.page.with_suffix(".svg").write_text(draw_choice(chosen), encoding="utf-8")
        text = arguments.page.read_text(encoding="utf-8")
        for name, content in (("verdicts", verdicts), ("candidates", table)):
            text = replace_block(text, name, content)
        arguments.page.write_text(text, encoding="utf-8")


def replace_block(text: str, name: str, content: str) -> str:
    """Replace what stands between `<!-- name: measured -->` and `<!-- end -->`.

    Raises:
        ValueError: The text has no such lines.
    """
    begin, end = f"<!-- {name}: measured -->\n\n", "\n\n<!-- end -->"
    start = text.index(begin) + len(begin)
    return text[:start] + content + text[text.index(end, start) :]


def measure_verdicts(pipe: Any, num: int) -> dict[str, list[Judged]]:
    """Judge right and wrong outputs of the model, and score them exactly.

    Args:
        pipe: The pipeline that makes and judges.
        num: Scenes per task, each with two outputs, of which one follows a wrong instruction or is damaged.

    Returns:
        The outputs of each task.
    """
    found: dict[str, list[Judged]] = {}
    for task in SCENES.tasks:
        found[task] = []
        for number in range(num):
            case, other = (SCENES.case(task, one, False) for one in (number, num + number))
            for image in (_edit(pipe, case, case.prompt), _failure(pipe, case, other, number)):
                exact, verdict = SCENES.score(case, image), _judge(pipe, case, image)
                found[task].append(Judged(exact.done, exact.strict, verdict.done, verdict.score))
    return found


def verdict_table(judged: dict[str, list[Judged]]) -> str:
    """Arrange the AUC of verdicts, by task and over all, as Markdown."""
    lines = [
        "| task | outputs | failures | not judged | AUC of done | AUC of score |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    everything = [one for outputs in judged.values() for one in outputs]
    return "\n".join([*lines, *(_row(*item) for item in judged.items()), _row("all", everything)])


def auc_of_done(outputs: list[Judged]) -> float:
    """Return the AUC of the verdicts' `done` against the exact score, of the outputs that were judged."""
    judged = [one for one in outputs if one.judged_done is not None]
    return auc(
        np.array([one.done for one in judged], bool), np.array([one.judged_done for one in judged], float)
    )


def auc_of_score(outputs: list[Judged]) -> float:
    """Return the AUC of the verdicts' score against strictness, of the outputs that were judged."""
    judged = [one for one in outputs if one.judged_done is not None]
    return auc(np.array([one.strict for one in judged], bool), np.array([one.score for one in judged], float))


def _row(task: str, outputs: list[Judged]) -> str:
    failures = sum(not one.done for one in outputs)
    unjudged = sum(one.judged_done is None for one in outputs)
    aucs = f"{_share(auc_of_done(outputs))} | {_share(auc_of_score(outputs))}"
    return f"| {task} | {len(outputs)} | {failures} | {unjudged} | {aucs} |"


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def measure_choice(pipe: Any, num: int, counts: list[int]) -> list[Chosen]:
    """Make images from text with several candidates: the task that a single one fails most often."""
    cases = [SCENES.case("text-to-image", number, False) for number in range(num)]
    made = [[_edit(pipe, case, case.prompt, seed) for seed in range(max(counts))] for case in cases]
    exact = np.array(
        [
            [SCENES.score(case, image).done for image in images]
            for case, images in zip(cases, made, strict=True)
        ],
        float,
    )
    judged = np.array(
        [
            [_judge(pipe, case, image).score for image in images]
            for case, images in zip(cases, made, strict=True)
        ]
    )
    return [_choice(pipe, cases, exact[:, :count], judged[:, :count]) for count in counts]


def _choice(pipe: Any, cases: list[EditCase], exact: np.ndarray, judged: np.ndarray) -> Chosen:
    count = exact.shape[1]
    halved, forwards = exact[:, 0], 1.0
    if count > 1:
        outputs = [_choose(pipe, case, count) for case in cases]
        halved = np.array(
            [SCENES.score(case, one.images[0]).done for case, one in zip(cases, outputs, strict=True)], float
        )
        steps = [
            sum(one.steps for one in output.candidates) / output.candidates[0].steps for output in outputs
        ]
        forwards = float(np.mean(steps))
    whole = np.take_along_axis(exact, judged.argmax(1)[:, None], 1)
    return Chosen(
        count,
        forwards,
        float(halved.mean()),
        float(whole.mean()),
        float(exact.max(1).mean()),
        float(exact.mean()),
    )


def choice_table(chosen: list[Chosen], num: int) -> str:
    """Arrange what candidates give, as Markdown."""
    lines = [
        "| candidates | forwards, halving | judge, halving | judge, all to the end | oracle | random |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for one in chosen:
        count, forwards, *shares = astuple(one)
        lines.append(f"| {count} | {forwards:.2f} | " + " | ".join(f"{share:.2f}" for share in shares) + " |")
    return "\n".join(
        [*lines, "", f"{num} prompts that training never showed, candidates with the seeds from 0."]
    )


def draw_choice(chosen: list[Chosen]) -> str:
    """Draw share done against forwards, as SVG."""
    most = max(one.candidates for one in chosen)
    curves = {
        "oracle": ("#888", [(float(one.candidates), one.oracle) for one in chosen]),
        "judge, all to the end": ("#1f77b4", [(float(one.candidates), one.whole) for one in chosen]),
        "judge, halving": ("#d62728", [(one.forwards, one.halving) for one in chosen]),
        "random": ("#bbb", [(1.0, chosen[-1].random), (float(most), chosen[-1].random)]),
    }
    low = min(0.5, *(share for _, points in curves.values() for _, share in points))

    def place(point: tuple[float, float]) -> str:
        x = 50 + 390 * (point[0] - 1) / max(most - 1, 1)
        return f"{x:.1f},{250 - 220 * (point[1] - low) / (1 - low):.1f}"

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 290" font-family="sans-serif" font-size="12">',
        '<rect width="600" height="290" fill="white"/>',
        '<path d="M50 30V250H440" fill="none" stroke="black"/>',
        '<text x="245" y="284" text-anchor="middle">forwards of the transformer, 1 = one image</text>',
        '<text x="50" y="20">share of images that show their prompt</text>',
    ]
    for tick in range(1, most + 1):
        x = place((tick, low)).split(",")[0]
        parts.append(f'<text x="{x}" y="266" text-anchor="middle">{tick}</text>')
    for share in (low, (low + 1) / 2, 1.0):
        y = place((1, share)).split(",")[1]
        parts.append(f'<text x="44" y="{y}" text-anchor="end">{share:.2f}</text>')
    for number, (name, (color, points)) in enumerate(curves.items()):
        line = " ".join(map(place, points))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [
            '<circle cx="{}" cy="{}" r="3" fill="{}"/>'.format(*place(point).split(","), color)
            for point in points
        ]
        parts.append(f'<text x="452" y="{60 + 20 * number}" fill="{color}">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


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
