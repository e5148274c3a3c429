"""Images with questions and exact answers to learn reading from, rendered once and cached in the folder of the run."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from joyimage.progress import progress_bar
from joyimage.spatial import draw_red_box
from joyimage.tiny.checkpoint import SIZE
from joyimage.tiny.pairs import SHORT_NAMES
from joyimage.tiny.worlds.asks import Ask, about, about_box
from joyimage.tiny.worlds.others import draw_other
from joyimage.tiny.worlds.outcomes import asks_of, right_outcome, scene_before, wrong_outcome
from joyimage.tiny.worlds.scenes import TASKS, generate
from joyimage.tiny.worlds.truth import FlatScene
from joyimage.understanding import questions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from joyimage.tiny.worlds.drawing import PixelBox, Pixels
    from joyimage.tiny.worlds.outcomes import EditResult
    from joyimage.tiny.worlds.scenes import EditCase

OTHERS = "others"
# Share of the cases of each task; the last are images that are not drawn scenes.
CASE_WEIGHTS = {
    "add": 1.0,
    "remove": 1.0,
    "recolor": 1.0,
    "replace": 1.0,
    "move": 1.4,
    "rotate": 1.2,
    "camera": 3.0,  # solids on a turntable are the hardest to tell apart
    "text-to-image": 1.0,
    OTHERS: 1.0,
}
_CHANGED_TEXTS = (
    questions.CHANGED,
    questions.CHANGED,
    "What changed?",
    "What is different in the second image?",
)
# Seeds of the cases, far from those of the pairs that the edits are trained on; all are training scenes.
_FIRST_SEED = 5_000_000


@dataclass(frozen=True)
class Reading:
    """One or two images, and what is asked about them.

    Attributes:
        images: `[size, size, 3]` 8-bit RGB each.
        asks: Questions with their answers.
    """

    images: tuple[Pixels, ...]
    asks: tuple[Ask, ...]


@dataclass(frozen=True, kw_only=True)
class Readings:
    """Rendered readings.

    Attributes:
        images: All images, `[N, H, W, 3]` 8-bit RGB.
        members: Numbers of the images of each reading.
        asks: Questions of each reading.
    """

    images: Pixels
    members: list[list[int]]
    asks: list[list[Ask]]


def render_readings(run_path: Path, num: int, *, progress: bool = True) -> Readings:
    """Render about `num` training cases, or read them if the run already has them.

    Args:
        run_path: Folder of the run.
        num: Cases over all tasks; each gives two to four readings.
        progress: Whether to show a progress bar.

    Returns:
        The readings, the same for the same `num`.
    """
    folder = run_path / f"readings-{num}"
    if not (folder / "asks.json").exists():
        whole = sum(CASE_WEIGHTS.values())
        plan = [
            (task, _FIRST_SEED + number)
            for task, weight in CASE_WEIGHTS.items()
            for number in range(round(num * weight / whole))
        ]
        with ProcessPoolExecutor() as pool:
            cases = pool.map(readings_of, plan, chunksize=32)
            bar = progress_bar(
                cases, label="render readings", unit="case", total=len(plan), is_shown=progress
            )
            write_readings(folder, [reading for readings in bar for reading in readings])
    return load_readings(folder)


def load_readings(folder: Path) -> Readings:
    """Read what `write_readings` wrote; the images stay on disk until they are used."""
    entries = json.loads((folder / "asks.json").read_text(encoding="utf-8"))
    return Readings(
        images=np.load(folder / "images.npy", mmap_mode="r"),
        members=[entry["images"] for entry in entries],
        asks=[[Ask(*ask) for ask in entry["asks"]] for entry in entries],
    )


def write_readings(folder: Path, readings: Sequence[Reading]) -> None:
    """Write readings into a folder, each distinct image once per case."""
    folder.mkdir(parents=True, exist_ok=True)
    images: list[Pixels] = []
    numbers: dict[int, int] = {}
    entries = []
    for reading in readings:
        for image in reading.images:
            if id(image) not in numbers:
                numbers[id(image)] = len(images)
                images.append(image)
        entries.append(
            {
                "images": [numbers[id(image)] for image in reading.images],
                "asks": [[ask.kind, ask.question, ask.answer] for ask in reading.asks],
            }
        )
    np.save(folder / "images.npy", np.stack(images))
    # Written last: the folder is complete if it exists.
    (folder / "asks.json").write_text(json.dumps(entries), encoding="utf-8")


def readings_of(task_and_seed: tuple[str, int]) -> list[Reading]:
    """Draw one training case and ask about it."""
    return readings_about(*task_and_seed, SIZE)


def readings_about(task: str, seed: int, size: int, held_out: bool = False) -> list[Reading]:
    """Draw one case and ask about it: about single images, and about the edit with a right and a wrong outcome.

    Args:
        task: One of `CASE_WEIGHTS`.
        seed: Seed of the case; see `generate`.
        size: Side of the images in pixels.
        held_out: Whether it is about a combination that is kept out of training.
    """
    rng = np.random.default_rng((seed, len(TASKS)))
    if task == OTHERS:
        return [Reading((draw_other(rng, size),), tuple(about(None, rng)))]
    case = generate(task, seed, size, held_out)
    outcomes = right_outcome(case), wrong_outcome(case, rng)
    if task == "text-to-image":
        return [_about_drawing(case, outcome, rng) for outcome in outcomes]
    readings = [_about_edit(case, outcome, rng) for outcome in outcomes]
    before, after = scene_before(case), outcomes[int(rng.integers(2))]
    if isinstance(before, FlatScene) and task == "move":
        readings += [
            _about_change(before, outcome, rng) for outcome in outcomes if outcome.changed is not None
        ]
        readings.append(_about_box(before, rng))
    readings.append(Reading((before.render(),), tuple(about(before, rng))))
    if after.scene is not None:
        readings.append(Reading((after.image,), tuple(about(after.scene, rng))))
    return readings


def _about_drawing(case: EditCase, outcome: EditResult, rng: np.random.Generator) -> Reading:
    """Ask whether an image shows what its prompt says, and about the image."""
    shows = Ask("shows", questions.shows_prompt(case.prompt), questions.YES if outcome.done else questions.NO)
    assert outcome.scene is not None
    return Reading((outcome.image,), (shows, *about(outcome.scene, rng)))


def _about_edit(case: EditCase, outcome: EditResult, rng: np.random.Generator) -> Reading:
    """Ask about an edit of the image as the editor sees it, which for a move has a red box."""
    assert case.source is not None
    asks = asks_of(outcome, short_prompt(case), _changed_text(rng))
    if case.task == "move":
        asks = [ask for ask in asks if ask.kind != "changed"]
    return Reading((case.source, outcome.image), tuple(asks))


def _about_change(before: FlatScene, outcome: EditResult, rng: np.random.Generator) -> Reading:
    """Ask what a move changed, of images without a red box."""
    assert outcome.changed is not None
    return Reading((before.render(), outcome.image), (Ask("changed", _changed_text(rng), outcome.changed),))


def _about_box(scene: FlatScene, rng: np.random.Generator) -> Reading:
    """Draw a red box around an object, or far from it, and ask what is in it and about the rest."""
    item = scene.objects[int(rng.integers(len(scene.objects)))]
    is_inside = bool(rng.random() < 0.6)
    shift = rng.integers(-2, 3, 2) if is_inside else rng.choice((-1, 1), 2) * rng.uniform(0, 2, 2) * item.side
    is_far = bool(np.abs(shift).max() > 0.7 * item.side)
    box = _inside(item.box, shift, scene.size)
    image = np.asarray(draw_red_box(Image.fromarray(scene.render()), box))
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    moved = max(abs(a - b) for a, b in zip(middle, item.center, strict=True))
    asks = about(scene, rng)
    if moved < 0.2 * item.side or (is_far and moved > 0.7 * item.side):
        asks += about_box(scene, item if moved < 0.2 * item.side else None, rng)
    return Reading((image,), tuple(asks))


def short_prompt(case: EditCase) -> str:
    """Return the prompt of a case, whose object goes without its color in some cases, as in the training of edits."""
    is_short = case.subject is not None and case.seed % 10 < 10 * SHORT_NAMES
    assert case.subject is not None or not is_short
    return (
        case.prompt.replace(case.subject.name, case.subject.shape)
        if is_short and case.subject
        else case.prompt
    )


def _inside(box: PixelBox, shift: np.ndarray, size: int) -> PixelBox:
    """Shift a box and push it back into the image."""
    width, height = box[2] - box[0], box[3] - box[1]
    left = int(np.clip(box[0] + shift[0], 0, size - width))
    top = int(np.clip(box[1] + shift[1], 0, size - height))
    return left, top, left + width, top + height


def _changed_text(rng: np.random.Generator) -> str:
    return _CHANGED_TEXTS[int(rng.integers(len(_CHANGED_TEXTS)))]
