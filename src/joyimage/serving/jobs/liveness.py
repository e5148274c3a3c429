"""Which servers are alive: each holds a lock that the system releases when it dies, however it dies."""

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
    """This server's lock, and those of others that share the folder.

    No clock is read, so a wrong one cannot declare a server dead. Where the system has no such locks, every
    other server counts as dead: there only one may use a folder at a time.

    Args:
        folder: Folder of the locks; created where missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self.name = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._file: IO[str] | None = self._path(self.name).open("w", encoding="utf-8")
        if fcntl is not None:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def is_alive(self, name: str) -> bool:
        """Return whether a server is alive; the lock file of a dead one is removed."""
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
        """List the other servers that are alive; the lock files of dead ones are removed."""
        names = [path.stem for path in self._folder.glob("*.lock")]
        return [name for name in names if name != self.name and self.is_alive(name)]

    def close(self) -> None:
        """Release the lock."""
        if self._file is not None:
            self._path(self.name).unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.lock"
