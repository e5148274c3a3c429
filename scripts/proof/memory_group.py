"""A control group of Linux that limits the memory of a process and counts what it took."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

_ROOT = Path("/sys/fs/cgroup")


class NoMemoryGroupError(OSError):
    """No control group can be made here."""


class MemoryGroup:
    """A control group, version 1 or 2, for the duration of a `with`.

    Page cache counts toward the limit and is given back when memory is short, so the peak of a process that reads
    large files is the limit itself; what it cannot give back is its anonymous memory.

    Args:
        limit_bytes: Memory that the processes in the group may take together; swap is not left as a way out.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._is_v1 = (_ROOT / "memory").is_dir()
        self._folder = (_ROOT / "memory" if self._is_v1 else _ROOT) / f"joyimage-proof-{os.getpid()}"

    def __enter__(self) -> Self:
        """Make the group.

        Raises:
            NoMemoryGroupError: There is no memory controller, or the user may not make groups.
        """
        try:
            if not self._is_v1:
                (_ROOT / "cgroup.subtree_control").write_text("+memory")
            self._folder.mkdir()
            self._write(("memory.limit_in_bytes", "memory.max"), self.limit_bytes)
        except OSError as error:
            reason = error.strerror or str(error)
            raise NoMemoryGroupError(
                f"No memory control group can be made in {self._folder.parent} ({reason}): run as root on Linux,"
                " outside of a container."
            ) from error
        with suppress(OSError):  # a kernel without accounting of swap
            self._write(
                ("memory.memsw.limit_in_bytes", "memory.swap.max"), self.limit_bytes if self._is_v1 else 0
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the group; its processes have ended."""
        self._folder.rmdir()

    def enter(self) -> None:
        """Move the calling process into the group, with what it starts from now on."""
        (self._folder / "cgroup.procs").write_text("0")

    def peak_bytes(self) -> int:
        """Return the most memory that the group held, page cache included."""
        return int(self._read("memory.max_usage_in_bytes", "memory.peak"))

    def num_kills(self) -> int:
        """Return how many processes were ended because the limit left no other way."""
        lines = self._read("memory.oom_control", "memory.events").splitlines()
        return int(dict(line.split() for line in lines).get("oom_kill", 0))

    def _write(self, names: tuple[str, str], value: int) -> None:
        (self._folder / names[0 if self._is_v1 else 1]).write_text(str(value))

    def _read(self, v1: str, v2: str) -> str:
        return (self._folder / (v1 if self._is_v1 else v2)).read_text()
