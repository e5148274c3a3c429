"""The drawn scenes: what a prompt says is what the truth says is what the images show."""

import numpy as np
import pytest
from PIL import ImageDraw

from joyimage.tiny.worlds import scenes, solids, turntable, vehicle
from joyimage.tiny.worlds.scenes import HELD_OUT_PAIRS, HELD_OUT_SOLIDS, HELD_OUT_VIEWS, TASKS, generate
from tests.optional import present

FLAT_TASKS = ("add", "remove", "recolor", "replace", "move")


def is_red(pixels):
    return (pixels[..., 0] > 180) & (pixels[..., 1] < 70) & (pixels[..., 2] < 70)


def combinations(case):
    """Every combination that a case shows in any role."""
    found = {(item.shape, item.color) for item in (*case.before, *case.after)}
    if case.vehicle is not None:
        found |= {(case.vehicle.kind, case.vehicle.color, view) for view in case.views}
    if case.turntable is not None:
        found |= {(solid.form, solid.color) for solid in case.turntable.solids}
    return found


@pytest.mark.parametrize("task", TASKS)
def test_generate_when_repeated_then_gives_the_same_case(task):
    first, second, other = generate(task, 7), generate(task, 7), generate(task, 8)

    assert first.prompt == second.prompt
    assert np.array_equal(first.target, second.target)
    assert first.source is None or np.array_equal(first.source, present(second.source))
    assert not np.array_equal(first.target, other.target)


@pytest.mark.parametrize("size", [64, 96, 128])
@pytest.mark.parametrize("task", TASKS)
def test_generate_when_sized_then_images_have_the_size_and_the_prompt_stays(task, size):
    case = generate(task, 3, size)

    assert case.target.shape == (size, size, 3)
    assert case.target.dtype == np.uint8
    assert (case.source is None) == (task == "text-to-image")
    assert case.source is None or case.source.shape == (size, size, 3)
    assert case.prompt == generate(task, 3).prompt


@pytest.mark.parametrize("task", TASKS)
def test_generate_when_training_then_shows_no_held_out_combination(task):
    kept_out = HELD_OUT_PAIRS | HELD_OUT_SOLIDS | HELD_OUT_VIEWS

    shown = set().union(*(combinations(generate(task, seed)) for seed in range(150)))

    assert not shown & kept_out
    assert len(shown) > 10


@pytest.mark.parametrize("task", TASKS)
def test_generate_when_held_out_then_shows_exactly_one_held_out_combination(task):
    kept_out = HELD_OUT_PAIRS | HELD_OUT_SOLIDS | HELD_OUT_VIEWS

    for seed in range(40):
        assert len(combinations(generate(task, seed, held_out=True)) & kept_out) == 1


def test_held_out_views_when_counted_then_every_object_is_still_seen_from_all_sides():
    for kind in vehicle.VEHICLES:
        for view in range(8):
            left = {color for color in vehicle.VEHICLE_COLORS if (kind, color, view) not in HELD_OUT_VIEWS}
            assert len(left) >= 3


@pytest.mark.parametrize("task", TASKS)
def test_red_when_searched_then_is_found_in_the_box_of_a_move_only(task):
    for seed in range(40):
        case = generate(task, seed)

        assert not is_red(case.target).any()
        if task == "move":
            rows, columns = np.nonzero(is_red(case.source))
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == case.box
        elif case.source is not None:
            assert not is_red(case.source).any()


@pytest.mark.parametrize("task", FLAT_TASKS)
def test_flat_scene_when_edited_then_changes_only_where_its_objects_are(task):
    for seed in range(30):
        case = generate(task, seed)
        changed = scenes.render_objects(case.before, present(case.background), 96) != case.target
        near = np.zeros((96, 96), bool)
        for item in (case.subject, case.result):
            if item is not None:
                left, top, right, bottom = item.box
                near[top - 2 : bottom + 2, left - 2 : right + 2] = True

        assert changed.any()
        assert not changed.any(2)[~near].any()


@pytest.mark.parametrize("task", [*FLAT_TASKS, "text-to-image"])
def test_flat_scene_when_drawn_then_objects_are_whole_apart_and_told_apart_by_shape_and_color(task):
    for seed in range(60):
        case = generate(task, seed)
        for objects in (case.before, case.after):
            masks = [item.mask for item in objects]
            assert np.sum(masks, 0).max(initial=0) <= 1
            assert (
                len({item.shape for item in objects}) == len({item.color for item in objects}) == len(objects)
            )
            for item in objects:
                left, top, right, bottom = item.box
                assert min(left, top) >= 1
                assert max(right, bottom) <= 95


