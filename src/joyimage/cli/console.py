"""What the commands print, and how they end."""

from __future__ import annotations

import sys

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
    """Print one warning on stderr."""
    note(f"Warning: {sentence}")


def note(sentence: str) -> None:
    """Print one line on stderr; stdout belongs to results."""
    print(sentence, file=sys.stderr)
