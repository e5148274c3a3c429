"""The scores: full marks for the truth, none for a copy, and every way to go wrong is noticed."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from joyimage.tiny.worlds import drawing
from joyimage.tiny.worlds.scenes import CAMERA_MOVES, TASKS, EditCase, generate, render_objects
from joyimage.tiny.worlds.scores import nearest_shape, psnr, score
from tests.optional import present

SEEDS = range(6)


def case_with_bystanders(task: str, first_seed: int = 0) -> EditCase:
    return next(case for seed in range(first_seed, 100) if (case := generate(task, seed)).bystanders)


def drawn(case: EditCase, *objects):
    return render_objects(tuple(objects), present(case.background), case.size)


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("size", [64, 96])
@pytest.mark.parametrize("task", TASKS)
def test_score_when_the_result_is_the_truth_then_is_full(task, size, held_out):
    for seed in SEEDS:
        case = generate(task, seed, size, held_out)

        result = score(case, case.target_image)

        assert result.done
        assert result.strict
        assert result.faults == ()
        assert result.red_gone in (None, True)


@pytest.mark.parametrize("task", [task for task in TASKS if task != "text-to-image"])
def test_score_when_the_input_is_copied_then_is_not_done(task):
    for seed in SEEDS:
        case = generate(task, seed)

        assert not score(case, present(case.source)).done


@pytest.mark.parametrize("task", [task for task in TASKS if task != "remove"])
def test_score_when_the_image_is_empty_then_is_not_done(task):
    for seed in SEEDS:
        case = generate(task, seed)
        empty = np.empty_like(case.target)
        empty[:] = np.median(case.target, (0, 1))

        assert not score(case, empty).done


@pytest.mark.parametrize("task", TASKS)
def test_score_when_the_truth_is_soft_and_noisy_then_is_still_done(task):
    rng = np.random.default_rng(0)
    for seed in SEEDS:
        case = generate(task, seed)
        soft = np.asarray(case.target_image.filter(ImageFilter.GaussianBlur(0.7)))
        noisy = np.clip(soft + rng.normal(0, 5, soft.shape), 0, 255).astype(np.uint8)

        assert score(case, noisy).done


@pytest.mark.parametrize("task", ["add", "replace", "recolor", "move", "text-to-image"])
@pytest.mark.parametrize("wrong", ["shape", "color", "place"])
def test_score_when_the_new_object_is_wrong_then_is_not_done(task, wrong):
    for seed in SEEDS:
        case = generate(task, seed)
        result = present(case.result)
        used = {item.color for item in (*case.before, *case.after)}
        other_color = next(
            color for color in ("blue", "green", "yellow", "purple", "orange") if color not in used
        )
        x, y = result.center
        bad = {
            "shape": replace(result, shape="cross" if result.shape != "cross" else "circle"),
            "color": replace(result, color=other_color),
            "place": replace(result, center=(x + (10 if x < 48 else -10), y)),
        }[wrong]

        assert not score(case, drawn(case, bad, *(item for item in case.after if item != result))).done


@pytest.mark.parametrize("task", ["add", "remove", "recolor", "replace", "move"])
def test_score_when_a_bystander_goes_too_then_is_done_but_not_strict(task):
    case = case_with_bystanders(task)
    lost = case.bystanders[0]

    result = score(case, drawn(case, *(item for item in case.after if item != lost)))

    assert result.done
    assert not result.strict
    assert result.faults == (f"{lost.name} touched",)


@pytest.mark.parametrize("task", ["add", "remove", "recolor", "replace", "move"])
def test_score_when_the_background_changes_then_is_not_strict(task):
    case = generate(task, 1)

    tinted = score(case, np.clip(case.target.astype(int) - 12, 0, 255).astype(np.uint8))

    assert tinted.done
    assert not tinted.strict
    assert "background touched" in tinted.faults


def test_score_when_the_red_box_stays_then_is_not_done():
    for seed in SEEDS:
        case = generate("move", seed)
        left, top, right, bottom = present(case.box)
        for strength in (1.0, 0.5):
            result = case.target.astype(float)
            frame = np.zeros((96, 96), bool)
            frame[top:bottom, left:right] = True
            frame[top + 2 : bottom - 2, left + 2 : right - 2] = False
            result[frame] += strength * (np.array([255, 0, 0]) - result[frame])

            got = score(case, result.astype(np.uint8))

            assert got.red_gone is False
            assert not got.done


def test_score_when_the_moved_object_also_stays_then_is_not_done():
    case = generate("move", 0)

    result = score(case, drawn(case, *case.after, case.subject))

    assert not result.done
    assert "old place not empty" in result.faults


def test_score_when_a_removed_object_stays_as_a_ghost_then_is_not_done():
    case = generate("remove", 0)

    ghost = (0.8 * case.target + 0.2 * present(case.source)).astype(np.uint8)

    assert not score(case, ghost).done


def test_score_when_another_view_is_shown_then_tells_the_angle():
    case = generate("rotate", 0)
    asked = present(case.views)[1]
    for view in range(8):
        result = score(case, present(case.vehicle).render(view, 96)[0])

        steps = (view - asked) % 8
        assert result.view_error_degrees == 45 * min(steps, 8 - steps)
        assert result.done == (view == asked)


def test_score_when_the_camera_moves_otherwise_then_is_not_done():
    for seed in SEEDS[:4]:
        case = generate("camera", seed)
        for move in CAMERA_MOVES:
            before, after = present(case.poses)
            pose = before.moved(*move)

            result = score(case, present(case.turntable).render(pose, 96)[0])

            assert result.view_right == result.done == result.strict == (pose == after)


def test_score_when_the_view_is_right_but_rough_then_is_done_and_not_strict():
    case = generate("rotate", 0)
    rough = np.clip(case.target + np.random.default_rng(0).normal(0, 20, case.target.shape), 0, 255).astype(
        np.uint8
    )

    result = score(case, rough)

    assert result.done
    assert not result.strict


@pytest.mark.parametrize("task", ["rotate", "camera"])
def test_score_when_the_view_is_right_but_soft_then_sharpness_tells(task):
    case = generate(task, 0)
    soft = case.target_image.filter(ImageFilter.GaussianBlur(1))

    assert present(score(case, case.target_image).sharpness) == 1
    assert present(score(case, soft).sharpness) < 0.6
    assert score(case, soft).done


def test_nearest_shape_when_moved_and_scaled_a_little_then_names_the_shape():
    item = present(generate("remove", 0).subject)
    for shape in ("circle", "square", "triangle", "star", "heart", "cross"):
        x, y = item.center
        shown = replace(item, shape=shape, center=(x + 1.3, y - 1.1), side=item.side * 0.94)

        assert nearest_shape(shown.mask, replace(item, shape="circle")) == shape


def test_nearest_shape_when_nothing_is_there_then_says_so():
    item = present(generate("remove", 0).subject)

    assert nearest_shape(np.zeros((96, 96), bool), item) == "nothing"


def test_psnr_when_every_value_is_off_by_one_then_is_48_13():
    black = np.zeros((4, 4, 3), np.uint8)

    assert psnr(black, black) == 60
    assert psnr(black, black + 1) == pytest.approx(48.13, abs=0.01)


def test_score_when_the_size_is_wrong_then_names_both():
    with pytest.raises(ValueError, match=r"48 x 48 x 3; expected 96 x 96 x 3"):
        score(generate("add", 0), Image.new("RGB", (48, 48)))


def partly(case: EditCase, item, share: float, wrong) -> np.ndarray:
    """Return the target with `wrong` in the upper share of the pixels of an object's old place."""
    rows, columns = np.nonzero(item.mask)
    number = round(share * len(rows))
    result = case.target.copy()
    result[rows[:number], columns[:number]] = wrong
    return result


def test_score_when_a_third_of_the_object_stays_at_its_old_place_then_is_not_done():
    for seed in SEEDS:
        case = generate("move", seed)
        subject = present(case.subject)
        stays = partly(case, subject, 0.3, drawing.COLORS[subject.color])

        result = score(case, stays)

        assert not result.done
        assert "old place not empty" in result.faults


@pytest.mark.parametrize("task", ["recolor", "replace"])
def test_score_when_a_third_of_the_old_color_is_left_then_is_not_done(task):
    for seed in SEEDS:
        case = generate(task, seed)

        subject = present(case.subject)
        result = score(case, partly(case, subject, 0.3, drawing.COLORS[subject.color]))

        assert not result.done
        assert f"{subject.color} left over" in result.faults


@pytest.mark.parametrize("task", ["add", "remove", "recolor", "replace", "move"])
def test_score_when_a_bystander_is_shifted_a_little_then_is_done_but_not_strict(task):
    case = case_with_bystanders(task)
    item = case.bystanders[0]
    shifted = replace(item, center=(item.center[0] + 1.5, item.center[1]))

    result = score(case, drawn(case, *(shifted if other == item else other for other in case.after)))

    assert result.done
    assert not result.strict
    assert f"{item.name} touched" in result.faults
