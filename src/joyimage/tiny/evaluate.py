"""Measure an editor on drawn scenes that were never trained on; the table is the model card."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from joyimage.tiny.scenes import EVALUATION_SEEDS_START, TASKS, EditCase, generate
from joyimage.tiny.scores import Score, score

if TYPE_CHECKING:
    from joyimage.pipeline.edit import JoyImageEditPipeline

Editor = Callable[[Sequence[EditCase]], Sequence[Image.Image]]

# Room for this many cases between the scenes of two evaluation seeds.
_SEED_STRIDE = 1_000_000
_HELD_OUT_OFFSET = 500_000
HELD_OUT = "held-out combinations"


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """Means over the cases of one task; None where a column does not apply.

    Attributes:
        n: Number of cases.
        done: Share of cases in which the asked change happened.
        strict: Share in which it did and nothing else changed.
        iou: Mean overlap of the edited object with its right place.
        red_gone: Share of moves whose red box went away.
        view_right: Share whose nearest rendered view or pose is the asked one.
        psnr: Mean of the whole picture against the target, dB.
        background_psnr: Mean outside every object's old and new place, dB.
    """

    n: int
    done: float
    strict: float
    iou: float | None
    red_gone: float | None
    view_right: float | None
    psnr: float
    background_psnr: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What one editor reached.

    Attributes:
        tasks: One result per task, and one over the held-out combinations of all tasks under `HELD_OUT`.
        seconds_per_edit: Wall time of the editor alone, batches included.
    """

    tasks: dict[str, TaskResult]
    seconds_per_edit: float


