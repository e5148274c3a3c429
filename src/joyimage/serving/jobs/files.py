"""The files of jobs: pictures that came in, results that go out. Each is written whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_ID = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"(input|output|edited)-\d{1,3}|mask")
RESULTS = {"images": "output", "masks": "edited"}
"""What the files of results are called."""
# A folder younger than this may belong to a job whose record is just being written.
_ORPHAN_AGE_S = 600


class JobFiles:
    """One folder a job.

    Ids and names are made here and in the job store, never by a client.

    Args:
        root: Where the folders stand; made where missing, for this user only.
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

    def has(self, job_id: str, name: str) -> bool:
        """Tell whether a file is there."""
        return self._path(job_id, name).is_file()

    def remove(self, job_id: str) -> None:
        """Remove a job's folder; it is no error that there is none."""
        shutil.rmtree(self._folder(job_id), ignore_errors=True)

    def remove_inputs(self, job_id: str) -> None:
        """Remove what came in, once nothing can ask for it again."""
        kept = tuple(f"{name}-" for name in RESULTS.values())
        for path in self._folder(job_id).glob("*"):
            if not path.name.startswith(kept):
                path.unlink(missing_ok=True)

    def ids(self) -> list[str]:
        """List the jobs that have had a folder for a while."""
        now = time.time()
        return [
            folder.name
            for folder in self._root.iterdir()
            if _ID.fullmatch(folder.name) and now - folder.stat().st_mtime > _ORPHAN_AGE_S
        ]

    def remove_all_but(self, known: Collection[str]) -> int:
        """Remove folders without a record, which a killed server left, and return their number."""
        orphans = [job_id for job_id in self.ids() if job_id not in known]
        for job_id in orphans:
            self.remove(job_id)
        return len(orphans)

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
