"""Questions about drawn scenes, with their exact answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from joyimage.spatial import View
from joyimage.tiny.worlds.drawing import COLORS, PLACES, SHAPES, place_phrase, with_article
from joyimage.tiny.worlds.scenes import HELD_OUT_PAIRS, HELD_OUT_SOLIDS, SceneObject
from joyimage.tiny.worlds.truth import FlatScene, TurntableScene, VehicleScene
from joyimage.tiny.worlds.turntable import SOLIDS
from joyimage.tiny.worlds.vehicle import VEHICLE_COLORS, VEHICLES
from joyimage.understanding import questions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from joyimage.tiny.worlds.truth import Scene

T = TypeVar("T")

KINDS = ("color", "shape", "presence", "count", "place", "view", "background", "description")
"""Kinds of questions about one image, without those that training alone asks."""

NOT_DRAWN = "This is not a drawn scene, so I cannot read it."
NOTHING_CHANGED = "Nothing changed."

# The first text of each kind is asked half of the time.
_COLOR = ("What color is the {}?", "Which color does the {} have?", "What is the color of the {}?")
_SHAPE = ("What shape is the {} object?", "Which shape is {}?", "What is the shape of the {} object?")
_AT_PLACE = (questions.object_at("{}"), "Which object is {}?")
_COUNT = (questions.COUNT, "How many objects are in the image?", "Count the objects.")
_PLACE = ("Where is the {}?", "Where in the image is the {}?", "In which part of the image is the {}?")
_VIEW = ("Which way does the {} point?", "From which side is the {} seen?")
_BACKGROUND = (questions.BACKGROUND, "Which color does the background have?")
_PRESENCE = ("Is there {}?", "Is there {} in the image?", "Do you see {}?", "Does the image show {}?")
_DESCRIPTION = (
    questions.DESCRIBE,
    "Describe this image.",
    "Describe the image.",
    "What is in this image?",
    "What does the image show?",
    "What do you see?",
)
# Things that no scene shows. Training asks for them so that an unknown word is answered with no.
_STRANGERS = tuple(
    """
    elephant cat dog tree house person man woman child flower bird apple banana bottle cup table
    lamp window door bicycle truck train plane horse cow sheep mountain river cloud sun moon book
    phone computer clock shoe hat ball bridge road fish key spoon guitar piano ring rocket robot
    dragon monkey lion tiger pencil bag bed sofa mirror cake pizza egg cheese tower castle ship bus
    motorcycle umbrella snake spider butterfly leaf stone fire ladder
    """.split()  # noqa: SIM905 - as a list it would take eighty lines
)
_STRANGE_COLORS = ("red", "white", "brown", "pink", "golden", "grey")  # codespell:ignore grey
_SYLLABLES = tuple("ba co du fe gi lo ma ne pu ra si to ve wo xi ya zu ker lan mip nor sel tav".split())  # noqa: SIM905
# Objects nearer to the border of a cell than this, in 96ths of the image, are in no place that has a name.
_BORDER = 4


@dataclass(frozen=True)
class Ask:
    """A question with its only right answer.

    Attributes:
        kind: One of `KINDS`, or "changed", "done", "kept", "shows", "in box", "drawn".
        question: What is asked.
        answer: The answer.
    """

    kind: str
    question: str
    answer: str


def about(scene: Scene | None, rng: np.random.Generator) -> list[Ask]:
    """Ask about one image, once or twice in every kind that fits it.

    Args:
        scene: What it shows; None if it is not a drawn scene.
        rng: Chooses objects and texts.
    """
    if scene is None:
        return _about_other(rng)
    drawn = Ask("drawn", questions.DRAWN, questions.YES)
    description = Ask("description", _choose(rng, _DESCRIPTION), describe(scene))
    if isinstance(scene, FlatScene):
        return [drawn, description, *_about_flat(scene, rng)]
    if isinstance(scene, VehicleScene):
        return [drawn, description, *_about_vehicle(scene, rng)]
    return [drawn, description, *_about_turntable(scene, rng)]


def about_box(scene: FlatScene, boxed: SceneObject | None, rng: np.random.Generator) -> list[Ask]:
    """Ask which objects are inside a red box that is drawn around one of them, or around none."""
    return [
        Ask("in box", questions.object_is_in_box(_name(item, rng)), _yes_no(item == boxed))
        for item in _sample(rng, scene.objects, 2)
    ]


def describe(scene: Scene) -> str:
    """Describe a scene in one sentence."""
    if isinstance(scene, VehicleScene):
        name = with_article(f"{scene.vehicle.color} {scene.vehicle.kind}")
        return _sentence(f"{name} in {list(View)[scene.view].value} view.")
    if isinstance(scene, TurntableScene):
        solids = sorted(scene.turntable.solids, key=lambda solid: SOLIDS.index(solid.form))
        names = [with_article(f"{solid.color} {solid.form}") for solid in solids]
        return f"A turntable with {' and '.join(names)}."
    ground = f"on {with_article(scene.background)} background."
    parts = [f"{with_article(item.name)} {place_phrase(cell_of(item))}" for item in _in_order(scene.objects)]
    return _sentence(f"{_enumerate(parts) if parts else 'nothing'} {ground}")


def cell_of(item: SceneObject) -> str:
    """Return the name of the cell that an object's center is in."""
    column, row = (min(2, max(0, int(3 * position / item.size))) for position in item.center)
    return next(place for place, cell in PLACES.items() if cell == (column, row))


