"""What the commands print, and how they end."""

from __future__ import annotations

import sys

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def fail(sentence: str) -> int:
    """Print one red sentence on stderr and return the exit code for bad input."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print(sentence, style="red", markup=False, highlight=False)
    return EXIT_BAD_INPUT


def note(sentence: str) -> None:
    """Print one line on stderr; stdout belongs to results."""
    print(sentence, file=sys.stderr)
