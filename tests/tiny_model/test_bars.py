"""What the shipped model reads on unseen scenes, against what is asked of it: minutes, so marked slow."""

from __future__ import annotations

from typing import Any

import pytest

from joyimage.loading import load_pipeline
from joyimage.tiny.reading_suite import DrawnQuestions

pytestmark = pytest.mark.slow

BARS = {
    **dict.fromkeys(("color", "shape", "presence"), 0.97),
    **dict.fromkeys(("count", "place", "view"), 0.93),
    **dict.fromkeys(("description", "changed"), 0.90),
}
NUM = 200  # as in the model card


@pytest.fixture(scope="module")
def pipe() -> Any:
    return load_pipeline("tiny", device="cpu", dtype="float32").pipe


@pytest.mark.parametrize("kind", BARS)
def test_answers_when_asked_about_unseen_scenes_then_as_often_right_as_asked_for(
    pipe: Any, kind: str
) -> None:
    suite = DrawnQuestions(seed=0, size=pipe.config["base_size"])
    cases = suite.cases(kind, NUM, held_out=False)

    right = [suite.is_right(case, pipe.describe(list(case.images), case.question)) for case in cases]

    assert sum(right) >= BARS[kind] * NUM
