"""Drawn scenes to edit, with exact truth: what `joyimage-tiny` is trained and measured on.

`generate(task, seed)` draws one case: an image, an instruction, the image that following it exactly would
give, and what is where in both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

from joyimage.errors import InvalidInputError
from joyimage.spatial import CameraMove, ObjectMove, ObjectRotation, View, draw_red_box
from joyimage.tiny.worlds import drawing
from joyimage.tiny.worlds.drawing import BACKGROUNDS, COLORS, PLACES, SHAPES, Mask, PixelBox, Pixels, Rgb
from joyimage.tiny.worlds.turntable import SOLIDS, TABLE_BACKGROUNDS, Pose, Solid, Turntable
from joyimage.tiny.worlds.vehicle import FLOORS, VEHICLE_COLORS, VEHICLES, Vehicle

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

TASKS = ("add", "remove", "recolor", "replace", "move", "rotate", "camera", "text-to-image")

# Cases for training and for evaluation come from ranges of seeds that never meet.
TRAINING_SEEDS = range(0, 10_000_000)
EVALUATION_SEEDS_START = 1_000_000_000

# Combinations that training never shows, in no role: as object, replacement, addition or bystander.
HELD_OUT_PAIRS = frozenset(
    {
        ("star", "blue"),
        ("heart", "yellow"),
        ("cross", "purple"),
        ("triangle", "orange"),
    }
)
HELD_OUT_SOLIDS = frozenset({("cube", "yellow"), ("pyramid", "blue"), ("cylinder", "orange")})
# One of the eight views of every object in every color; each view of it is still seen in other colors.
HELD_OUT_VIEWS = frozenset(
    (kind, color, view)
    for i, kind in enumerate(VEHICLES)
    for j, color in enumerate(VEHICLE_COLORS)
    for view in range(8)
    if (3 * i + 5 * j + view) % 8 == 0
)

CAMERA_MOVES: tuple[tuple[int, int, str], ...] = (  # yaw, pitch, zoom
    (45, 0, "unchanged"),
    (-45, 0, "unchanged"),
    (90, 0, "unchanged"),
    (-90, 0, "unchanged"),
    (0, 15, "unchanged"),
    (0, -15, "unchanged"),
    (0, 0, "in"),
    (0, 0, "out"),
)

# In 96ths of the image's side.
_CELL_CENTERS = (18, 48, 78)
_JITTER = 1.5
_SIDES = (22.0, 27.0)
_USUAL_SIDE = 25.0
_GAP = 2


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One flat object of a scene.

    Attributes:
        shape: One of `SHAPES`.
        color: One of `COLORS`.
        center: Center (x, y) in pixels.
        side: Side of the square that the shape is inscribed in, in pixels.
        size: Side of the image in pixels.
    """

    shape: str
    color: str
    center: tuple[float, float]
    side: float
    size: int

    @property
    def name(self) -> str:
        """Return what a prompt calls it, "blue star"."""
        return f"{self.color} {self.shape}"

    @property
    def mask(self) -> Mask:
        """Return the pixels that it covers by more than half."""
        return drawing.shape_coverage(self.shape, self.center, self.side, self.size) > 0.5

    @property
    def box(self) -> PixelBox:
        """Return the tight box (left, top, right, bottom) of the mask, right and bottom exclusive."""
        return drawing.tight_box(self.mask)


@dataclass(frozen=True, kw_only=True)
class EditCase:
    """An image, an instruction and the exact outcome.

    Attributes:
        task: One of `TASKS`.
        prompt: The instruction.
        seed: What it was generated from, with `task` and `size`.
        size: Side of the square images in pixels.
        held_out: Whether it is about a combination that training never shows.
        source: The image to edit, `[size, size, 3]` 8-bit RGB; None for text-to-image.
        target: The image that following the instruction exactly gives.
        before: Flat objects in the source (the 2-D tasks).
        after: Flat objects in the target.
        subject: The object of `before` that the instruction is about; None where there is none.
        result: What `after` has in its stead; None where it is gone.
        background: Color behind flat objects.
        place: Named place of an added or drawn object.
        box: Red box of a move, equal to the tight box of the object in its new place.
        vehicle: The object of a rotation.
        views: Views of the object before and after: heading 45° times the number.
        turntable: The world of a camera move.
        poses: The camera before and after.
    """

    task: str
    prompt: str
    seed: int
    size: int
    held_out: bool
    source: Pixels | None
    target: Pixels
    before: tuple[SceneObject, ...] = ()
    after: tuple[SceneObject, ...] = ()
    subject: SceneObject | None = None
    result: SceneObject | None = None
    background: Rgb | None = None
    place: str | None = None
    box: PixelBox | None = None
    vehicle: Vehicle | None = None
    views: tuple[int, int] | None = None
    turntable: Turntable | None = None
    poses: tuple[Pose, Pose] | None = None

    @property
    def bystanders(self) -> tuple[SceneObject, ...]:
        """Return the flat objects that the edit must leave alone."""
        return tuple(item for item in self.after if item in self.before)

    @property
    def source_image(self) -> Image.Image | None:
        """Return the source as a Pillow image."""
        return None if self.source is None else Image.fromarray(self.source)

    @property
    def target_image(self) -> Image.Image:
        """Return the target as a Pillow image."""
        return Image.fromarray(self.target)


