"""Advice on a value that is accepted but has no effect, or was hardly trained: a warning, or collected by who asks."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# One per thread and task: what `warnings.catch_warnings` records may be another thread's.
_collected: ContextVar[list[str] | None] = ContextVar("joyimage_advice", default=None)


def advise(sentence: str, *, stacklevel: int = 2) -> None:
    """Give advice: as Python's warning, or to the `collect_advice` around it.

    Args:
        sentence: What to say.
        stacklevel: As for `warnings.warn`: 2 is the line that calls the function which advises.
    """
    collected = _collected.get()
    if collected is None:
        warnings.warn(sentence, stacklevel=stacklevel + 1)
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
