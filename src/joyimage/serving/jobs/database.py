"""The connection to SQLite or PostgreSQL: opening, transactions, and a file that must not be swapped."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event, func, select
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from joyimage.errors import ServerError
from joyimage.serving.jobs.migrations import upgrade

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

_LOCK = 5_600_210  # any number that only we use, for PostgreSQL's advisory lock
_LOCK_TIMEOUT_S = 10


class Database:
    """A database with the newest schema.

    Args:
        url: SQLAlchemy's address of it.

    Raises:
        ServerError: The database cannot be opened or brought to this version of the schema.
        InvalidInputError: The database was written by a newer joyimage.
    """

    def __init__(self, url: str) -> None:
        self.is_sqlite = url.startswith("sqlite")
        self._path = _own_file(url) if self.is_sqlite else None
        self._file: tuple[int, int] | None = None
        options: dict[str, Any] = (
            {"connect_args": {"timeout": _LOCK_TIMEOUT_S}} if self.is_sqlite else {"pool_pre_ping": True}
        )
        # What a statement was given has no place in the log: it holds prompts.
        options["hide_parameters"] = True
        self.engine = sa.create_engine(url, pool_size=8, max_overflow=8, **options)
        if self.is_sqlite:
            event.listen(self.engine, "connect", _set_up_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        try:
            with self.write() as connection:
                upgrade(connection)
        except (SQLAlchemyError, ImportError) as error:
            reason = getattr(error, "orig", None) or error
            where = self.engine.url.render_as_string(hide_password=True)
            raise ServerError(f"The database {where} cannot be opened: {reason}") from error
        self._file = None if self._path is None else _identity(self._path)

    @contextmanager
    def write(self, *, lock: bool = True) -> Iterator[Connection]:
        """Open a transaction that writes; with `lock`, the only one of its kind.

        Raises:
            OperationalError: The database's file was deleted or replaced.
        """
        self._check_file()
        with self.engine.begin() as connection:
            if lock and not self.is_sqlite:
                connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that reads.

        Raises:
            OperationalError: The database's file was deleted or replaced.
        """
        self._check_file()
        with self.engine.connect().execution_options(is_reading=True) as connection:
            yield connection

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    def _check_file(self) -> None:
        """Notice a file that was deleted or replaced: what is written to the open one would be lost.

        Raises:
            OperationalError: It was.
        """
        if self._file is not None and self._path is not None and _identity(self._path) != self._file:
            problem = sqlite3.OperationalError(
                f"{self._path} was deleted or replaced; start the server again"
            )
            raise OperationalError(None, None, problem)


def _own_file(url: str) -> Path | None:
    """Make SQLite's file, where it has one, readable for this user only: it holds prompts."""
    name = sa.make_url(url).database
    if not name or name == ":memory:" or name.startswith("file:"):
        return None
    path = Path(name)
    try:
        path.touch(mode=0o600)
        path.chmod(0o600)
    except OSError:  # not ours, or no folder: opening it says what is wrong
        return path
    return path


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # SQLAlchemy's advice: Python's module would begin transactions when it likes.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # what a client was told stays true after a power cut
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes then would fail where another has written in between.
    is_reading = connection.get_execution_options().get("is_reading")
    connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")
