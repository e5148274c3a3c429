"""Where the stages of an edit begin and end, for any pipeline of this interface, seen from outside.

Both implementations set the scheduler's steps when prompts and images are read, and open their progress bar
around the loop. These two calls are watched; nothing inside of the implementations is known or touched.
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STAGES = ("prompt encoding", "VAE encoding", "denoising", "decoding")
"""In order. What stands between them is counted with the earlier one: images are resized under prompt
encoding, noise is drawn under VAE encoding, pixels become images under decoding."""

STEP = "step"


@contextmanager
def watch(pipe: Any, mark: Callable[[str], None]) -> Iterator[None]:
    """Call `mark` with the name of each stage that begins, and with `STEP` after each step.

    Args:
        pipe: Ours or diffusers'; run it once inside the block.
        mark: Told "prompt encoding" when the block begins and the others when they begin.

    Yields:
        Nothing.
    """
    set_timesteps = pipe.scheduler.set_timesteps

    @functools.wraps(set_timesteps)
    def marked(*arguments: Any, **settings: Any) -> Any:
        mark(STAGES[1])
        return set_timesteps(*arguments, **settings)

    pipe.scheduler.set_timesteps = marked
    pipe.progress_bar = lambda *_, **__: _Loop(mark)
    mark(STAGES[0])
    try:
        yield
    finally:
        del pipe.scheduler.set_timesteps
        del pipe.progress_bar


class _Loop:
    """Stand in for the progress bar around the loop."""

    def __init__(self, mark: Callable[[str], None]) -> None:
        self._mark = mark

    def __enter__(self) -> _Loop:
        self._mark(STAGES[2])
        return self

    def update(self, _steps: int = 1) -> None:
        self._mark(STEP)

    def __exit__(self, *_: object) -> None:
        self._mark(STAGES[3])
