"""What every call of a pipeline shares: it runs alone on its parts, and knows which defaults were not given."""

from __future__ import annotations

import threading
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

Method = TypeVar("Method", bound="Callable[..., Any]")

_LOCKS: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


class DefaultSteps(int):
    """A number of steps that the caller did not give: the signature shows it, a call uses the checkpoint's own."""


class DefaultGuidance(float):
    """A guidance scale that the caller did not give: the signature shows it, a call uses the checkpoint's own."""


class DefaultSchedule(str):
    """A list of noise levels that the caller did not ask for; a turbo adapter has its own."""

    __slots__ = ()


class DefaultSpeed(str):
    """A speed preset that the caller did not ask for; a turbo adapter has its own."""

    __slots__ = ()


def serialized(method: Method) -> Method:
    """Run a pipeline's method in one thread at a time; a second thread waits.

    A call has state (noise levels, caches, guidance) in the scheduler, the transformer and the pipeline. Pipelines
    that share a transformer wait for each other too. Callbacks may call the pipeline again.
    """

    @wraps(method)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        with lock_of(self):
            return method(self, *arguments, **options)

    return cast("Method", call)


def lock_of(pipe: Any) -> threading.RLock:
    """Return the lock of a pipeline's transformer; stored outside it, so that pipelines can be copied and pickled."""
    owner = pipe if pipe.transformer is None else pipe.transformer
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(owner, threading.RLock())
