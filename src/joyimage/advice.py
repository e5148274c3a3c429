"""Advice on a value that is accepted but has no effect, or was hardly trained: a warning, or collected by who asks."""

from __future__ import annotations

import inspect
import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# One per thread and task: what `warnings.catch_warnings` records may be another thread's.
_collected: ContextVar[list[str] | None] = ContextVar("joyimage_advice", default=None)


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
    elif sentence not in collected:
        collected.append(sentence)


@contextmanager
def collect_advice() -> Iterator[list[str]]:
    """Collect advice instead of warning, each sentence once.

    Yields:
        The sentences so far.
    """
    collected: list[str] = []
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)