def evaluate(
    edit: Editor,
    *,
    num: int = 200,
    seed: int = 0,
    size: int = 96,
    batch_size: int = 20,
    progress: bool = True,
) -> Evaluation:
    """Score an editor on fresh scenes.

    Args:
        edit: Takes cases of one task and returns one picture for each.
        num: Scenes per task; as many again hold combinations kept out of training, spread over the tasks.
        seed: Which scenes; every seed has its own, and none meets the training's.
        size: Side of the scenes in pixels.
        batch_size: Cases per call of the editor.
        progress: Whether to show a progress bar.

    Returns:
        The means per task.

    Raises:
        ValueError: `num`, `seed` or `batch_size` is out of range.
    """
    if not 1 <= num <= _HELD_OUT_OFFSET:
        raise ValueError(f"`num` is {num}; expected 1 to {_HELD_OUT_OFFSET} scenes per task.")
    if seed < 0 or batch_size < 1:
        raise ValueError(f"`seed` is {seed} and `batch_size` {batch_size}; expected 0 or more and 1 or more.")
    start = EVALUATION_SEEDS_START + seed * _SEED_STRIDE
    held_out_counts = {task: num // len(TASKS) + (i < num % len(TASKS)) for i, task in enumerate(TASKS)}
    results: dict[str, TaskResult] = {}
    held_out: list[Score] = []
    edit_seconds = 0.0
    with tqdm(total=num * (len(TASKS) + 1), unit="edit", disable=not progress) as bar:
        for task in TASKS:
            scores: list[Score] = []
            seeds = [(start + i, False) for i in range(num)]
            seeds += [(start + _HELD_OUT_OFFSET + i, True) for i in range(held_out_counts[task])]
            bar.set_description(task)
            for first in range(0, len(seeds), batch_size):
                batch = seeds[first : first + batch_size]
                cases = [generate(task, scene, size, held_out=is_held_out) for scene, is_held_out in batch]
                before = time.perf_counter()
                pictures = edit(cases)
                edit_seconds += time.perf_counter() - before
                scores += [score(case, picture) for case, picture in zip(cases, pictures, strict=True)]
                bar.update(len(cases))
            results[task] = _summarise(scores[:num])
            held_out += scores[num:]
    results[HELD_OUT] = _summarise(held_out)
    return Evaluation(tasks=results, seconds_per_edit=edit_seconds / (num * (len(TASKS) + 1)))


def pipeline_editor(
    pipe: Any, *, num_inference_steps: int | None = None, guidance_scale: float | None = None
) -> Editor:
    """Edit with a pipeline; one generator per case, seeded like its scene, so that batches do not matter.

    Args:
        pipe: The pipeline.
        num_inference_steps: None takes the checkpoint's own default.
        guidance_scale: None takes the checkpoint's own default.

    Returns:
        The editor.
    """
    steps = pipe.config.default_num_inference_steps if num_inference_steps is None else num_inference_steps
    scale = pipe.config.default_guidance_scale if guidance_scale is None else guidance_scale
    pipe.set_progress_bar_config(disable=True)

    def edit(cases: Sequence[EditCase]) -> Sequence[Image.Image]:
        images = [case.source_image for case in cases]
        return pipe(
            image=None if images[0] is None else images,
            prompt=[case.prompt for case in cases],
            height=cases[0].size,
            width=cases[0].size,
            num_inference_steps=steps,
            guidance_scale=scale,
            generator=[torch.Generator().manual_seed(case.seed) for case in cases],
        ).images

    return edit


def round_trip_editor(pipe: JoyImageEditPipeline) -> Editor:
    """Return every target as the pipeline's VAE gives it back: the ceiling of the edit model."""

    @torch.inference_mode()
    def edit(cases: Sequence[EditCase]) -> Sequence[Image.Image]:
        vae = pipe.vae
        targets = torch.from_numpy(np.stack([case.target for case in cases])).permute(
            0, 3, 1, 2
        )  # [B, 3, H, W]
        targets = targets.to(vae.device, vae.dtype)[:, :, None] / 127.5 - 1  # [B, 3, 1, H, W]
        decoded = vae.decode(vae.encode(targets).latent_dist.mode()).sample[:, :, 0]  # [B, 3, H, W]
        pixels = ((decoded.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
        return [Image.fromarray(picture) for picture in pixels.cpu().numpy()]

    return edit


def copy_editor(cases: Sequence[EditCase]) -> Sequence[Image.Image]:
    """Return every source as it is, and white where there is none: the floor."""
    return [case.source_image or Image.new("RGB", (case.size, case.size), "white") for case in cases]


def to_json(model: Evaluation, ceiling: Evaluation, floor: Evaluation) -> dict[str, Any]:
    """Arrange the evaluations for a machine: `{"tasks": {"add": {"done": …, "strict": …, "n": …}, …}, …}`."""

    def rows(evaluation: Evaluation) -> dict[str, Any]:
        return {task: asdict(evaluation.tasks[task]) for task in TASKS}

    return {
        "tasks": rows(model),
        "held_out": asdict(model.tasks[HELD_OUT]),
        "vae_round_trip": rows(ceiling),
        "copied_input": rows(floor),
        "seconds_per_edit": model.seconds_per_edit,
    }


def to_table(model: Evaluation, ceiling: Evaluation, floor: Evaluation) -> str:
    """Arrange the three evaluations for a reader, as a Markdown table with a row per task."""
    header = [
        "task",
        "done",
        "strict",
        "IoU",
        "red gone",
        "view",
        "PSNR",
        "background",
        "VAE round trip",
        "copied input",
    ]
    rows = [header]
    for name, result in model.tasks.items():
        best, least = ceiling.tasks[name], floor.tasks[name]
        rows.append(
            [
                name,
                _share(result.done),
                _share(result.strict),
                _share(result.iou),
                _share(result.red_gone),
                _share(result.view_right),
                f"{result.psnr:.1f}",
                f"{result.background_psnr:.1f}",
                f"{_share(best.strict)} ({best.psnr:.1f})",
                f"{_share(least.done)} ({least.psnr:.1f})",
            ]
        )
    tasks = [model.tasks[task] for task in TASKS]
    means = [
        _share(float(np.mean([getattr(result, name) for result in tasks]))) for name in ("done", "strict")
    ]
    rows.insert(-1, ["mean of the tasks", *means, *[""] * (len(header) - 3)])

    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    rows.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        lines.append(f"| {' | '.join(cells)} |")
    num = tasks[0].n
    margin = 1.96 * (0.9 * 0.1 / num) ** 0.5
    lines += [
        "",
        f"{num} drawn scenes per task that were never trained on, {model.seconds_per_edit:.2f} s per edit in"
        f" batches; at .90 the 95 % interval is ± {margin:.2f}.",
        "done: the asked change happened; strict: and nothing else changed. PSNR and background in dB.",
        "VAE round trip: strict (PSNR) of the true result sent through the VAE, the ceiling.",
        "Copied input: done (PSNR) of the untouched source, the floor.",
        f"{HELD_OUT}: colour, shape and view combinations that training never showed, all tasks together.",
    ]
    return "\n".join(lines)


def _summarise(scores: Sequence[Score]) -> TaskResult:
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
    )


def _share(value: float | None) -> str:
    if value is None:
        return "-"
    # Rounded, but never up to all: 199 of 200 aren't 1.00.
    return "1.00" if value == 1 else f"{min(value, 0.99):.2f}".removeprefix("0")
