"""The script that measures the judge writes what it measured into the docs."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.judge_table import Chosen, auc, choice_table, draw_choice, replace_block

CHOSEN = [Chosen(1, 1.0, 0.5, 0.5, 0.5, 0.5), Chosen(4, 1.75, 0.75, 0.75, 1.0, 0.5)]


def test_block_when_replaced_then_the_rest_of_the_page_stays() -> None:
    page = "A\n<!-- one: measured -->\n\n-\n\n<!-- end -->\nB\n<!-- two: measured -->\n\nold\n\n<!-- end -->\nC\n"

    for _ in range(2):
        page = replace_block(replace_block(page, "one", "1"), "two", "2")

    blocks = [
        f"<!-- {name}: measured -->\n\n{number}\n\n<!-- end -->" for name, number in (("one", 1), ("two", 2))
    ]
    assert page == "A\n{}\nB\n{}\nC\n".format(*blocks)
    with pytest.raises(ValueError, match="not found"):
        replace_block(page, "three", "3")


def test_auc_when_right_outputs_score_higher_then_one_and_ties_count_half() -> None:
    truth = np.array([True, False, True, False])

    assert auc(truth, np.array([0.9, 0.1, 0.8, 0.2])) == 1
    assert auc(truth, np.array([0.5, 0.5, 0.5, 0.5])) == 0.5
    assert np.isnan(auc(np.array([True]), np.array([0.5])))


def test_choice_when_shown_then_a_row_and_a_point_for_each_number_of_candidates() -> None:
    assert "| 4 | 1.75 | 0.75 | 0.75 | 1.00 | 0.50 |" in choice_table(CHOSEN, 12)
    assert draw_choice(CHOSEN).count("<circle") == 8
