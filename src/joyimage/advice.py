"""Advice on a value that is accepted but has no effect, or was hardly trained: a warning, or collected by who asks."""

from __future__ import annotations

import inspect
import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Advice(str):
    """A sentence of advice.

    Attributes:
        prompt: Number of the prompt that it is about, of those that are encoded together; None where it is about the
            whole call. Negative prompts are counted behind all prompts.
    """

    prompt: int | None = None


# One per thread and task: what `warnings.catch_warnings` records may be another thread's.
_collected: ContextVar[list[Advice] | None] = ContextVar("joyimage_advice", default=None)
_prompt: ContextVar[int | None] = ContextVar("joyimage_advice_prompt", default=None)


_OWN = {"joyimage", "torch", "contextlib"}
"""Packages between the code that calls joyimage and the place that advises."""


def advise(sentence: str) -> None:
    """Give advice: as Python's warning at the line that calls joyimage, or to the `collect_advice` around it.

    Args:
        sentence: What to say.
    """
    collected = _collected.get()
    if collected is None:
        level, frame = 1, inspect.currentframe()
        while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _OWN:
            level, frame = level + 1, frame.f_back
        warnings.warn(sentence, stacklevel=level - 1 if frame is None else level)
    else:
        one = Advice(sentence)
        one.prompt = _prompt.get()
        if (one, one.prompt) not in [(other, other.prompt) for other in collected]:
            collected.append(one)


@contextmanager
def advice_on_prompt(number: int) -> Iterator[None]:
    """Give advice about one of several prompts.

    Args:
        number: Number of the prompt, of those that are encoded together.
    """
    token = _prompt.set(number)
    try:
        yield
    finally:
        _prompt.reset(token)


@contextmanager
def collect_advice() -> Iterator[list[Advice]]:
    """Collect advice instead of warning, each sentence once for each prompt that it is about.

    Yields:
        The sentences so far.
    """
    collected: list[Advice] = []
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)