def generate(task: str, seed: int, size: int = 96, held_out: bool = False) -> EditCase:
    """Draw one case; the same arguments give the same case.

    Args:
        task: One of `TASKS`.
        seed: Any number from 0; training takes `TRAINING_SEEDS`, evaluation begins at
            `EVALUATION_SEEDS_START`.
        size: Side of the images in pixels, 32 at least.
        held_out: Whether the edit is about a combination that is kept out of training.

    Returns:
        The case.

    Raises:
        InvalidInputError: The task is unknown, the seed negative or the size too small.
    """
    if task not in TASKS:
        raise InvalidInputError(f"`task` is {task!r}; expected one of {', '.join(TASKS)}.")
    if seed < 0:
        raise InvalidInputError(f"`seed` is {seed}; expected 0 or more.")
    if size < 32:
        raise InvalidInputError(
            f"`size` is {size} pixels; expected 32 or more, as smaller shapes cannot be told apart."
        )
    rng = np.random.default_rng((seed, TASKS.index(task), int(held_out)))
    return _GENERATORS[task](rng, seed, size, held_out)


def render_objects(objects: tuple[SceneObject, ...], background: Rgb, size: int) -> Pixels:
    """Draw flat objects on a plain background."""
    canvas = drawing.plain(background, size)
    for item in objects:
        coverage = drawing.shape_coverage(item.shape, item.center, item.side, size)
        drawing.paint(canvas, coverage, COLORS[item.color])
    return drawing.to_pixels(canvas)


def _add(rng: np.random.Generator, seed: int, size: int, held_out: bool) -> EditCase:
    new, *others = _cast(rng, int(rng.integers(2, 5)), held_out)
    places = list(rng.permutation(list(PLACES)))
    before = tuple(_object(rng, who, place, size) for who, place in zip(others, places[1:], strict=False))
    result = usual_object(new, places[0], size)
    verb = _choose(rng, ("Add", "Put"))
    prompt = f"{verb} {drawing.with_article(result.name)} {drawing.place_phrase(places[0])}."
    return _flat_case(
        "add", rng, prompt, seed, size, held_out, before, (*before, result), None, result, str(places[0])
    )


def _remove(rng: np.random.Generator, seed: int, size: int, held_out: bool) -> EditCase:
    before = _objects(rng, _cast(rng, int(rng.integers(1, 4)), held_out), size)
    subject = before[0]
    prompt = f"{_choose(rng, ('Remove', 'Erase'))} the {subject.name}."
    return _flat_case("remove", rng, prompt, seed, size, held_out, before, before[1:], subject, None)


def _recolor(rng: np.random.Generator, seed: int, size: int, held_out: bool) -> EditCase:
    while True:
        # The last of the cast lends its color to the subject before the edit.
        (shape, new_color), *others, (_, old_color) = _cast(rng, int(rng.integers(2, 5)), held_out)
        if (shape, old_color) not in HELD_OUT_PAIRS:
            break
    before = _objects(rng, [(shape, old_color), *others], size)
    subject = before[0]
    result = replace(subject, color=new_color)
    prompt = _choose(
        rng, (f"Change the color of the {shape} to {new_color}.", f"Recolor the {shape} {new_color}.")
    )
    return _flat_case(
        "recolor", rng, prompt, seed, size, held_out, before, (result, *before[1:]), subject, result
    )