def place_of(item: SceneObject) -> str | None:
    """Return the name of an object's place; None near the border of two."""
    cell = item.size / 3
    offsets = [position % cell for position in item.center]
    border = _BORDER * item.size / 96
    return cell_of(item) if all(border <= offset <= cell - border for offset in offsets) else None


def _about_flat(scene: FlatScene, rng: np.random.Generator) -> list[Ask]:
    asks = [
        Ask("count", _choose(rng, _COUNT), questions.NUMBERS[len(scene.objects)]),
        Ask("background", _choose(rng, _BACKGROUND), _sentence(scene.background)),
        _presence(rng, [item.name for item in scene.objects], SHAPES, tuple(COLORS), HELD_OUT_PAIRS, True),
        _presence(rng, [item.name for item in scene.objects], SHAPES, tuple(COLORS), HELD_OUT_PAIRS, False),
        _missing(rng, [item.shape for item in scene.objects], SHAPES),
        _at_place(scene, rng),
    ]
    for item in _sample(rng, scene.objects, 2):
        asks += [
            Ask("color", _choose(rng, _COLOR).format(item.shape), _sentence(item.color)),
            Ask("shape", _choose(rng, _SHAPE).format(item.color), _sentence(item.shape)),
        ]
        place = place_of(item)
        if place is not None:
            question = _choose(rng, _PLACE).format(_name(item, rng))
            asks.append(Ask("place", question, _sentence(place_phrase(place))))
    return asks


def _about_vehicle(scene: VehicleScene, rng: np.random.Generator) -> list[Ask]:
    kind, color = scene.vehicle.kind, scene.vehicle.color
    name = kind if rng.random() < 0.5 else f"{color} {kind}"
    text = questions.visible_side(name) if rng.random() < 0.5 else _choose(rng, _VIEW).format(name)
    view = list(View)[scene.view].value
    return [
        Ask("view", questions.visible_side(kind), view),
        Ask("view", text, view),
        Ask("color", _choose(rng, _COLOR).format(kind), _sentence(color)),
        Ask("shape", _choose(rng, _SHAPE).format(color), _sentence(kind)),
        Ask("count", _choose(rng, _COUNT), "One"),
        _presence(rng, [f"{color} {kind}"], VEHICLES, VEHICLE_COLORS, frozenset(), True),
        _presence(rng, [f"{color} {kind}"], VEHICLES, VEHICLE_COLORS, frozenset(), False),
    ]


def _about_turntable(scene: TurntableScene, rng: np.random.Generator) -> list[Ask]:
    solids = scene.turntable.solids
    names = [f"{solid.color} {solid.form}" for solid in solids]
    solid = _choose(rng, solids)
    return [
        Ask("color", _choose(rng, _COLOR).format(solid.form), _sentence(solid.color)),
        Ask("shape", _choose(rng, _SHAPE).format(solid.color), _sentence(solid.form)),
        Ask("count", _choose(rng, _COUNT), questions.NUMBERS[len(solids)]),
        _presence(rng, names, SOLIDS, tuple(COLORS), HELD_OUT_SOLIDS, True),
        _presence(rng, names, SOLIDS, tuple(COLORS), HELD_OUT_SOLIDS, False),
        _missing(rng, [one.form for one in solids], SOLIDS),
    ]


