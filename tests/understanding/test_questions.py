"""The text of the questions that judging asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from joyimage.spatial import View
from joyimage.understanding import questions

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    "ask", [questions.object_is_present, questions.object_is_in_box, questions.visible_side]
)
def test_question_when_the_name_has_an_article_then_the_same_as_without(ask: Callable[[str], str]) -> None:
    assert ask("the blue car") == ask(" blue car ") == ask("a blue car")
    assert "the the" not in ask("the blue car")


def test_question_when_about_an_edit_then_the_two_differ_only_in_what_they_ask() -> None:
    done, kept = (ask("Remove the car. ") for ask in (questions.edit_is_done, questions.rest_is_unchanged))

    assert done != kept
    assert "Remove the car. Did" in done
    assert "Remove the car. Is" in kept


def test_views_when_listed_then_every_view_once_in_the_order_of_headings() -> None:
    assert [View(name).heading for name in questions.VIEWS] == list(range(0, 360, 45))
