"""A clock that nobody can set."""

from __future__ import annotations

import time


class SteadyClock:
    """Seconds since 1970 that only ever go forward at one second a second.

    The machine's clock is read once. When it is set later on, forward or back, no result expires early and
    no time limit is met early or late.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def __call__(self) -> float:
        """Return the time."""
        return self._offset + time.monotonic()
