"""What the commands print, and how they end."""

from __future__ import annotations

import contextlib
import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXIT_BUG = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def fail(message: str, code: int = EXIT_BAD_INPUT) -> int:
    """Print a message as one red line on stderr and return an exit code.

    Args:
        message: What is wrong; line breaks in it become blanks.
        code: The exit code to return.
    """
    from rich.console import Console

    line = " ".join(message.split())
    Console(stderr=True, soft_wrap=True).print(line, style="red", markup=False, highlight=False)
    return code


def warn(sentence: str) -> None:
    """Print one warning on stderr, with the options that the running command has for what it names."""
    _warned.add(sentence)
    notify(f"Warning: {_naming[-1](sentence)}")


def notify(sentence: str) -> None:
    """Print one line on stderr; stdout belongs to results."""
    print(sentence, file=sys.stderr)


def say_loading(model: object = None) -> None:
    """Say that a model loads; before torch is imported, as the imports alone take seconds.

    Args:
        model: Name or folder of the checkpoint; None for the default.
    """
    notify(f"Loading {model or 'the model'} ...")


@contextlib.contextmanager
def plain_warnings(name_options: Callable[[str], str], *, with_source: bool = False) -> Iterator[None]:
    """Print Python's warnings as one line each, and none that this command has printed already.

    Args:
        name_options: Returns a sentence with the command's options in place of the library's arguments.
        with_source: Whether to show them as Python does, with file and line.
    """
    _warned.clear()
    _naming.append(name_options)
    try:
        with contextlib.nullcontext() if with_source else _one_line_each():
            yield
    finally:
        _naming.pop()


@contextlib.contextmanager
def _one_line_each() -> Iterator[None]:
    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        sentence = " ".join(str(message).split())
        if sentence not in _warned:
            warn(sentence)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


_warned: set[str] = set()
"""Warnings that the running command has printed."""

_naming: list[Callable[[str], str]] = [str]
"""What names the options of each running command in a warning; one command may run another."""
