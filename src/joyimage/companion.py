"""What a process does that another one has started to share its edits; see `joyimage.companions`.

Nothing heavy is imported on top: first of all this process defers what an edit doesn't need.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle  # of the package's own values, between its own processes
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from joyimage.compat.deferred_imports import defer_optional_imports
from joyimage.errors import InvalidInputError, JoyImageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection


def accompany(
    rank: int, num_processes: int, layout: str, store: str, packed: bytes, first: Connection[Any, Any]
) -> None:
    """Load the pipeline, then make every call that the first process makes, until that one ends.

    Args:
        rank: Number of this process, from 1.
        num_processes: Number of processes.
        layout: How they share edits; see `pipe.parallel`.
        store: File in which the processes leave word for each other.
        packed: What loads the pipeline, its arguments, and what makes the call from what was loaded, pickled.
        first: The way to the first process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process decides what an interrupt ends
    defer_optional_imports()
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            loaded, call = _load(rank, num_processes, packed)
        except Exception as error:  # noqa: BLE001 - the first process says it
            with contextlib.suppress(OSError):  # unless it has failed for the same reason, and is gone
                first.send(str(error) or type(error).__name__)
            return
        try:
            first.send(None)
        except OSError:
            return

        def join() -> None:
            connect(rank, num_processes, store)
            loaded.pipe.parallel(num_processes, layout)

        _follow(join, call, first)


def connect(rank: int, num_processes: int, store: str) -> None:
    """Connect this process with the others, on loopback.

    Args:
        rank: Number of this process, from 0.
        num_processes: Number of processes.
        store: File in which the processes leave word for each other.
    """
    from torch import distributed

    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group(init_method=f"file://{store}", rank=rank, world_size=num_processes)


def _load(rank: int, num_processes: int, packed: bytes) -> tuple[Any, Any]:
    import torch
    from tqdm import tqdm

    # Its own is shared by processes, and reported as leaked where one is killed; here no bar is shown.
    tqdm.set_lock(threading.RLock())
    loader, load, make_call = pickle.loads(packed)
    if (load.get("device") or "").startswith("cpu"):
        torch.set_num_threads(max(1, torch.get_num_threads() // num_processes))
    loaded = loader(**load, replica=rank)
    return loaded, make_call(loaded)


def _follow(join: Callable[[], None], call: Callable[..., Any], first: Connection[Any, Any]) -> None:
    from joyimage.acceleration.parallel import ParallelError

    try:
        first.recv()  # all have loaded
        join()
        while True:
            arguments = first.recv()
            # An error of the call itself is raised in the first process too, which tells the user.
            with contextlib.suppress(JoyImageError):
                call(*arguments)
    except (EOFError, ConnectionError, ParallelError, InvalidInputError):
        return
