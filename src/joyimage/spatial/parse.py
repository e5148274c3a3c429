"""Parse a prompt into a spatial edit, and explain what keeps a similar prompt from matching its template."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING

from joyimage.errors import InvalidInputError
from joyimage.spatial.camera import ZOOMS, CameraMove
from joyimage.spatial.move import ObjectMove
from joyimage.spatial.red_box import find_red_boxes
from joyimage.spatial.rotation import ObjectRotation, View

if TYPE_CHECKING:
    from PIL import Image

SpatialEdit = ObjectMove | ObjectRotation | CameraMove

_MOVE = re.compile(r"Move (?P<object>[^\n]+?) into the red box and finally remove the red box\.")
_ROTATE = re.compile(r"Rotate (?P<object>[^\n]+) to show the (?P<view>[a-z -]+?)(?P<side> side)? view\.")
_ANGLE = r"-?\d+(?:\.\d+)?"
_ROTATION_LINE = re.compile(rf"- Camera rotation: Yaw (?P<yaw>{_ANGLE})°, Pitch (?P<pitch>{_ANGLE})°\.")
_ZOOM_LINE = re.compile(r"- Camera zoom: (?P<zoom>[a-z]+)\.")
_CAMERA_LINES = (
    "Move the camera.",
    "- Camera rotation: Yaw {y}°, Pitch {p}°.",
    f"- Camera zoom: {'/'.join(ZOOMS)}.",
    "- Keep the 3D scene static; only change the viewpoint.",
)


def parse(prompt: str, image: Image.Image | None = None) -> SpatialEdit | None:
    """Recognize the prompt of a spatial edit, in either style.

    Args:
        prompt: Any prompt.
        image: The image that the prompt is about; the red box of a move is read from it.

    Returns:
        The edit, or None if the prompt does not resemble a template.

    Raises:
        InvalidInputError: The prompt resembles a template but does not match it; the message says where.
    """
    start = prompt.lstrip().lower()
    if start.startswith("move the camera") or "camera rotation" in start or "camera zoom" in start:
        return _parse_camera(prompt)
    if start.startswith("move ") and "red box" in start:
        return _parse_move(prompt, image)
    if re.match(r"(rotate|turn)\b.*\b(view|side)\b", start, re.DOTALL):
        return _parse_rotation(prompt)
    return None


def _parse_move(prompt: str, image: Image.Image | None) -> ObjectMove:
    match = _MOVE.fullmatch(prompt)
    if match is None:
        raise InvalidInputError(
            "`prompt` looks like a move but does not match its template; expected exactly "
            "'Move the <object> into the red box and finally remove the red box.'"
        )
    box = None
    if image is not None:
        boxes = find_red_boxes(image)
        if not boxes:
            raise InvalidInputError(
                "`prompt` is a move, but `image` has no red box; draw one where the object should end up."
            )
        box = boxes[0]
    return ObjectMove(_strip_the(match["object"]), box)


def _parse_rotation(prompt: str) -> ObjectRotation:
    match = _ROTATE.fullmatch(prompt)
    if match is None:
        raise InvalidInputError(
            "`prompt` looks like a rotation but does not match its template; expected exactly "
            "'Rotate the <object> to show the <view> side view.'"
        )
    names = [view.value for view in View]
    if match["view"] not in names:
        raise InvalidInputError(
            f"`prompt` asks for the view {match['view']!r}; expected one of {', '.join(names)}."
        )
    if match["side"] is None and match["view"] not in {"front", "rear"}:
        raise InvalidInputError(
            f"`prompt` says 'the {match['view']} view'; expected 'the {match['view']} side view'."
        )
    return ObjectRotation(_strip_the(match["object"]), match["view"])


def _parse_camera(prompt: str) -> CameraMove:
    lines = prompt.split("\n")
    if len(lines) != len(_CAMERA_LINES):
        missing = [line for line in _CAMERA_LINES if not any(own.startswith(line[:15]) for own in lines)]
        what = f"; the line {missing[0]!r} is missing" if missing else ""
        raise InvalidInputError(
            f"`prompt` looks like a camera move but has {len(lines)} lines; expected 4{what}."
        )
    rotation, zoom = _ROTATION_LINE.fullmatch(lines[1]), _ZOOM_LINE.fullmatch(lines[2])
    is_right = (lines[0] == _CAMERA_LINES[0], rotation, zoom, lines[3] == _CAMERA_LINES[3])
    for line, right, expected in zip(lines, is_right, _CAMERA_LINES, strict=True):
        if not right:
            raise InvalidInputError(
                f"`prompt` looks like a camera move but has the line {line!r}; expected {expected!r}."
            )
    assert rotation is not None
    assert zoom is not None
    if zoom["zoom"] not in ZOOMS:
        raise InvalidInputError(
            f"`prompt` asks for the zoom {zoom['zoom']!r}; expected one of {', '.join(ZOOMS)}."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parsing a prompt is no reason to warn about its values
        return CameraMove(float(rotation["yaw"]), float(rotation["pitch"]), zoom["zoom"])


def _strip_the(name: str) -> str:
    """Drop the article that the "documented" style adds."""
    return name.removeprefix("the ")
