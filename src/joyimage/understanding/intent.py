"""Which spatial edit free words ask for: rules first, then the model where it reads any text.

The published model hardly follows a free request for another view, and follows the trained templates well.

Source: SpatialEdit, arXiv 2604.04911, for the templates.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Protocol

from joyimage import spatial
from joyimage.edits import Camera, Move, Rotate
from joyimage.understanding.phrases import chinese, english
from joyimage.understanding.phrases.turns import combine

if TYPE_CHECKING:
    from PIL.Image import Image

    from joyimage.understanding.judge import Reader
    from joyimage.understanding.phrases.turns import Turn

Intent = Move | Rotate | Camera
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_LONGEST = 300
"""Characters; a longer text is no short request in free words."""

_HINT = re.compile(
    r"\b(?:view|angle|perspective|camera|zoom|closer|rotate|turn|spin|face|facing|side|behind|above|below|orbit|move|put|place)\b"
    r"|视角|镜头|角度|转|旋转|朝|面|移|放到|拉|俯|仰",
    re.IGNORECASE,
)
_QUESTION = "An image editor was told: {} Which of these was asked for? Answer with one line."
_OTHER = "Something else."
_LEAST_LIKELY = 0.9
"""Probability that the model's choice must have: an ordinary instruction that is caught costs more than one missed."""
_CAMERAS: dict[str, Camera] = {
    "Show the scene from the left.": Camera(yaw=-90),
    "Show the scene from the right.": Camera(yaw=90),
    "Show the scene from behind.": Camera(yaw=180),
    "Show the scene from above.": Camera(pitch=45),
    "Show the scene from below.": Camera(pitch=-45),
    "Move the camera closer.": Camera(zoom="in"),
    "Move the camera away.": Camera(zoom="out"),
}


class _Language(Protocol):
    def turns_of(self, clause: str) -> list[Turn] | None: ...
    def rotation_of(self, clause: str) -> Rotate | None: ...
    def move_of(self, clause: str) -> Move | None: ...
    def tidy(self, text: str) -> str: ...
    def clauses_of(self, text: str) -> list[str]: ...


def parse(text: str, reader: Reader | None = None, image: Image | None = None) -> Intent | None:
    """Return the spatial edit that a text asks for, in English or Chinese.

    Args:
        text: An instruction in free words, or a template.
        reader: A model to ask where no rule knows the text; asked only if it reads any text.
        image: The image that the text is about, for the model.

    Returns:
        The edit, a move without its box; None for every other instruction.
    """
    try:
        template = spatial.parse(text)
    except ValueError:  # similar to a template, but free words too
        template = None
    if template is not None:
        return _edit_of(template)
    if not text.strip() or len(text) > _LONGEST:
        return None
    found = _by_rules(text)
    if (
        found is None
        and reader is not None
        and image is not None
        and reader.reads_any_text
        and _HINT.search(text)
    ):
        found = _by_model(text, reader, image)
    return found


def show(edit: Intent) -> str:
    """Return what an edit does in a few words, for showing it before it runs."""
    given: dict[str, Any] = edit.given()
    if isinstance(edit, Move):
        return f"move the {given['object']}; where to is a box"
    if isinstance(edit, Rotate):
        return f"rotate the {given['object']} to its {given['view']} view"
    parts = [f"{name} {given[name]:+g}°" for name in ("yaw", "pitch") if given.get(name)]
    if given.get("zoom", "unchanged") != "unchanged":
        parts.append(f"zoom {given['zoom']}")
    return f"move the camera: {', '.join(parts)}"


def _edit_of(template: spatial.ObjectMove | spatial.ObjectRotation | spatial.CameraMove) -> Intent | None:
    """Return the edit whose prompt a text is; none for a move, whose red box is in the image already."""
    if isinstance(template, spatial.ObjectRotation):
        return Rotate(object=template.object, view=str(template.view))
    if isinstance(template, spatial.CameraMove):
        return Camera(yaw=template.yaw, pitch=template.pitch, zoom=template.zoom)
    return None


def _by_rules(text: str) -> Intent | None:
    """Return the edit if every clause of a text asks for the same one."""
    language: _Language = chinese if _CHINESE.search(text) else english
    whole = language.tidy(text)
    found = _one_clause(whole, language)
    if found is not None:
        return found
    turns: list[Turn] = []
    for clause in language.clauses_of(whole):
        own = language.turns_of(clause)
        if own is None:
            return None
        turns += own
    return combine(turns)


def _one_clause(text: str, language: _Language) -> Intent | None:
    turns = language.turns_of(text)
    if turns is not None:
        return combine(turns)
    return language.rotation_of(text) or language.move_of(text)


def _by_model(text: str, reader: Reader, image: Image) -> Intent | None:
    """Return the edit that the model finds most likely among all templates, if it is nearly sure of it."""
    rotations = {f"Rotate the object to its {view.value} view.": view.value for view in spatial.View}
    answers = [_OTHER, *_CAMERAS, *rotations]
    probabilities = reader.choose([image], _QUESTION.format(text), answers)
    probability, answer = max(zip(probabilities, answers, strict=True))
    if probability < _LEAST_LIKELY or answer == _OTHER:
        return None
    return _CAMERAS[answer] if answer in _CAMERAS else Rotate(object="object", view=rotations[answer])
