"""Advice reaches the one whose call it is about: a warning, or the collector of the same thread."""

from __future__ import annotations

import threading
import warnings

import pytest

from joyimage.advice import advice_on_prompt, advise, collect_advice
from joyimage.edits import Camera, Edit, Sampling


def test_advice_when_nobody_collects_then_a_warning_at_the_line_of_the_caller() -> None:
    def check() -> None:
        advise("too small")

    with pytest.warns(UserWarning, match="too small") as caught:
        check()
    assert caught[0].filename == __file__


def test_advice_when_collected_then_each_sentence_once_and_no_warning() -> None:
    with warnings.catch_warnings(), collect_advice() as outer:
        warnings.simplefilter("error")
        advise("one")
        with collect_advice() as inner:
            advise("two")
        advise("one")

    assert (outer, inner) == (["one"], ["two"])


def test_advice_when_about_one_of_several_prompts_then_once_for_each_and_says_which() -> None:
    with collect_advice() as found:
        for number in (0, 2, 2):
            with advice_on_prompt(number):
                advise("too long")
        advise("too small")

    assert [(str(one), one.prompt) for one in found] == [
        ("too long", 0),
        ("too long", 2),
        ("too small", None),
    ]


def test_advice_when_another_thread_collects_then_not_there() -> None:
    begun, done = threading.Event(), threading.Event()
    others: list[str] = []

    def collect() -> None:
        with collect_advice() as found:
            begun.set()
            done.wait(30)
            others.extend(found)

    thread = threading.Thread(target=collect)
    thread.start()
    begun.wait(30)
    with collect_advice() as own:
        Camera(yaw=44).advice()
        advise("mine")
    done.set()
    thread.join()

    assert (own, others) == (["mine"], [])


@pytest.mark.parametrize(("guidance", "number"), [(1.0, 1), (0.0, 1), (1.5, 0), (None, 0)])
def test_negative_prompt_when_there_is_no_guidance_then_said(guidance: float | None, number: int) -> None:
    edit = Edit(prompt="x", sampling=Sampling(guidance_scale=guidance, negative_prompt="y"))

    assert len(edit.advice()) == number
