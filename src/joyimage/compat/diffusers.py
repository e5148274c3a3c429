"""What joyimage reaches inside diffusers, because diffusers offers no public way to it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from diffusers.models import modeling_utils

if TYPE_CHECKING:
    from collections.abc import Iterator

_SWITCH = "HF_ENABLE_PARALLEL_LOADING"

_lock = threading.Lock()
_open_contexts: list[bool] = []  # for each, what the switch was before the first of them


@contextmanager
def parallel_shards() -> Iterator[None]:
    """Have diffusers read the shards of a checkpoint in parallel while the context is open.

    diffusers reads one switch for the whole process. Contexts of several threads may overlap: the first to open
    turns the switch on, and the last to close restores what it was before.
    """
    module: Any = modeling_utils
    with _lock:
        _open_contexts.append(_open_contexts[0] if _open_contexts else getattr(module, _SWITCH))
        setattr(module, _SWITCH, True)
    try:
        yield
    finally:
        with _lock:
            setting_before = _open_contexts.pop()
            if not _open_contexts:
                setattr(module, _SWITCH, setting_before)
