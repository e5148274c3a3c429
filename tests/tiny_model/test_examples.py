"""The shipped example scenes are what the generator draws from their seeds, and training never draws them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import joyimage.tiny
from joyimage.tiny.worlds.scenes import EVALUATION_SEEDS_START, generate

FOLDER = Path(joyimage.tiny.__file__).parent / "examples"
EXAMPLES = json.loads((FOLDER / "examples.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["file"])
def test_example_when_drawn_again_then_is_the_shipped_image(example):
    case = generate(example["task"], example["seed"], example["size"], example["held_out"])

    with Image.open(FOLDER / example["file"]) as image:
        shipped = np.asarray(image)

    # Pillow versions may round a polygon's edge differently.
    assert np.mean(np.abs(shipped.astype(int) - case.source) > 8) < 0.01
    assert example["prompt"] == case.prompt
    assert example["seed"] >= EVALUATION_SEEDS_START


def test_examples_when_listed_then_show_a_plain_edit_and_the_three_spatial_ones():
    assert {example["task"] for example in EXAMPLES} == {"move", "recolor", "rotate", "camera"}
    assert {example["file"] for example in EXAMPLES} == {path.name for path in FOLDER.glob("*.png")}
