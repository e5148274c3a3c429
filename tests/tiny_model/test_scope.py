"""What the embedded model can be asked for: no scene of its own is out of scope, photographs and new words are."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from joyimage.evaluation.editors import round_trip_editor
from joyimage.loading import load_pipeline
from joyimage.tiny.scope import is_drawn, out_of_scope, unknown_words, unreadable, vocabulary
from joyimage.tiny.worlds.scenes import TASKS, generate


@pytest.mark.parametrize("task", TASKS)
def test_scene_when_drawn_then_in_scope(task: str) -> None:
    for seed in range(20):
        case = generate(task, seed)
        images = [one for one in (case.source_image, case.target_image) if one is not None]

        assert out_of_scope(case.prompt, images) == []


def test_vocabulary_when_compared_with_prompts_then_no_word_that_training_never_showed() -> None:
    flat = [task for task in TASKS if task not in {"rotate", "camera"}]
    prompts = [generate(task, seed).prompt for task in flat for seed in range(150)]
    prompts += [generate(task, seed).prompt for task in ("rotate", "camera") for seed in range(60)]

    used = {word for prompt in prompts for word in re.findall(r"[^\W\d_]+", prompt.lower())}

    assert used == vocabulary()


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("Give it a vintage look", ["give", "it", "vintage", "look"]),
        ("Remove the elephant.", ["elephant"]),
        ("Remove the green heart.", []),
        ("", []),
    ],
)
def test_words_when_unknown_then_named(prompt: str, unknown: list[str]) -> None:
    assert unknown_words(prompt) == unknown


def test_image_when_large_or_photographic_then_out_of_scope() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8))
    gradient = Image.radial_gradient("L").resize((300, 200)).convert("RGB")

    assert not is_drawn(noise)
    assert "photograph" in out_of_scope("", [noise])[0]
    assert is_drawn(gradient)
    assert "1024x768" in out_of_scope("", [Image.new("RGB", (1024, 768))])[0]


def test_image_when_a_page_of_text_or_of_many_objects_then_unreadable() -> None:
    page, crowd = (Image.new("RGB", size, "white") for size in ((800, 600), (96, 96)))
    for row in range(25):
        ImageDraw.Draw(page).text((20, 10 + 22 * row), "def main(argv): return 0", fill="black")
    for column in range(10):
        ImageDraw.Draw(crowd).rectangle((9 * column, 40, 9 * column + 6, 46), fill="blue")

    assert "separate parts" in str(unreadable(page))
    assert unreadable(crowd) == "the image has 10 separate parts, and a drawn scene has at most 4 objects"
    assert unreadable(Image.new("RGB", (96, 96), "white")) is None


@pytest.mark.parametrize("task", ["rotate", "camera"])
def test_image_when_an_edit_blurred_a_scene_then_still_readable(task: str) -> None:
    pipe: Any = load_pipeline("tiny", device="cpu", dtype="float32").pipe
    images = round_trip_editor(pipe)([generate(task, seed) for seed in range(20)])
    larger = [image.resize((300, 300), Image.Resampling.BICUBIC) for image in images]

    assert [unreadable(image) for image in (*images, *larger)] == [None] * 40


def test_question_when_not_in_english_then_unreadable() -> None:
    image = Image.new("RGB", (96, 96), "white")

    assert unreadable(image, "图里有什么") == "the question is not in English"
    assert unreadable(image, "What is at the top?") is None