def _about_other(rng: np.random.Generator) -> list[Ask]:
    noun = _choose(rng, (*SHAPES, *VEHICLES, *SOLIDS))
    known = noun if rng.random() < 0.5 else f"{_choose(rng, tuple(COLORS))} {noun}"
    texts: list[tuple[str, ...]] = [_COUNT, _BACKGROUND, _COLOR, _PLACE, _VIEW]
    return [
        Ask("drawn", questions.DRAWN, questions.NO),
        Ask("description", questions.DESCRIBE, NOT_DRAWN),
        Ask("description", _choose(rng, _DESCRIPTION), NOT_DRAWN),
        Ask("drawn", _choose(rng, _choose(rng, texts)).format(noun), NOT_DRAWN),
        Ask("presence", _is_there(rng, known), questions.NO),
        Ask("presence", _is_there(rng, _stranger(rng)), questions.NO),
    ]


def _presence(
    rng: np.random.Generator,
    names: Sequence[str],
    nouns: tuple[str, ...],
    colors: tuple[str, ...],
    held_out: frozenset[tuple[str, str]],
    is_there: bool,
) -> Ask:
    """Ask for an object that is there, or for one that isn't: most often one that shares its shape or its color."""
    if is_there and names:
        name = _choose(rng, names)
        return Ask("presence", _is_there(rng, name if rng.random() < 0.7 else name.split()[1]), questions.YES)
    shown = {tuple(reversed(name.split())) for name in names}
    if names and rng.random() < 0.6:
        color, noun = _choose(rng, names).split()
        near = [(noun, other) for other in colors] + [(other, color) for other in nouns]
        candidates = [pair for pair in near if pair not in shown and pair not in held_out]
        noun, color = _choose(rng, candidates)
        return Ask("presence", _is_there(rng, f"{color} {noun}"), questions.NO)
    if rng.random() < 0.5:
        missing = [noun for noun in (*SHAPES, *VEHICLES, *SOLIDS) if noun not in {noun for noun, _ in shown}]
        return Ask("presence", _is_there(rng, _choose(rng, missing)), questions.NO)
    return Ask("presence", _is_there(rng, _stranger(rng)), questions.NO)


def _missing(rng: np.random.Generator, shown: Sequence[str], nouns: tuple[str, ...]) -> Ask:
    """Ask for the color or the place of something that isn't there."""
    noun = _choose(rng, [noun for noun in nouns if noun not in shown])
    text = _choose(rng, (*_COLOR, *_PLACE)).format(noun)
    return Ask("missing", text, f"There is no {noun} in the image.")


def _at_place(scene: FlatScene, rng: np.random.Generator) -> Ask:
    by_place = {cell_of(item): item for item in scene.objects}
    place = _choose(rng, tuple(by_place) if by_place and rng.random() < 0.8 else tuple(PLACES))
    name = with_article(by_place[place].name) if place in by_place else "nothing"
    return Ask("shape", _choose(rng, _AT_PLACE).format(place_phrase(place)), _sentence(name))


def _is_there(rng: np.random.Generator, name: str) -> str:
    if rng.random() < 0.5:
        return questions.object_is_present(name)
    return _choose(rng, _PRESENCE).format(with_article(name))


def _stranger(rng: np.random.Generator) -> str:
    """Name something that no scene shows: a usual word, or one that does not exist."""
    if rng.random() < 0.3:
        noun = "".join(_choose(rng, _SYLLABLES) for _ in range(int(rng.integers(2, 4))))
    else:
        noun = _choose(rng, _STRANGERS)
    return noun if rng.random() < 0.5 else f"{_choose(rng, (*COLORS, *_STRANGE_COLORS))} {noun}"


def _name(item: SceneObject, rng: np.random.Generator) -> str:
    """Name an object with its color or without; a scene never has two objects of one shape."""
    return item.name if rng.random() < 0.6 else item.shape


def _in_order(objects: Sequence[SceneObject]) -> list[SceneObject]:
    """Order objects as one reads: by row, then by column."""
    return sorted(objects, key=lambda item: (*reversed(PLACES[cell_of(item)]), item.center[0]))


def _enumerate(parts: Sequence[str]) -> str:
    return " and ".join([*([", ".join(parts[:-1])] if parts[1:] else []), parts[-1]])


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _yes_no(is_true: bool) -> str:
    return questions.YES if is_true else questions.NO


def _sample(rng: np.random.Generator, items: Sequence[SceneObject], count: int) -> list[SceneObject]:
    return [items[int(index)] for index in rng.permutation(len(items))[:count]]


def _choose(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]
