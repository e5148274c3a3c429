"""The scripts in examples/ are short, run as they are, and make what they say."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.documented import Scorer
from tests.serving.parts import Process

SCRIPTS = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
EXPECTED = {
    "edit": ("recolored.png",),
    "move": ("moved.png", "turned.png", "orbited.png"),
    "batch": ("recolored.png", "removed.png", "added.png"),
    "session": ("session-0.png", "session-1.png"),
    "client": ("from_server.png",),
    "callback": ("removed.png",),
}


def test_scripts_when_listed_then_are_the_six_and_each_is_under_40_lines() -> None:
    assert {path.stem for path in SCRIPTS} == set(EXPECTED)
    for path in SCRIPTS:
        assert len(path.read_text("utf-8").splitlines()) < 40, path


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_script_when_run_then_every_image_is_scored_and_saved(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = (path for path in SCRIPTS if path.stem == name)
    monkeypatch.chdir(tmp_path)
    server = Process(tmp_path, base_size=96) if name == "client" else None
    monkeypatch.setattr(sys, "argv", [str(path), *([server.url] if server else [])])
    scorer = Scorer()
    scorer.learn_shipped()

    try:
        with scorer.watching(monkeypatch):
            runpy.run_path(str(path), run_name="__main__")
    finally:
        if server:
            server.kill()

    assert len(scorer.scored) == len(EXPECTED[name])
    for file in EXPECTED[name]:
        with Image.open(file) as image:
            assert image.size == (96, 96)