def _replace(rng: np.random.Generator, seed: int, size: int, held_out: bool) -> EditCase:
    (shape, color), *others = _cast(rng, int(rng.integers(2, 5)), held_out)
    before = _objects(rng, others, size)
    subject = before[0]
    result = replace(subject, shape=shape, color=color)
    new = drawing.with_article(result.name)
    prompt = _choose(rng, (f"Replace the {subject.name} with {new}.", f"Turn the {subject.name} into {new}."))
    return _flat_case(
        "replace", rng, prompt, seed, size, held_out, before, (result, *before[1:]), subject, result
    )


def _move(rng: np.random.Generator, seed: int, size: int, held_out: bool) -> EditCase:
    before = _objects(rng, _cast(rng, int(rng.integers(1, 4)), held_out), size)
    subject = before[0]
    result = _new_place(rng, subject, before, size)
    prompt = ObjectMove(subject.name, result.box).prompt
    case = _flat_case(
        "move", rng, prompt, seed, size, held_out, before, (result, *before[1:]), subject, result
    )
    assert case.source_image is not None
    return replace(case, source=np.asarray(draw_red_box(case.source_image, result.box)), box=result.box)


def _rotate(rng: np.random.Generator, seed: int, size: int, held_out: bool) -> EditCase:
    while True:
        kind, color = _choose(rng, VEHICLES), _choose(rng, VEHICLE_COLORS)
        view, new_view = (int(number) for number in rng.permutation(8)[:2])
        if (kind, color, view) not in HELD_OUT_VIEWS and (
            (kind, color, new_view) in HELD_OUT_VIEWS
        ) == held_out:
            break
    offset = (int(rng.integers(-6, 7)), int(rng.integers(-3, 4)))
    vehicle = Vehicle(kind, color, int(rng.integers(len(FLOORS))), float(rng.choice((0.9, 1.0, 1.1))), offset)
    return EditCase(
        task="rotate",
        prompt=ObjectRotation(kind, list(View)[new_view]).prompt,
        seed=seed,
        size=size,
        held_out=held_out,
        source=vehicle.render(view, size)[0],
        target=vehicle.render(new_view, size)[0],
        vehicle=vehicle,
        views=(view, new_view),
    )


def _camera(rng: np.random.Generator, seed: int, size: int, held_out: bool) -> EditCase:
    count = int(rng.integers(1, 3))
    while True:
        forms, colors = rng.permutation(SOLIDS)[:count], rng.permutation(list(COLORS))[:count]
        pairs = list(zip(forms.tolist(), colors.tolist(), strict=True))
        if (pairs[0] in HELD_OUT_SOLIDS) == held_out and not HELD_OUT_SOLIDS.intersection(pairs[1:]):
            break
    angle = np.radians(45 * int(rng.integers(8)))
    radius = 0.36 if count == 2 else _choose(rng, (0.0, 0.3))
    places = [
        (sign * radius * float(np.cos(angle)), sign * radius * float(np.sin(angle))) for sign in (1, -1)
    ]
    standing = tuple(Solid(*pair, place) for pair, place in zip(pairs, places, strict=False))
    turntable = Turntable(standing, int(rng.integers(len(TABLE_BACKGROUNDS))))
    yaw, pitch, zoom = CAMERA_MOVES[int(rng.integers(len(CAMERA_MOVES)))]
    pose = Pose(45 * int(rng.integers(8)))
    new_pose = pose.moved(yaw, pitch, zoom)
    return EditCase(
        task="camera",
        prompt=CameraMove(yaw=yaw, pitch=pitch, zoom=zoom).prompt,
        seed=seed,
        size=size,
        held_out=held_out,
        source=turntable.render(pose, size)[0],
        target=turntable.render(new_pose, size)[0],
        turntable=turntable,
        poses=(pose, new_pose),
    )


def _text_to_image(rng: np.random.Generator, seed: int, size: int, held_out: bool) -> EditCase:
    cast = _cast(rng, int(rng.integers(1, 3)), held_out)
    places = [str(place) for place in rng.permutation(list(PLACES))[: len(cast)]]
    after = tuple(usual_object(who, place, size) for who, place in zip(cast, places, strict=True))
    parts = [
        f"{drawing.with_article(item.name)} {drawing.place_phrase(place)}"
        for item, place in zip(after, places, strict=True)
    ]
    background = _choose(rng, tuple(BACKGROUNDS))
    verb = _choose(rng, ("Draw", "Paint"))
    prompt = f"{verb} {' and '.join(parts)} on {drawing.with_article(background)} background."
    return EditCase(
        task="text-to-image",
        prompt=prompt,
        seed=seed,
        size=size,
        held_out=held_out,
        source=None,
        target=render_objects(after, BACKGROUNDS[background], size),
        after=after,
        result=after[0],
        background=BACKGROUNDS[background],
        place=places[0],
    )