def test_move_when_drawn_then_the_box_is_the_tight_box_of_the_new_place_and_covers_nothing():
    for seed in range(60):
        case = generate("move", seed)
        left, top, right, bottom = present(case.box)

        assert present(case.result).box == case.box
        assert not any(item.mask[top:bottom, left:right].any() for item in case.before)
        assert (
            case.prompt
            == f"Move the {present(case.subject).name} into the red box and finally remove the red box."
        )


def test_add_when_a_place_is_named_then_the_new_object_is_centered_there():
    for seed in range(30):
        case = generate("add", seed)
        place, result = present(case.place), present(case.result)
        column, row = scenes.PLACES[place]
        left, top, right, bottom = result.box

        assert abs((left + right) / 2 - (18 + 30 * column)) <= 1.5
        assert abs((top + bottom) / 2 - (18 + 30 * row)) <= 1.5
        assert result.name in case.prompt
        assert place in case.prompt


def test_rotate_when_headings_are_drawn_then_they_are_image_directions():
    chair = vehicle.Vehicle("chair", "blue", 0, 1.0, (0, 0))
    renders = [chair.render(view, 96) for view in range(8)]

    # The chair's back is its upper part, and opposite to its front.
    tops = []
    for _, mask in renders:
        rows = np.flatnonzero(mask.any(1))
        tops.append(np.nonzero(mask[rows[0] : rows[0] + 12])[1].mean())
    cushions = [((image > 200).all(2) & mask).sum() for image, mask in renders]

    assert max(tops[0], tops[1], tops[7]) < 47 < 49 < min(tops[3], tops[4], tops[5])
    assert abs(tops[2] - 47.5) < 1 > abs(tops[6] - 47.5)
    assert cushions[2] > cushions[6]


def test_camera_when_yaw_is_positive_then_what_was_on_the_right_comes_to_the_middle():
    at_right = np.array([[np.cos(np.radians(75)), np.sin(np.radians(75)), 0.0]])
    pose = turntable.Pose(30)

    x = []
    for seen_from in (pose, pose.moved(45, 0, "unchanged")):
        camera = solids.OrbitCamera(seen_from.azimuth, seen_from.elevation, 4.0, (0.0, 0.0, 0.0), 100.0, 48.0)
        x.append(camera.project(at_right)[0, 0])

    assert x[0] > 60
    assert x[1] == pytest.approx(48)


def test_camera_when_pitch_or_zoom_change_then_the_turntable_opens_or_grows():
    table = turntable.Turntable((turntable.Solid("cube", "blue", (0.0, 0.0)),), 0)
    pose = turntable.Pose(0)

    def extent(yaw, pitch, zoom):
        mask = table.render(pose.moved(yaw, pitch, zoom), 96)[1]
        return np.array([mask.any(0).sum(), mask.any(1).sum()])

    usual = extent(0, 0, "unchanged")

    assert extent(0, 15, "unchanged")[1] > usual[1] > extent(0, -15, "unchanged")[1]
    assert (extent(0, 0, "in") > 1.15 * usual).all()
    assert (extent(0, 0, "out") < 0.87 * usual).all()


def test_back_to_front_when_one_box_hides_another_then_the_hidden_one_is_drawn_first():
    near = solids.box((0, -2, 0), (1, -1, 1), (0, 0, 0))
    far = solids.box((0, 1, 0), (1, 2, 1), (255, 255, 255))
    image = solids.canvas((128, 128, 128), 32)

    solids.draw_parts(ImageDraw.Draw(image), [near, far], solids.ParallelCamera(0, 20, (4, 28)))

    assert np.asarray(image)[60, 30].max() == 0


@pytest.mark.parametrize(
    ("arguments", "word"), [(("paint", 0), "task"), (("add", -1), "seed"), (("add", 0, 16), "size")]
)
def test_generate_when_an_argument_is_wrong_then_names_it(arguments, word):
    with pytest.raises(ValueError, match=f"`{word}`"):
        generate(*arguments)
