"""Processes that fork off one that has imported everything: what is tested is what they do, not their imports."""

from __future__ import annotations

import multiprocessing
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

from joyimage import companions
from joyimage.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from multiprocessing.context import ForkServerProcess
    from pathlib import Path

_forkserver = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(["tests.preload"])


@contextmanager
def forked_companions() -> Iterator[None]:
    """Have processes that share edits fork off too; tests/serving/test_companions.py starts them as users do."""
    with mock.patch.object(companions, "get_context", return_value=_forkserver):
        yield


def start(target: Callable[..., Any], *arguments: object) -> ForkServerProcess:
    """Start a function of a module in a process of its own, which ends with this one."""
    process = _forkserver.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def start_command(
    *arguments: object, log_path: Path | None = None, environment: Mapping[str, str] | None = None
) -> ForkServerProcess:
    """Start `joyimage ARGUMENTS` in a process of its own, which ends with this one.

    Args:
        arguments: Command and options.
        log_path: File that standard error is appended to; without one, nothing is printed at all.
        environment: Variables that are set for it.
    """
    given = [str(argument) for argument in arguments]
    return start(_run_command, given, str(log_path or os.devnull), log_path is None, dict(environment or {}))


def _run_command(arguments: list[str], log_path: str, is_silent: bool, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2) if is_silent else (2,):
        os.dup2(log, descriptor)
    sys.exit(main(arguments))
