"""The evaluation: right means, scenes of its own, a table and JSON that say the same."""

import json
from dataclasses import replace

import pytest

from joyimage.errors import InvalidInputError
from joyimage.evaluation.editors import copy_editor
from joyimage.evaluation.report import Comparison, to_json, to_table
from joyimage.evaluation.runner import HELD_OUT, evaluate
from joyimage.tiny.suite import DrawnScenes
from joyimage.tiny.worlds.scenes import EVALUATION_SEEDS_START, TASKS, TRAINING_SEEDS


def perfect_editor(cases):
    return [case.target_image for case in cases]


@pytest.fixture(scope="module")
def perfect():
    return evaluate(perfect_editor, DrawnScenes(), num=8, progress=False)


@pytest.fixture(scope="module")
def copied():
    return evaluate(copy_editor, DrawnScenes(), num=8, progress=False)


def test_evaluate_when_every_edit_is_perfect_then_every_share_is_one(perfect):
    assert list(perfect.tasks) == [*TASKS, HELD_OUT]
    for result in perfect.tasks.values():
        assert (result.n, result.done, result.strict) == (8, 1, 1)


def test_evaluate_when_the_input_is_copied_then_nothing_is_done(copied):
    for result in copied.tasks.values():
        assert (result.done, result.strict) == (0, 0)
    assert copied.tasks["move"].red_gone == 0
    assert copied.tasks["rotate"].view_right == 0
    assert copied.tasks["add"].red_gone is None


def test_evaluate_when_run_then_takes_its_own_scenes_in_batches_of_one_task():
    seen = []

    def editor(cases):
        assert len({case.task for case in cases}) == 1
        seen.append(cases)
        return perfect_editor(cases)

    evaluate(editor, DrawnScenes(seed=3), num=5, batch_size=4, progress=False)

    cases = [case for batch in seen for case in batch]
    assert max(len(batch) for batch in seen) == 4
    assert len(cases) == 5 * (len(TASKS) + 1)
    assert sum(case.held_out for case in cases) == 5
    assert min(case.seed for case in cases) == EVALUATION_SEEDS_START + 3_000_000 > max(TRAINING_SEEDS)


def test_evaluate_when_only_some_tasks_are_asked_for_then_runs_these_scenes_and_no_others():
    seen = []

    def editor(cases):
        seen.append([(case.task, case.seed, case.held_out) for case in cases])
        return perfect_editor(cases)

    suite = DrawnScenes(seed=3)
    found = evaluate(editor, suite, num=5, batch_size=4, tasks=("move", "text-to-image"), progress=False)

    wanted = [
        [(task, suite.case(task, number, False).seed, False) for number in batch]
        for task in ("move", "text-to-image")
        for batch in (range(4), range(4, 5))
    ]
    assert seen == wanted
    assert {task: (row.n, row.done) for task, row in found.tasks.items()} == {
        "move": (5, 1),
        "text-to-image": (5, 1),
    }


def test_evaluate_when_only_some_edits_succeed_then_gives_the_share():
    def editor(cases):
        return [
            case.target_image if case.seed % 2 else image
            for case, image in zip(cases, copy_editor(cases), strict=True)
        ]

    assert evaluate(editor, DrawnScenes(), num=10, progress=False).tasks["add"].done == 0.5


def test_table_and_json_when_written_then_hold_every_task(perfect, copied):
    result = Comparison(model=copied, round_trip=perfect, copied=copied)

    data = json.loads(json.dumps(to_json(result)))
    table = to_table(result, DrawnScenes())

    assert list(data["tasks"]) == list(TASKS)
    assert data["tasks"]["add"]["done"] == 0
    assert data["tasks"]["add"]["n"] == 8
    assert data["held_out"]["strict"] == 0
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1
    for task in (*TASKS, HELD_OUT):
        assert any(row.startswith(f"| {task} ") and " .00 " in row and "1.00 (60.0)" in row for row in rows)


def test_table_when_one_edit_of_200_fails_then_the_share_is_not_rounded_up_to_all(perfect, copied):
    almost = replace(perfect.tasks["add"], n=200, done=0.996)
    evaluation = replace(perfect, tasks={**perfect.tasks, "add": almost})

    table = to_table(Comparison(model=evaluation, round_trip=perfect, copied=copied), DrawnScenes())
    (row,) = (row for row in table.splitlines() if row.startswith("| add "))
    assert [cell.strip() for cell in row.split("|")[2:4]] == [".99", "1.00"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"num": 0}, "num"),
        ({"num": 500_001}, "num"),
        ({"batch_size": 0}, "batch_size"),
        ({"tasks": ["move", "paint"]}, "tasks"),
        ({"tasks": []}, "tasks"),
    ],
)
def test_evaluate_when_an_argument_is_wrong_then_names_it(arguments, word):
    with pytest.raises(InvalidInputError, match=f"`{word}`"):
        evaluate(perfect_editor, DrawnScenes(), progress=False, **arguments)


def test_suite_when_its_seed_is_negative_then_names_it():
    with pytest.raises(InvalidInputError, match="`seed` is -1"):
        DrawnScenes(seed=-1)
