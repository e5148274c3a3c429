"""Endless loops that survive whatever their body raises, and tell whether they still work."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 15.0
_FAILURES_UNTIL_SICK = 3


class GuardedLoop:
    """Calls a function again and again in a thread of its own.

    Whatever the function raises is logged, and the loop continues after a pause that doubles each time. After a
    few consecutive failures, `problem` says that it does not work.

    Args:
        name: Name of the loop, for the log and for `problem`.
        step: Called again and again; it waits by itself where there is nothing to do.
        stopped: Ends the loop.
    """

    def __init__(self, name: str, step: Callable[[], None], stopped: threading.Event) -> None:
        self._name = name
        self._step = step
        self._stopped = stopped
        self._failures = 0
        self._last: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"joyimage-{name}", daemon=True)

    @property
    def problem(self) -> str | None:
        """Why the loop does not work; None where it does."""
        if self._thread.ident is not None and not self._thread.is_alive() and not self._stopped.is_set():
            return f"The {self._name} loop has ended."
        if self._failures >= _FAILURES_UNTIL_SICK:
            return f"The {self._name} loop fails again and again ({type(self._last).__name__})."
        return None

    def start(self) -> None:
        """Start the loop."""
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for the loop's end."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._step()
                self._failures = 0
            # Also SystemExit and the panics of Rust libraries: the loop is what keeps the server working.
            except BaseException as error:
                self._failures += 1
                self._last = error
                pause_s = min(_FIRST_PAUSE_S * 2 ** (self._failures - 1), _LONGEST_PAUSE_S)
                logger.exception("The %s loop failed; it continues in %g s.", self._name, pause_s)
                self._stopped.wait(pause_s)
