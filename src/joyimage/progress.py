"""Progress of what takes minutes: a bar in a terminal or a notebook, now and then a plain line in a log file."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

# Seconds between two lines of a log file.
_INTERVAL = 30.0


def progress_bar(
    iterable: Iterable[T] | None = None,
    *,
    label: str,
    unit: str,
    total: int,
    initial: int = 0,
    is_shown: bool = True,
) -> Progress[T]:
    """Return what shows how far a loop is, on stderr.

    Args:
        iterable: What to iterate over; None to call `update`.
        label: What is done, such as "train".
        unit: What is counted, such as "step".
        total: How many there are.
        initial: How many were done before.
        is_shown: Whether anything is shown.
    """
    if not is_shown or sys.stderr.isatty() or "ipykernel" in sys.modules:
        return Progress(iterable, label=label, unit=unit, total=total, initial=initial, has_bar=is_shown)
    return _Lines(iterable, label=label, unit=unit, total=total, initial=initial, has_bar=False)


class Progress(Generic[T]):
    """Counts what is done, and shows it as a bar."""

    def __init__(
        self,
        iterable: Iterable[T] | None,
        *,
        label: str,
        unit: str,
        total: int,
        initial: int,
        has_bar: bool,
    ) -> None:
        self._iterable = iterable
        self._label, self._unit, self._total, self._done = label, unit, total, initial
        self._bar = tqdm(total=total, initial=initial, desc=label, unit=unit, disable=not has_bar)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def __iter__(self) -> Iterator[T]:
        """Iterate, and count each item once it is done."""
        with self:
            for item in self._iterable or ():
                yield item
                self.update()

    def update(self, num: int = 1, **numbers: str) -> None:
        """Count more of them.

        Args:
            num: How many.
            **numbers: What to show beside it, such as loss="0.12".
        """
        self._done += num
        if numbers:
            self._bar.set_postfix(numbers, refresh=False)
        self._bar.update(num)


class _Lines(Progress[T]):
    """Writes a line every half a minute, and one at the end of what took so long."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._first = self._done
        self._began = self._told = time.monotonic()

    def update(self, num: int = 1, **numbers: str) -> None:
        super().update(num, **numbers)
        now = time.monotonic()
        has_told, is_last = self._told > self._began, self._done >= self._total
        if now - self._told < _INTERVAL and not (has_told and is_last):
            return
        self._told = now
        passed = now - self._began
        times = f"{tqdm.format_interval(passed)} so far"
        if not is_last:
            left = passed / (self._done - self._first) * (self._total - self._done)
            times += f", {tqdm.format_interval(left)} left"
        shown = "".join(f", {name} {number}" for name, number in numbers.items())
        text = f"{self._label}: {self._done} of {self._total} {self._unit}s, {times}{shown}"
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
