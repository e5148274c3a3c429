"""A clock that cannot be set."""

from __future__ import annotations

import time


def _uptime_s() -> float:
    """Return seconds that also count while the machine sleeps, where the system can tell."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class SteadyClock:
    """Seconds since 1970 that only ever advance, by one second each second.

    The machine's clock is read once. When it is set later on, forward or back, no result expires early and
    no job waits for longer.
    """

    def __init__(self) -> None:
        self._offset = time.time() - _uptime_s()

    def __call__(self) -> float:
        """Return the time."""
        return self._offset + _uptime_s()
