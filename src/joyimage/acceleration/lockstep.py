"""Run the guidance branches of a step side by side, so that each streamed block is read once for all of them.

The branches are ordinary calls of the transformer. Each runs in a thread of its own, but only one thread runs
at any time: a branch that reaches the next block waits there until all branches have left the previous one.
The results are those of the calls one after the other, bit for bit.
"""

from __future__ import annotations

import contextvars
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")


class _AbortedError(BaseException):
    """Ends a branch because another one failed. Not an `Exception`, which code on the way might catch."""


class Lockstep:
    """A round of calls that advance block by block.

    Args:
        calls: The branches. Each must pass the same blocks in the same order.
    """

    def __init__(self, calls: Sequence[Callable[[], Any]]) -> None:
        self._calls = calls
        self._condition = threading.Condition()
        self._running: int | None = None  # the branch that may run
        self._waiting: set[int] = set()  # branches that stand before the next block
        self._finished: set[int] = set()
        self._results: list[Any] = [None] * len(calls)
        self._error: BaseException | None = None
        self._local = threading.local()

    def run(self) -> list[Any]:
        """Run all branches to their ends.

        Returns:
            What each call returned, in order.

        Raises:
            BaseException: The first error of a branch; the other branches end at their next block.
        """
        settings = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        threads = [
            threading.Thread(
                target=contextvars.copy_context().run,
                args=(self._run_branch, number, *settings),
                daemon=True,
            )
            for number in range(len(self._calls))
        ]
        with self._condition:
            self._running = 0
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._error is not None:
            raise self._error
        return self._results

    def meet(self) -> None:
        """Wait until all branches have left the previous block. Call it before a block is entered.

        The last branch to arrive returns first.
        """
        number = self._local.number
        with self._condition:
            self._waiting.add(number)
            others = [
                other
                for other in range(len(self._calls))
                if other not in self._waiting and other not in self._finished
            ]
            if not others:
                self._waiting.clear()
                return
            self._running = others[0]
            self._condition.notify_all()
            self._await_turn(number)

    def _run_branch(self, number: int, is_grad_enabled: bool, is_inference_mode: bool) -> None:
        self._local.number = number
        try:
            with self._condition:
                self._await_turn(number)
            # Both are settings of a thread, not of the process.
            with torch.inference_mode(is_inference_mode), torch.set_grad_enabled(is_grad_enabled):
                self._results[number] = self._calls[number]()
        except _AbortedError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised by `run`, in the caller's thread
            self._error = self._error or error
        finally:
            with self._condition:
                self._finished.add(number)
                self._waiting.discard(number)
                left = [other for other in range(len(self._calls)) if other not in self._finished]
                # Branches that have not arrived at the block come first; the others wait for them.
                behind = [other for other in left if other not in self._waiting]
                self._running = (behind or left or [None])[0]
                self._condition.notify_all()

    def _await_turn(self, number: int) -> None:
        self._condition.wait_for(lambda: self._running == number or self._error is not None)
        if self._error is not None:
            raise _AbortedError
        self._waiting.discard(number)
