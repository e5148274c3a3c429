"""What the checks say of right and wrong edits: "done" only where pixels show it, never a reassurance."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from joyimage.spatial.checks import COLORS, SpatialChecks, check_edit, has_color
from joyimage.tiny.worlds.drawing import COLORS as DRAWN_COLORS
from joyimage.tiny.worlds.scenes import EditCase, SceneObject, generate, render_objects

SEEDS = range(920_000, 920_040)


def drawn(case: EditCase, objects: tuple[SceneObject, ...]) -> Image.Image:
    assert case.background is not None
    return Image.fromarray(render_objects(objects, case.background, case.size))


def cases() -> list[EditCase]:
    """Moves in scenes with more than one object."""
    found = [case for case in (generate("move", seed) for seed in SEEDS) if len(case.before) > 1]
    assert len(found) > 15
    return found


def test_move_when_right_and_named_by_color_then_done_and_without_color_then_not_judged() -> None:
    for case in cases():
        assert case.subject is not None
        before = drawn(case, case.before)

        named = check_edit(before, case.target_image, case.box, case.subject.name)
        shape = check_edit(before, case.target_image, case.box, case.subject.shape)

        assert named.verdict == "done", (case.seed, named.summary)
        assert shape.verdict == "not judged"
        assert "not judged" in shape.summary


def test_move_when_another_object_moved_then_failed() -> None:
    for case in cases():
        assert case.subject is not None
        assert case.result is not None
        other = next(one for one in case.before if one is not case.subject)
        moved = replace(other, center=case.result.center, side=case.result.side)
        after = tuple(one for one in case.before if one is not other)

        checks = check_edit(
            drawn(case, case.before), drawn(case, (*after, moved)), case.box, case.subject.name
        )

        if other.color == case.subject.color:
            continue
        assert checks.verdict == "failed", (case.seed, checks.summary)
        assert f"not {case.subject.color}" in checks.summary


def test_move_when_another_object_vanished_than_arrived_then_failed() -> None:
    for case in cases():
        assert case.subject is not None
        assert case.result is not None
        other = next(one for one in case.before if one is not case.subject)
        after = (*(one for one in case.before if one is not other), case.result)

        checks = check_edit(drawn(case, case.before), drawn(case, after), case.box, "thing")

        assert checks.verdict == "failed", (case.seed, checks.summary)
        assert "colors of what left" in checks.summary


def test_move_when_copied_removed_or_everything_changed_then_failed() -> None:
    for case in cases():
        assert case.subject is not None
        assert case.result is not None
        others = tuple(one for one in case.before if one is not case.subject)
        before = drawn(case, case.before)
        background = Image.new("RGB", before.size, (7, 120, 60))

        for after in (before, drawn(case, (*case.before, case.result)), drawn(case, others), background):
            assert check_edit(before, after, case.box, case.subject.name).verdict == "failed"


@pytest.mark.parametrize("task", ["rotate", "camera", "recolor"])
def test_edit_without_a_box_when_anything_changed_then_its_share_and_not_judged(task: str) -> None:
    case = generate(task, 5)
    assert case.source_image is not None

    checks = check_edit(case.source_image, case.target_image)

    assert checks.verdict == "not judged"
    assert checks.summary.endswith("of the image changed; whether it is the right change is not judged.")
    assert check_edit(case.source_image, case.source_image).verdict == "failed"


def test_checks_when_written_then_json_with_verdict_and_summary() -> None:
    checks = SpatialChecks(changed=0.0612)

    written = json.loads(json.dumps(checks.to_dict()))

    assert written["verdict"] == "not judged"
    assert written["summary"] == "6% of the image changed; whether it is the right change is not judged."
    assert written["changed"] == 0.0612


@pytest.mark.parametrize("name", sorted(DRAWN_COLORS))
def test_color_when_drawn_then_has_its_name_and_no_far_one(name: str) -> None:
    pixel = np.array([DRAWN_COLORS[name]], dtype=np.uint8)

    assert has_color(pixel, name).all()
    far = {
        "red": "green",
        "orange": "blue",
        "yellow": "blue",
        "green": "red",
        "blue": "yellow",
        "purple": "green",
    }
    assert not has_color(pixel, far.get(name, "yellow")).any()
    assert set(COLORS) >= set(DRAWN_COLORS)
