"""What an editor can make of an instruction, right or wrong, with the exact answers to questions about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

from joyimage.spatial import View, draw_red_box
from joyimage.tiny.worlds.asks import NOTHING_CHANGED, Ask, cell_of
from joyimage.tiny.worlds.drawing import BACKGROUNDS, COLORS, PLACES, SHAPES, place_phrase, with_article
from joyimage.tiny.worlds.scenes import (
    CAMERA_MOVES,
    HELD_OUT_PAIRS,
    HELD_OUT_SOLIDS,
    HELD_OUT_VIEWS,
    EditCase,
    SceneObject,
    usual_object,
)
from joyimage.tiny.worlds.scores import BACKGROUND_DISTANCE
from joyimage.tiny.worlds.truth import FlatScene, TurntableScene, VehicleScene
from joyimage.tiny.worlds.vehicle import FLOORS, VEHICLE_COLORS
from joyimage.understanding import questions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from joyimage.tiny.worlds.drawing import Pixels, Rgb
    from joyimage.tiny.worlds.truth import Scene

T = TypeVar("T")

_NAMES = {color: name for name, color in BACKGROUNDS.items()}
# Less than this share of an object's side away, and an object is still in the place that was asked for.
_ELSEWHERE = 0.7


@dataclass(frozen=True)
class EditResult:
    """An image after an edit.

    Attributes:
        image: `[size, size, 3]` 8-bit RGB.
        done: Whether the requested change happened.
        kept: Whether all else stayed as it was; None where that can't be told.
        changed: What changed since the image before, in one sentence; None where one doesn't say it.
        scene: What the image shows; None where that is no scene that the generator draws.
    """

    image: Pixels
    done: bool
    kept: bool | None
    changed: str | None = None
    scene: Scene | None = None


def scene_before(case: EditCase) -> Scene:
    """Return what the image before an edit shows, without the red box of a move."""
    return _scene(case, after=False)


def scene_after(case: EditCase) -> Scene:
    """Return what the right image after an edit shows."""
    return _scene(case, after=True)


def asks_of(outcome: EditResult, prompt: str, text: str = questions.CHANGED) -> list[Ask]:
    """Ask about an edit: whether it was done, whether the rest stayed, and what changed."""
    asks = [Ask("done", questions.edit_is_done(prompt), _yes_no(outcome.done))]
    if outcome.kept is not None:
        asks.append(Ask("kept", questions.rest_is_unchanged(prompt), _yes_no(outcome.kept)))
    if outcome.changed is not None:
        asks.append(Ask("changed", text, outcome.changed))
    return asks


def right_outcome(case: EditCase) -> EditResult:
    """Return what following the instruction exactly gives."""
    return EditResult(case.target, True, True, _what_changed(case), scene_after(case))


def wrong_outcome(case: EditCase, rng: np.random.Generator) -> EditResult:
    """Return an outcome that is not what was asked for, or is more than that."""
    if case.task == "rotate":
        return _choose(rng, (_other_view, _other_view, _other_paint, _other_floor, _unchanged))(case, rng)
    if case.task == "camera":
        return _choose(rng, (_other_pose, _other_pose, _other_solid, _unchanged))(case, rng)
    if case.task == "text-to-image":
        return _other_drawing(case, rng)
    while True:
        outcome = _choose(rng, _WRONGS[case.task])(case, rng)
        if outcome is not None:
            return outcome


def _scene(case: EditCase, *, after: bool) -> Scene:
    if case.vehicle is not None and case.views is not None:
        return VehicleScene(vehicle=case.vehicle, view=case.views[after], size=case.size)
    if case.turntable is not None and case.poses is not None:
        return TurntableScene(turntable=case.turntable, pose=case.poses[after], size=case.size)
    assert case.background is not None
    objects = case.after if after else case.before
    return FlatScene(objects=objects, background=_NAMES[case.background], size=case.size)


def _what_changed(case: EditCase) -> str | None:
    if case.views is not None and case.vehicle is not None:
        before, after = (list(View)[view].value for view in case.views)
        return f"The {case.vehicle.kind} turned from {before} to {after}."
    if case.poses is not None:
        return _camera_change(case)
    if case.task == "text-to-image":
        return None
    return _difference(case.task, case.subject, case.result)


def _camera_change(case: EditCase) -> str:
    assert case.poses is not None
    before, after = case.poses
    if after.distance != before.distance:
        return f"The camera zoomed {'in' if after.distance < before.distance else 'out'}."
    if after.elevation != before.elevation:
        return f"The camera moved {'up' if after.elevation > before.elevation else 'down'}."
    return "The camera moved around the scene."


def _difference(task: str, subject: SceneObject | None, result: SceneObject | None) -> str:
    """Say what one flat edit changed."""
    if subject is None and result is not None:
        return f"{_capital(with_article(result.name))} was added {place_phrase(cell_of(result))}."
    if subject is not None and result is None:
        return f"The {subject.name} was removed."
    assert subject is not None
    assert result is not None
    if task == "move":
        return f"The {subject.name} was moved."
    if subject.shape == result.shape:
        return f"The {subject.shape} was recolored from {subject.color} to {result.color}."
    return f"The {subject.name} was replaced with {with_article(result.name)}."


# Wrong outcomes of flat edits. Each is None where the scene has no room for it.


def _unchanged(case: EditCase, _rng: np.random.Generator) -> EditResult:
    if case.background is not None:
        return _flat(case, case.before, False, True, NOTHING_CHANGED)
    assert case.source is not None
    return EditResult(case.source, False, True, NOTHING_CHANGED, scene_before(case))


def _other_object(case: EditCase, rng: np.random.Generator) -> EditResult | None:
    """Do to a bystander what was asked of the subject."""
    subject, result = case.subject, case.result
    others = [item for item in case.before if item != subject]
    if not others or subject is None:
        return None
    other = _choose(rng, others)
    new: SceneObject | None = None
    if result is not None:
        if case.task == "recolor":
            new = replace(other, color=result.color)
        elif case.task == "replace":
            new = replace(other, shape=result.shape, color=result.color)
        else:
            new = replace(other, center=result.center, side=result.side)
        if not _is_trained(new):
            return None
    rest = [item for item in case.before if item != other]
    changed = _difference(case.task, other, new)
    return _flat(case, (*rest, *(item for item in (new,) if item)), False, False, changed)


def _wrong_color(case: EditCase, rng: np.random.Generator) -> EditResult | None:
    result, subject = case.result, case.subject
    assert result is not None
    taken = {result.color, *(item.color for item in case.before)}
    colors = [color for color in COLORS if color not in taken and (result.shape, color) not in HELD_OUT_PAIRS]
    if not colors:
        return None
    new = replace(result, color=_choose(rng, colors))
    return _with_result(case, new, _difference(case.task, subject, new))


def _wrong_shape(case: EditCase, rng: np.random.Generator) -> EditResult | None:
    result = case.result
    assert result is not None
    taken = {result.shape, *(item.shape for item in case.before)}
    shapes = [shape for shape in SHAPES if shape not in taken and (shape, result.color) not in HELD_OUT_PAIRS]
    if not shapes:
        return None
    new = replace(result, shape=_choose(rng, shapes))
    return _with_result(case, new, _difference(case.task, case.subject, new))


def _wrong_place(case: EditCase, rng: np.random.Generator) -> EditResult | None:
    result = case.result
    assert result is not None
    if case.task == "add":
        free = set(PLACES) - {cell_of(item) for item in case.after}
        new = usual_object((result.shape, result.color), _choose(rng, sorted(free)), case.size)
        return _with_result(case, new, _difference(case.task, None, new))
    new = _moved(rng, result, case)
    if new is None or _near(new, result):
        return None
    subject = case.subject
    far = subject is None or not _near(new, subject)
    return _with_result(case, new, _difference("move", subject, new) if far else None)


def _box_left(case: EditCase, _rng: np.random.Generator) -> EditResult:
    assert case.box is not None
    outcome = _flat(case, case.after, False, True, None)
    image = np.asarray(draw_red_box(Image.fromarray(outcome.image), case.box))
    return replace(outcome, image=image, scene=None)


def _copied(case: EditCase, _rng: np.random.Generator) -> EditResult | None:
    """Leave the subject where it was, beside its copy in the new place."""
    if case.subject is None or case.result is None or _near(case.subject, case.result):
        return None
    return replace(_flat(case, (*case.after, case.subject), False, True, None), scene=None)


def _bystander_changed(case: EditCase, rng: np.random.Generator) -> EditResult | None:
    """Do what was asked, and something else to another object."""
    bystanders = case.bystanders
    if not bystanders:
        return None
    one = _choose(rng, bystanders)
    shown = (*case.before, *case.after)
    color = _choose(rng, [color for color in COLORS if color not in {item.color for item in shown}])
    shape = _choose(rng, [shape for shape in SHAPES if shape not in {item.shape for item in shown}])
    changed = _choose(
        rng, (None, replace(one, color=color), replace(one, shape=shape), _moved(rng, one, case))
    )
    if changed is not None and (
        not _is_trained(changed) or (changed.center != one.center and _near(changed, one))
    ):
        return None
    rest = tuple(item for item in case.after if item != one)
    return _flat(case, (*rest, *(item for item in (changed,) if item)), True, False, None)


def _something_added(case: EditCase, rng: np.random.Generator) -> EditResult | None:
    """Do what was asked, and add an object that was not asked for."""
    shown = (*case.before, *case.after)
    free = set(PLACES) - {cell_of(item) for item in shown}
    shape = _choose(rng, [shape for shape in SHAPES if shape not in {item.shape for item in shown}])
    color = _choose(rng, [color for color in COLORS if color not in {item.color for item in shown}])
    pair = shape, color
    new = usual_object(pair, _choose(rng, sorted(free)), case.size)
    overlaps = any(_near(new, item, 1.1) for item in case.after)
    return None if overlaps or not _is_trained(new) else _flat(case, (*case.after, new), True, False, None)


def _other_background(case: EditCase, rng: np.random.Generator) -> EditResult:
    return _flat(case, case.after, True, False, None, _other_ground(case, rng))


# Background in another color is no case of its own where an old place has to be background again.
_WRONGS: dict[str, tuple[Callable[[EditCase, np.random.Generator], EditResult | None], ...]] = {
    "add": (
        _unchanged,
        _wrong_color,
        _wrong_shape,
        _wrong_place,
        _bystander_changed,
        _something_added,
        _other_background,
    ),
    "remove": (
        _unchanged,
        _other_object,
        _other_object,
        _bystander_changed,
        _something_added,
    ),
    "recolor": (_unchanged, _other_object, _wrong_color, _wrong_color, _bystander_changed, _other_background),
    "replace": (_unchanged, _other_object, _wrong_color, _wrong_shape, _bystander_changed, _other_background),
    "move": (
        _unchanged,
        _other_object,
        _wrong_place,
        _wrong_place,
        _box_left,
        _copied,
        _bystander_changed,
    ),
}


# Wrong outcomes of the other tasks.


def _other_view(case: EditCase, rng: np.random.Generator) -> EditResult:
    assert case.vehicle is not None
    assert case.views is not None
    vehicle, (before, after) = case.vehicle, case.views
    views = [
        view
        for view in range(8)
        if view not in {before, after} and (vehicle.kind, vehicle.color, view) not in HELD_OUT_VIEWS
    ]
    view = _choose(rng, views)
    names = [list(View)[one].value for one in (before, view)]
    changed = f"The {vehicle.kind} turned from {names[0]} to {names[1]}."
    return EditResult(vehicle.render(view, case.size)[0], False, True, changed)


def _other_paint(case: EditCase, rng: np.random.Generator) -> EditResult:
    assert case.vehicle is not None
    assert case.views is not None
    vehicle, view = case.vehicle, case.views[1]
    colors = [
        color
        for color in VEHICLE_COLORS
        if color != vehicle.color and (vehicle.kind, color, view) not in HELD_OUT_VIEWS
    ]
    return EditResult(replace(vehicle, color=_choose(rng, colors)).render(view, case.size)[0], True, False)


def _other_floor(case: EditCase, rng: np.random.Generator) -> EditResult:
    assert case.vehicle is not None
    assert case.views is not None
    floors = [floor for floor in range(len(FLOORS)) if floor != case.vehicle.floor]
    vehicle = replace(case.vehicle, floor=_choose(rng, floors))
    return EditResult(vehicle.render(case.views[1], case.size)[0], True, False)


def _other_pose(case: EditCase, rng: np.random.Generator) -> EditResult:
    assert case.turntable is not None
    assert case.poses is not None
    before, after = case.poses
    poses = [pose for pose in (before.moved(*move) for move in CAMERA_MOVES) if pose != after]
    other = replace(case, poses=(before, _choose(rng, poses)))
    assert other.poses is not None
    return EditResult(case.turntable.render(other.poses[1], case.size)[0], False, True, _camera_change(other))


def _other_solid(case: EditCase, rng: np.random.Generator) -> EditResult:
    assert case.turntable is not None
    assert case.poses is not None
    solids = list(case.turntable.solids)
    number = int(rng.integers(len(solids)))
    colors = [
        color
        for color in COLORS
        if color not in {solid.color for solid in solids}
        and (solids[number].form, color) not in HELD_OUT_SOLIDS
    ]
    solids[number] = replace(solids[number], color=_choose(rng, colors))
    turntable = replace(case.turntable, solids=tuple(solids))
    return EditResult(turntable.render(case.poses[1], case.size)[0], True, False)


def _other_drawing(case: EditCase, rng: np.random.Generator) -> EditResult:
    """Draw something else than the prompt says: one object less or another one, elsewhere, on another ground."""
    while True:
        items = list(case.after)
        background = case.background
        number = int(rng.integers(len(items)))
        what = _choose(rng, ("color", "shape", "place", "place", "missing", "background"))
        item = items.pop(number)
        if what == "background":
            background = _other_ground(case, rng)
            items.insert(number, item)
        elif what != "missing":
            free = set(PLACES) - {cell_of(one) for one in case.after}
            new = {
                "color": replace(item, color=_choose(rng, tuple(COLORS))),
                "shape": replace(item, shape=_choose(rng, SHAPES)),
                "place": usual_object((item.shape, item.color), _choose(rng, sorted(free)), case.size),
            }[what]
            names = [one.color for one in items] + [one.shape for one in items]
            if new == item or not _is_trained(new) or new.color in names or new.shape in names:
                continue
            items.insert(number, new)
        return _flat(case, tuple(items), False, None, None, background)


def _flat(
    case: EditCase,
    objects: Sequence[SceneObject],
    done: bool,
    kept: bool | None,
    changed: str | None,
    background: Rgb | None = None,
) -> EditResult:
    ground = background or case.background
    assert ground is not None
    scene = FlatScene(objects=tuple(objects), background=_NAMES[ground], size=case.size)
    return EditResult(scene.render(), done, kept, changed, scene)


def _other_ground(case: EditCase, rng: np.random.Generator) -> Rgb:
    """Choose a background that is clearly not the one that was asked for."""
    assert case.background is not None
    ground = np.array(case.background)
    far = [color for color in BACKGROUNDS.values() if np.linalg.norm(ground - color) > BACKGROUND_DISTANCE]
    return _choose(rng, far)


def _with_result(case: EditCase, new: SceneObject, changed: str | None) -> EditResult:
    """Return the outcome with something else instead of the result."""
    return _flat(case, (*(item for item in case.after if item != case.result), new), False, True, changed)


def _moved(rng: np.random.Generator, item: SceneObject, case: EditCase) -> SceneObject | None:
    """Put an object anywhere where it touches none of the others; None where a few tries find no room."""
    others = [one for one in (*case.before, *case.after) if one.shape != item.shape]
    for _ in range(20):
        margin = item.side / 2 + 1
        center = (
            float(rng.uniform(margin, case.size - margin)),
            float(rng.uniform(margin, case.size - margin)),
        )
        new = replace(item, center=center)
        if not any(_near(new, one, 1.1) for one in others):
            return new
    return None


def _near(one: SceneObject, other: SceneObject, sides: float = _ELSEWHERE) -> bool:
    """Tell whether two centers are less than a number of sides apart along both axes."""
    return all(abs(a - b) < sides * one.side for a, b in zip(one.center, other.center, strict=True))


def _is_trained(item: SceneObject) -> bool:
    return (item.shape, item.color) not in HELD_OUT_PAIRS


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _yes_no(is_true: bool) -> str:
    return questions.YES if is_true else questions.NO


def _choose(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]
