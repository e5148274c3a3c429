"""What every call of a pipeline shares: it runs alone on its parts, and knows which defaults it was given."""

from __future__ import annotations

import threading
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch

from joyimage.errors import InvalidResultError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

Method = TypeVar("Method", bound="Callable[..., Any]")

_LOCKS: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


class DefaultSteps(int):
    """A number of steps that no caller gave: the signature shows it, a call takes the checkpoint's own."""


class DefaultGuidance(float):
    """A guidance scale that no caller gave: the signature shows it, a call takes the checkpoint's own."""


def serialized(method: Method) -> Method:
    """Let only one thread at a time run a pipeline's method; a second one waits.

    A call keeps its state (noise levels, caches, guidance) in the scheduler, the transformer and the pipeline.
    Pipelines that share a transformer wait for one another too. Callbacks may call the pipeline again.
    """

    @wraps(method)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        with _lock_of(self):
            return method(self, *arguments, **options)

    return cast("Method", call)


def check_finite(values: Tensor, what: str) -> None:
    """Raise where a result is no image.

    Args:
        values: What the model made.
        what: Name of it for the message.

    Raises:
        InvalidResultError: A value is not finite.
    """
    if values.is_meta:  # shapes only: there is nothing to check
        return
    if not bool(torch.isfinite(values).all()):
        raise InvalidResultError(
            f"The model produced {what} that are not finite, so there is no image. In float16 or with an adapter at a "
            "large scale values overflow: use bfloat16 or float32, or a smaller scale."
        )


def _lock_of(pipe: Any) -> threading.RLock:
    """Return the lock of a pipeline's transformer; kept beside it, so that pipelines can be copied and pickled."""
    owner = pipe if pipe.transformer is None else pipe.transformer
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(owner, threading.RLock())
