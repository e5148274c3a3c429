"""The exact outcome of an instruction on a scene, for the prompts that `joyimage-tiny` was trained on."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from joyimage.errors import InvalidInputError
from joyimage.spatial import CameraMove, ObjectMove, ObjectRotation, View, draw_red_box, parse
from joyimage.tiny.worlds.drawing import BACKGROUNDS, COLORS, PLACES, SHAPES
from joyimage.tiny.worlds.scenes import EditCase, SceneObject, render_objects, usual_object
from joyimage.tiny.worlds.truth import FlatScene, Scene, TurntableScene, VehicleScene

if TYPE_CHECKING:
    from joyimage.tiny.worlds.drawing import PixelBox

_SHAPE = f"(?:{'|'.join(SHAPES)})"
_COLOR = f"(?:{'|'.join(COLORS)})"
_NAME = rf"(?:{_COLOR} )?{_SHAPE}"
# Longest first: "top left" before "top".
_PLACE = f"(?:{'|'.join(sorted(PLACES, key=len, reverse=True))})"
_WHERE = rf"(?:on|in|at) the (?P<place>{_PLACE})"
_RECOLOR = re.compile(
    rf"(?:Recolor the (?P<name>{_NAME}) (?P<color>{_COLOR})"
    rf"|Change the color of the (?P<other_name>{_NAME}) to (?P<other_color>{_COLOR}))\.?"
)
_REMOVE = re.compile(rf"(?:Remove|Erase) the (?P<name>{_NAME})\.?")
_REPLACE = re.compile(
    rf"(?:Replace|Turn) the (?P<name>{_NAME}) (?:with|into) an? (?P<color>{_COLOR}) (?P<shape>{_SHAPE})\.?"
)
_ADD = re.compile(rf"(?:Add|Put) an? (?P<color>{_COLOR}) (?P<shape>{_SHAPE}) {_WHERE}\.?")
_DRAW = re.compile(
    rf"(?:Draw|Paint) (?P<objects>.+) on an? (?P<background>{'|'.join(BACKGROUNDS)}) background\.?"
)
_DRAWN_OBJECT = re.compile(rf"an? (?P<color>{_COLOR}) (?P<shape>{_SHAPE}) {_WHERE}")


def expected_edit(scene: Scene, prompt: str, box: PixelBox | None = None) -> EditCase:
    """Work out what following an instruction exactly makes of a scene.

    Args:
        scene: What the image shows.
        prompt: The instruction, in a form that `joyimage-tiny` was trained on.
        box: Red box of a move, (left, top, right, bottom) in pixels; None for other edits.

    Returns:
        The case, ready for `score`.

    Raises:
        InvalidInputError: The prompt is in no known form, or doesn't fit the scene.
    """
    spatial = parse(prompt)
    if isinstance(scene, VehicleScene) and isinstance(spatial, ObjectRotation):
        return _rotate(scene, prompt, spatial)
    if isinstance(scene, TurntableScene) and isinstance(spatial, CameraMove):
        return _camera(scene, prompt, spatial)
    if isinstance(scene, FlatScene) and isinstance(spatial, ObjectMove) and box is not None:
        return _move(scene, prompt, spatial, box)
    if isinstance(scene, FlatScene) and spatial is None:
        return _edit(scene, prompt)
    raise InvalidInputError(f"`prompt` is {prompt!r}, which does not fit a {type(scene).__name__}.")


def expected_generation(prompt: str, size: int) -> EditCase:
    """Work out what a text-to-image prompt asks for.

    Args:
        prompt: The instruction, in a form that `joyimage-tiny` was trained on.
        size: Side of the image in pixels.

    Returns:
        The case, ready for `score`.

    Raises:
        InvalidInputError: The prompt is in no known form.
    """
    match = _DRAW.fullmatch(prompt)
    parts = [_DRAWN_OBJECT.fullmatch(part) for part in match["objects"].split(" and ")] if match else []
    if match is None or not all(parts):
        raise InvalidInputError(f"`prompt` is {prompt!r}; expected 'Draw a green star on the left on a ...'.")
    after = tuple(
        usual_object((part["shape"], part["color"]), part["place"], size)
        for part in parts
        if part is not None
    )
    background = BACKGROUNDS[match["background"]]
    return EditCase(
        task="text-to-image",
        prompt=prompt,
        seed=0,
        size=size,
        held_out=False,
        source=None,
        target=render_objects(after, background, size),
        after=after,
        result=after[0],
        background=background,
    )


def _edit(scene: FlatScene, prompt: str) -> EditCase:
    if match := _RECOLOR.fullmatch(prompt):
        subject = _find(scene, match["name"] or match["other_name"])
        result = replace(subject, color=match["color"] or match["other_color"])
        return _flat_case(scene, "recolor", prompt, subject, result)
    if match := _REMOVE.fullmatch(prompt):
        return _flat_case(scene, "remove", prompt, _find(scene, match["name"]), None)
    if match := _REPLACE.fullmatch(prompt):
        subject = _find(scene, match["name"])
        result = replace(subject, color=match["color"], shape=match["shape"])
        return _flat_case(scene, "replace", prompt, subject, result)
    if match := _ADD.fullmatch(prompt):
        result = usual_object((match["shape"], match["color"]), match["place"], scene.size)
        return _flat_case(scene, "add", prompt, None, result)
    raise InvalidInputError(f"`prompt` is {prompt!r}; expected a form such as 'Recolor the heart orange.'.")


def _move(scene: FlatScene, prompt: str, edit: ObjectMove, box: PixelBox) -> EditCase:
    subject = _find(scene, edit.object)
    case = _flat_case(scene, "move", prompt, subject, _fitted(subject, box))
    source = np.asarray(draw_red_box(Image.fromarray(scene.render()), box))
    return replace(case, source=source, box=box)


def _rotate(scene: VehicleScene, prompt: str, edit: ObjectRotation) -> EditCase:
    if scene.vehicle.kind not in edit.object.split():
        raise InvalidInputError(f"`prompt` is {prompt!r}, but the scene shows a {scene.vehicle.kind}.")
    view = list(View).index(View(edit.view))
    return EditCase(
        task="rotate",
        prompt=prompt,
        seed=0,
        size=scene.size,
        held_out=False,
        source=scene.render(),
        target=scene.vehicle.render(view, scene.size)[0],
        vehicle=scene.vehicle,
        views=(scene.view, view),
    )


def _camera(scene: TurntableScene, prompt: str, edit: CameraMove) -> EditCase:
    pose = scene.pose.moved(int(edit.yaw), int(edit.pitch), edit.zoom)
    return EditCase(
        task="camera",
        prompt=prompt,
        seed=0,
        size=scene.size,
        held_out=False,
        source=scene.render(),
        target=scene.turntable.render(pose, scene.size)[0],
        turntable=scene.turntable,
        poses=(scene.pose, pose),
    )


def _flat_case(
    scene: FlatScene, task: str, prompt: str, subject: SceneObject | None, result: SceneObject | None
) -> EditCase:
    others = tuple(item for item in scene.objects if item != subject)
    after = (*others, *(item for item in (result,) if item is not None))
    background = BACKGROUNDS[scene.background]
    return EditCase(
        task=task,
        prompt=prompt,
        seed=0,
        size=scene.size,
        held_out=False,
        source=scene.render(),
        target=render_objects(after, background, scene.size),
        before=scene.objects,
        after=after,
        subject=subject,
        result=result,
        background=background,
    )


def _find(scene: FlatScene, name: str) -> SceneObject:
    found = [item for item in scene.objects if name in {item.shape, item.name}]
    if len(found) != 1:
        names = ", ".join(item.name for item in scene.objects)
        raise InvalidInputError(f"{name!r} names {len(found)} objects of the scene; it shows {names}.")
    return found[0]


def _fitted(subject: SceneObject, box: PixelBox) -> SceneObject:
    """Return the subject in the place and size whose tight box is nearest to `box`."""
    left, top, right, bottom = box
    middle = ((left + right) / 2, (top + bottom) / 2)
    longest = max(right - left, bottom - top)
    candidates = [
        replace(subject, center=(middle[0] + x / 2, middle[1] + y / 2), side=longest + side / 2)
        for side in range(-4, 5)
        for x in range(-3, 4)
        for y in range(-3, 4)
    ]
    return min(candidates, key=lambda item: sum(abs(a - b) for a, b in zip(item.box, box, strict=True)))