_GENERATORS: dict[str, Callable[[np.random.Generator, int, int, bool], EditCase]] = {
    "add": _add,
    "remove": _remove,
    "recolor": _recolor,
    "replace": _replace,
    "move": _move,
    "rotate": _rotate,
    "camera": _camera,
    "text-to-image": _text_to_image,
}


def _flat_case(
    task: str,
    rng: np.random.Generator,
    prompt: str,
    seed: int,
    size: int,
    held_out: bool,
    before: tuple[SceneObject, ...],
    after: tuple[SceneObject, ...],
    subject: SceneObject | None,
    result: SceneObject | None,
    place: str | None = None,
) -> EditCase:
    background = BACKGROUNDS[_choose(rng, tuple(BACKGROUNDS))]
    return EditCase(
        task=task,
        prompt=prompt,
        seed=seed,
        size=size,
        held_out=held_out,
        source=render_objects(before, background, size),
        target=render_objects(after, background, size),
        before=before,
        after=after,
        subject=subject,
        result=result,
        background=background,
        place=place,
    )


def _choose(rng: np.random.Generator, options: tuple[T, ...]) -> T:
    return options[int(rng.integers(len(options)))]


def _cast(rng: np.random.Generator, count: int, held_out: bool) -> list[tuple[str, str]]:
    """Draw (shape, color) pairs, all shapes and colors different; only the first may be held out."""
    while True:
        shapes, colors = rng.permutation(SHAPES)[:count], rng.permutation(list(COLORS))[:count]
        pairs = list(zip(shapes.tolist(), colors.tolist(), strict=True))
        if (pairs[0] in HELD_OUT_PAIRS) == held_out and not HELD_OUT_PAIRS.intersection(pairs[1:]):
            return pairs


def _objects(rng: np.random.Generator, cast: list[tuple[str, str]], size: int) -> tuple[SceneObject, ...]:
    places = rng.permutation(list(PLACES))[: len(cast)]
    return tuple(_object(rng, who, place, size) for who, place in zip(cast, places, strict=True))


def _object(rng: np.random.Generator, who: tuple[str, str], place: str, size: int) -> SceneObject:
    """Put a shape of random size somewhere near the middle of its place."""
    unit = size / 96
    x, y = (unit * (_CELL_CENTERS[cell] + float(rng.uniform(-_JITTER, _JITTER))) for cell in PLACES[place])
    return SceneObject(
        shape=who[0], color=who[1], center=(x, y), side=unit * float(rng.uniform(*_SIDES)), size=size
    )


def usual_object(who: tuple[str, str], place: str, size: int) -> SceneObject:
    """Put a shape of the usual size in the middle of its place: what a prompt that names no more can mean."""
    unit = size / 96
    x, y = (unit * _CELL_CENTERS[cell] for cell in PLACES[place])
    return SceneObject(shape=who[0], color=who[1], center=(x, y), side=unit * _USUAL_SIDE, size=size)


def _new_place(
    rng: np.random.Generator, subject: SceneObject, before: tuple[SceneObject, ...], size: int
) -> SceneObject:
    """Find a free place for the subject, at 0.8 to 1.2 times its size, clear of every object's old place."""
    taken = [item.box for item in before]
    while True:
        side = subject.side * float(rng.uniform(0.8, 1.2))
        margin = side / 2 + _GAP
        x, y = (float(rng.uniform(margin, size - margin)) for _ in range(2))
        # Whole-pixel boxes round outward by up to a pixel on each side.
        left, top, right, bottom = x - side / 2 - 1, y - side / 2 - 1, x + side / 2 + 1, y + side / 2 + 1
        if all(
            right + _GAP <= other[0]
            or other[2] + _GAP <= left
            or bottom + _GAP <= other[1]
            or other[3] + _GAP <= top
            for other in taken
        ):
            return replace(subject, center=(x, y), side=side)
