"""The files of jobs: input images and results. Each is written whole or not at all."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

_ID = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"(input|output|edited|source)-\d{1,4}|mask(-\d{1,4})?")
RESULTS = {"images": "output", "masks": "edited", "inputs": "source"}
"""Names of the files that clients fetch."""
# A folder younger than this may belong to a job whose record is just being written.
_ORPHAN_AGE_S = 600
_AT_ONCE = 500
_DATABASE = "database-id"


class JobFiles:
    """One folder a job.

    Ids and names are made here and in the job store, never by a client.

    Args:
        root: Parent of the folders; created where missing, for this user only.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    @staticmethod
    def new_id() -> str:
        """Return an id that can't be guessed."""
        return secrets.token_hex(16)

    def write(self, job_id: str, name: str, data: bytes) -> None:
        """Write a file beside its place, then put it there in one go.

        Raises:
            OSError: The disk is full, or gone.
        """
        path = self._path(job_id, name)
        self._root.mkdir(exist_ok=True, mode=0o700)  # somebody may have tidied up
        path.parent.mkdir(exist_ok=True, mode=0o700)
        partial = path.with_name(f".{name}.{secrets.token_hex(4)}")
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        _sync_folder(path.parent)

    def read(self, job_id: str, name: str) -> bytes:
        """Return a file's content.

        Raises:
            FileNotFoundError: It isn't there, or no longer.
        """
        return self._path(job_id, name).read_bytes()

    def remove(self, job_id: str) -> None:
        """Remove a job's folder, if there is one."""
        shutil.rmtree(self._folder(job_id), ignore_errors=True)

    def keep_inputs(self, job_id: str) -> None:
        """Keep the input images of a job that succeeded beside its results, which they are compared with."""
        for path in self._folder(job_id).glob("input-*"):
            with contextlib.suppress(OSError):  # then the results have nothing beside them
                path.replace(path.with_name(path.name.replace("input", RESULTS["inputs"], 1)))

    def remove_inputs(self, job_id: str) -> None:
        """Remove the input images of a job that has ended."""
        kept = tuple(f"{name}-" for name in RESULTS.values())
        for path in self._folder(job_id).glob("*"):
            if not path.name.startswith(kept):
                with contextlib.suppress(OSError):  # it goes with the folder when the job expires
                    path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it still holds results
            self._folder(job_id).rmdir()

    def bind(self, database_id: str) -> bool:
        """Remember to which database the folder belongs, the first time.

        Args:
            database_id: The random name of the database.

        Returns:
            Whether the folder belonged to it before, so that folders without a record may be removed.
            Those of another database are left alone.
        """
        path = self._root.parent / _DATABASE
        try:
            with path.open("x", encoding="ascii") as file:
                file.write(database_id + "\n")
        except FileExistsError:
            if path.read_text(encoding="ascii").strip() == database_id:
                return True
            logger.warning(
                "%s holds results of another database, which are left alone; give each its own folder.",
                self._root.parent,
            )
        return False

    def settled_ids(self) -> Iterator[list[str]]:
        """Return the jobs that have had a folder for a while, some at a time."""
        some: list[str] = []
        now = time.time()
        with os.scandir(self._root) as entries:
            for entry in entries:
                try:
                    is_old = _ID.fullmatch(entry.name) and now - entry.stat().st_mtime > _ORPHAN_AGE_S
                except FileNotFoundError:  # another server has removed it
                    continue
                if is_old:
                    some.append(entry.name)
                if len(some) == _AT_ONCE:
                    yield some
                    some = []
        if some:
            yield some

    def _folder(self, job_id: str) -> Path:
        assert _ID.fullmatch(job_id), job_id
        return self._root / job_id

    def _path(self, job_id: str, name: str) -> Path:
        assert _NAME.fullmatch(name), name
        return self._folder(job_id) / name


def _sync_folder(folder: Path) -> None:
    """Have the folder's entries reach the disk too; not every system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        return
    finally:
        os.close(descriptor)
