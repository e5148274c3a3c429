"""Reject paths that no command can mean: empty ones, and "-" where no standard stream is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable

STANDARD_STREAM = Path("-")
_EDITED = ("--image", "--ref", "--like", "--output")
_STREAMS = {
    **dict.fromkeys(("edit", "generate", "move", "rotate", "camera"), _EDITED),
    **dict.fromkeys(("describe", "rewrite", "info"), ("--image",)),
    "batch": ("--source",),
}
"""By command: the arguments for which "-" is standard input or output."""


def check_paths(_app: object, commands: tuple[str, ...], arguments: Iterable[Any]) -> None:
    """Check the path arguments of a command line; cyclopts calls this before it converts them.

    An empty path, such as that of a shell variable that is not set, would otherwise be the current folder.

    Raises:
        InvalidInputError: A path is empty, or "-" where a file or folder is needed.
    """
    streams = _STREAMS.get(" ".join(commands), ())
    for argument in arguments:
        if not _takes_paths(argument.hint):
            continue
        for token in argument.tokens:
            name = argument.name.lstrip("-").upper() if token.keyword is None else token.keyword
            if not token.value:
                raise InvalidInputError(f"`{name}` is empty; expected a path.")
            if Path(token.value) == STANDARD_STREAM and argument.name not in streams:
                raise InvalidInputError(f"`{name}` is -, a standard stream; expected a file or folder here.")


def _takes_paths(hint: Any) -> bool:
    return hint is Path or any(_takes_paths(part) for part in get_args(hint))
