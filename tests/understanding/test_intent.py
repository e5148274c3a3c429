"""Free words become spatial edits; ordinary instructions stay what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from joyimage.edits import Camera, Move, Rotate
from joyimage.spatial import CameraMove, ObjectMove, ObjectRotation
from joyimage.understanding.intent import parse, show
from tests import random_models

DATA = Path(__file__).parents[1] / "data" / "intent"
IMAGE = random_models.make_image(0, 64, 64)


def key(edit: Move | Rotate | Camera | None) -> str:
    """Return an edit as the data files write it."""
    if edit is None:
        return "none"
    given: dict[str, Any] = edit.given()
    if isinstance(edit, Move):
        return f"move {given['object']}"
    if isinstance(edit, Rotate):
        return f"rotate {given['object']} {given['view']}"
    angles = [f"{name}={given[name]:g}" for name in ("yaw", "pitch") if name in given]
    return " ".join(["camera", *angles, *([f"zoom={given['zoom']}"] if "zoom" in given else [])])


def test_paraphrases_when_parsed_then_nearly_all_become_the_edit_that_they_mean() -> None:
    rows = [line.split("\t") for line in (DATA / "paraphrases.tsv").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len({text for text, _ in rows}) >= 200

    wrong = [(text, expected, key(parse(text))) for text, expected in rows if key(parse(text)) != expected]

    assert len(wrong) <= len(rows) / 20, wrong


def test_ordinary_instructions_when_parsed_then_hardly_any_is_caught() -> None:
    texts = (DATA / "ordinary.txt").read_text(encoding="utf-8").splitlines()
    assert len(texts) == len(set(texts)) >= 200

    caught = [(text, key(parse(text))) for text in texts if parse(text) is not None]

    assert len(caught) <= len(texts) / 100, caught


def test_template_when_parsed_then_its_edit_and_a_move_with_a_drawn_box_stays_a_prompt() -> None:
    assert parse(ObjectRotation("car", "rear").prompt) == Rotate(object="car", view="rear")
    assert parse(CameraMove(45, 30, "in").prompt) == Camera(yaw=45, pitch=30, zoom="in")
    assert parse(ObjectMove("car", None).prompt) is None


@pytest.mark.parametrize("text", ["", "   ", "?", "from", "zoom", "turn", "put", "看", "把", "show it " * 60])
def test_text_when_it_says_nothing_then_no_edit(text: str) -> None:
    assert parse(text) is None


def test_camera_when_parts_contradict_each_other_then_no_edit() -> None:
    assert parse("zoom in and zoom out") is None
    assert parse("show it from the left and make the car red") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("how would the castle look from behind", "camera yaw=180"),
        ("go further back so that we see everything", "camera zoom=out"),
        ("crouch down and look up at the statue", "camera pitch=-45"),
        ("have the plane's nose point right", "rotate plane right"),
        ("the robot's face toward us, please", "rotate robot front"),
        ("turn the horse so that we look at it from the rear", "rotate horse rear"),
        ("can the lamp be next to the sofa", "move lamp"),
        ("can the cup be made of glass", "none"),
        ("drop the ball into the basket", "move ball"),
        ("drop the saturation", "none"),
        ("让椅子背对着我", "rotate chair rear"),
        ("房子从上面看会是什么样", "camera pitch=45"),
    ],
)
def test_text_when_it_asks_wishes_or_says_what_for_then_the_edit_that_it_means(
    text: str, expected: str
) -> None:
    assert key(parse(text)) == expected


class Choices:
    """A reader that finds one answer likely."""

    has_language = compares_images = True

    def __init__(self, answer: str, probability: float = 0.95, *, reads_any_text: bool = True) -> None:
        self.answer, self.probability, self.reads_any_text = answer, probability, reads_any_text
        self.asked: list[str] = []

    def compares(self, images: Any) -> bool:
        raise AssertionError

    def own_words(self, name: str) -> str:
        return name

    def yes(self, images: Any, asked: Any) -> list[float]:
        raise AssertionError

    def confirm(self, images: Any, answers: Any) -> list[float]:
        raise AssertionError

    def choose(self, images: Any, question: str, answers: Any) -> list[float]:
        self.asked.append(question)
        rest = (1 - self.probability) / (len(answers) - 1)
        return [self.probability if answer == self.answer else rest for answer in answers]


UNUSUAL = "have the camera float over to the left of the thing"


def test_model_when_rules_find_nothing_then_its_choice_counts_if_it_is_nearly_sure() -> None:
    left = "Show the scene from the left."

    assert parse(UNUSUAL) is None
    assert parse(UNUSUAL, Choices(left), IMAGE) == Camera(yaw=-90)
    assert parse(UNUSUAL, Choices(left, 0.8), IMAGE) is None
    assert parse(UNUSUAL, Choices("Something else."), IMAGE) is None
    rear = parse(UNUSUAL, Choices("Rotate the object to its rear view."), IMAGE)
    assert rear == Rotate(object="object", view="rear")


def test_model_when_it_reads_no_free_text_or_the_text_has_no_hint_then_not_asked() -> None:
    for text, reader in (
        (UNUSUAL, Choices("Show the scene from the left.", reads_any_text=False)),
        ("Make it red.", Choices("Show the scene from the left.")),
        ("zoom in", Choices("Show the scene from the left.")),
    ):
        parse(text, reader, IMAGE)
        assert reader.asked == []


def test_show_when_an_edit_is_found_then_a_few_words() -> None:
    assert show(Rotate(object="car", view="rear")) == "rotate the car to its rear view"
    assert show(Camera(yaw=-90, zoom="in")) == "move the camera: yaw -90°, zoom in"
    assert show(Move(object="cup")).startswith("move the cup")
