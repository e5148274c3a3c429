"""Write a file whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from joyimage.errors import ImageError, OutputFullError

if TYPE_CHECKING:
    from collections.abc import Callable

_PREFIX = ".joyimage-"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


def write_whole(path: Path, write: Callable[[IO[bytes]], Any], *, mode: int | None = None) -> None:
    """Write a file beside its place, then move it there in one step.

    A symbolic link is written through. A file that exists keeps its mode; a new one gets what the umask leaves.

    Args:
        path: The file.
        write: Is given the open file.
        mode: Mode of a file that must not be readable by others, such as 0o600, whatever was there before.

    Raises:
        ImageError: The file cannot be written; nothing is left behind.
        OutputFullError: So it is, because no file can be written there.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f"{_partial_prefix(target)}{secrets.token_hex(4)}")
    try:
        # Created as any file is, so that the umask acts; moved over the old one only when it is whole.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            if mode is None and target.exists():
                partial.chmod(target.stat().st_mode & 0o7777)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        kind = OutputFullError if error.errno in _FULL else ImageError
        raise kind(f"{path} can't be written: {error.strerror or error}.") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file, in UTF-8, whole or not at all.

    Raises:
        ImageError: The file cannot be written; nothing is left behind.
    """
    write_whole(path, lambda file: file.write(text.encode("utf-8")))


def clear_partial(path: Path) -> None:
    """Remove what a killed process left of writing `path`."""
    target = Path(os.path.realpath(path))
    for partial in target.parent.glob(f"{_partial_prefix(target)}*"):
        partial.unlink(missing_ok=True)


def _partial_prefix(target: Path) -> str:
    """Return how names of partial files begin: short, so that the longest legal name can be written too."""
    return f"{_PREFIX}{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]}-"
