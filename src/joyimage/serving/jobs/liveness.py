"""Who is alive: each server holds a lock that the system takes from it when it dies, however it dies."""

from __future__ import annotations

import os
import secrets
from typing import IO, TYPE_CHECKING

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

if TYPE_CHECKING:
    from pathlib import Path


class Liveness:
    """This server's sign of life, and a look at those of others that share the folder.

    No clock is asked, so none that is wrong can declare a server dead. Where the system has no such locks,
    every other server counts as dead: there only one may use a folder at a time.

    Args:
        folder: Where the locks stand; made where missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self.name = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._file: IO[str] | None = self._path(self.name).open("w", encoding="utf-8")
        if fcntl is not None:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def is_alive(self, name: str) -> bool:
        """Tell whether a server lives; what a dead one left is removed."""
        if name == self.name:
            return self._file is not None
        if fcntl is None:
            return False
        path = self._path(name)
        try:
            with path.open("r+", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def others(self) -> list[str]:
        """List the servers that live, without this one."""
        names = [path.stem for path in self._folder.glob("*.lock")]
        return [name for name in names if name != self.name and self.is_alive(name)]

    def close(self) -> None:
        """Give the sign of life up."""
        if self._file is not None:
            self._path(self.name).unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.lock"
