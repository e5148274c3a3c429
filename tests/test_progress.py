"""Progress: a bar for a person who looks on, few whole lines for a file."""

from __future__ import annotations

import io
import sys

import pytest

from joyimage import progress
from joyimage.progress import progress_bar

SECONDS = 20  # of each step


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in a list that a test changes."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def take_steps(clock: list[float], total: int, *, initial: int = 0, seconds: float = SECONDS) -> None:
    with progress_bar(label="train", unit="step", total=total, initial=initial) as bar:
        for _ in range(total - initial):
            clock[0] += seconds
            bar.update(loss="0.5")


def test_progress_when_stderr_is_a_file_then_a_whole_line_at_most_every_half_a_minute(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    take_steps(clock, 5)

    assert capsys.readouterr().err.splitlines() == [
        "train: 2 of 5 steps, 00:40 so far, 01:00 left, loss 0.5",
        "train: 4 of 5 steps, 01:20 so far, 00:20 left, loss 0.5",
        "train: 5 of 5 steps, 01:40 so far, loss 0.5",
    ]


def test_progress_when_resumed_then_the_time_left_is_that_of_the_steps_taken_now(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    take_steps(clock, 104, initial=100)

    assert "train: 102 of 104 steps, 00:40 so far, 00:40 left" in capsys.readouterr().err


def test_progress_when_it_is_over_within_half_a_minute_then_a_file_stays_empty(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    take_steps(clock, 5, seconds=1)

    assert capsys.readouterr().err == ""


def test_progress_when_over_an_iterable_then_gives_each_item_and_counts_it(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for item in progress_bar("abc", label="check", unit="pair", total=3):
        clock[0] += SECONDS
        found.append(item)

    assert found == ["a", "b", "c"]
    assert capsys.readouterr().err.splitlines() == [
        "check: 2 of 3 pairs, 00:40 so far, 00:20 left",
        "check: 3 of 3 pairs, 01:00 so far",
    ]


@pytest.mark.parametrize("is_shown", [True, False])
def test_progress_when_stderr_is_a_terminal_then_a_bar_where_one_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, is_shown: bool
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)

    assert list(progress_bar(range(3), label="check", unit="pair", total=3, is_shown=is_shown)) == [0, 1, 2]

    assert ("check: 100%" in terminal.getvalue()) is is_shown
