"""The example images: drawn from what is written beside them, never part of training, and safe to write."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from joyimage.errors import InvalidInputError
from joyimage.spatial import draw_red_box
from joyimage.tiny.examples import NAMES, load_example, read_example, write_examples
from joyimage.tiny.worlds.scenes import EVALUATION_SEEDS_START, generate
from joyimage.tiny.worlds.truth import scene_from_dict, scene_to_dict
from scripts import draw_examples

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", NAMES)
def test_example_when_drawn_from_its_description_then_is_the_shipped_image(name: str) -> None:
    example = load_example(name)

    drawn = Image.fromarray(example.scene.render())
    if example.box is not None:
        drawn = draw_red_box(drawn, example.box)

    # Pillow versions may round a polygon's edge differently.
    difference = np.abs(np.asarray(example.image, int) - np.asarray(drawn, int))
    assert np.mean(difference > 8) < 0.01
    assert scene_from_dict(json.loads(json.dumps(scene_to_dict(example.scene)))) == example.scene


def test_examples_when_drawn_again_then_are_the_shipped_descriptions_and_batch(tmp_path: Path) -> None:
    draw_examples.main(tmp_path / "drawn")
    write_examples(tmp_path / "shipped")

    for path in (tmp_path / "drawn").iterdir():
        if path.suffix != ".png":
            assert path.read_text() == (tmp_path / "shipped" / path.name).read_text(), path.name
    assert {path.stem for path in (tmp_path / "drawn").glob("*.png")} == set(NAMES)
    # Training never draws them: its seeds end long before.
    assert generate("rotate", 1_900_000_000).seed >= EVALUATION_SEEDS_START


def test_write_examples_when_run_twice_then_leaves_everything_as_it_is(tmp_path: Path) -> None:
    first = {path: path.read_bytes() for path in write_examples(tmp_path / "images")}

    assert {path: path.read_bytes() for path in write_examples(tmp_path / "images")} == first
    assert {path.name for path in first} >= {"shapes.png", "shapes.json", "edits.jsonl", "README.md"}


def test_write_examples_when_a_file_differs_then_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "shapes.png").write_bytes(b"mine")

    with pytest.raises(InvalidInputError, match=r"shapes\.png already exists with other content"):
        write_examples(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["shapes.png"]
    assert (tmp_path / "shapes.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"scene": {"kind": "moon"}, "box": null, "commands": []}', '{"scene": {}, "box": null}'],
)
def test_read_example_when_the_file_is_no_description_then_names_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "scene.json").write_text(text)

    with pytest.raises(InvalidInputError, match=r"scene\.json is not the description"):
        read_example(tmp_path / "scene.json")


def test_load_example_when_unknown_then_lists_the_names() -> None:
    with pytest.raises(InvalidInputError, match="'moon'; expected one of shapes"):
        load_example("moon")
