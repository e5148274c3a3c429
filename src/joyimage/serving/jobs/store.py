"""Job records that survive a restart, in SQLite or PostgreSQL.

The database is the queue: what runs next, and who runs it, is decided by single statements in it, so several
servers may share one database and one folder.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event, func, select

from joyimage.serving.http.errors import ApiError
from joyimage.serving.jobs.records import JOBS, METADATA, STATES, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from sqlalchemy import Connection

_LOCK = 5_600_210  # any number that only we use, for PostgreSQL's advisory lock


class JobStore:
    """All jobs.

    Args:
        url: SQLAlchemy's address of the database.
        clock: Gives the time.
        keep_s: How long finished jobs are kept.
    """

    def __init__(self, url: str, clock: Callable[[], float], keep_s: float) -> None:
        self._clock = clock
        self._keep_s = keep_s
        self._is_sqlite = url.startswith("sqlite")
        options: dict[str, Any] = (
            {"connect_args": {"timeout": 30}} if self._is_sqlite else {"pool_pre_ping": True}
        )
        # What a statement was given has no place in the log: it holds prompts.
        options["hide_parameters"] = True
        self._engine = sa.create_engine(url, pool_size=8, max_overflow=8, **options)
        if self._is_sqlite:
            event.listen(self._engine, "connect", _set_up_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        with self._write() as connection:
            METADATA.create_all(connection)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def submit(self, job: Job, *, queue_size: int, client_jobs: int) -> tuple[Job, bool]:
        """Put a job into the queue, or find the one that the same request made before.

        A client's jobs take turns with those of others: each new one belongs to the round after the client's
        last, and rounds are run in order.

        Args:
            job: The new record.
            queue_size: Most jobs that wait.
            client_jobs: Most jobs of this client that wait or run.

        Returns:
            The record, and whether it is new.

        Raises:
            ApiError: There is no room, or the idempotency key was used for something else.
        """
        with self._write() as connection:
            if job.idempotency_key is not None:
                mine = (JOBS.c.client == job.client) & (JOBS.c.idempotency_key == job.idempotency_key)
                earlier = _one(connection.execute(select(JOBS).where(mine)))
                if earlier is not None:
                    if earlier.request_hash != job.request_hash:
                        raise ApiError(
                            422,
                            "The Idempotency-Key was used for another request; give each request its own.",
                            code="idempotency_key_reused",
                        )
                    return earlier, False
            self._check_room(connection, job.client, queue_size, client_jobs)
            queued = JOBS.c.state == "queued"
            head = connection.scalar(select(func.min(JOBS.c.turn)).where(queued))
            own = connection.scalar(
                select(func.max(JOBS.c.turn)).where(queued & (JOBS.c.client == job.client))
            )
            number = (connection.scalar(select(func.max(JOBS.c.number))) or 0) + 1
            values = {
                **{column.name: getattr(job, column.name) for column in JOBS.columns},
                "number": number,
                "turn": max((head or 1) - 1, own or 0) + 1,
                "created_at": self._clock(),
            }
            connection.execute(JOBS.insert().values(**values))
        return Job(**values), True

    def check_room(self, client: str, *, queue_size: int, client_jobs: int) -> None:
        """Refuse a request before its body is read, where it would be refused afterwards.

        Raises:
            ApiError: There is no room.
        """
        with self._read() as connection:
            self._check_room(connection, client, queue_size, client_jobs)

    def get(self, job_id: str, client: str | None = None) -> Job | None:
        """Return a job; None where there is none, or it is another client's."""
        query = select(JOBS).where(JOBS.c.id == job_id)
        if client is not None:
            query = query.where(JOBS.c.client == client)
        with self._read() as connection:
            return _one(connection.execute(query))

    def list(
        self,
        client: str | None = None,
        *,
        state: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> list[Job]:
        """List jobs, newest first.

        Args:
            client: Only this one's; None for all.
            state: Only those in this state.
            limit: Most jobs.
            after: Only those older than this job.

        Returns:
            Jobs.
        """
        query = select(JOBS).order_by(JOBS.c.number.desc()).limit(limit)
        if client is not None:
            query = query.where(JOBS.c.client == client)
        if state is not None:
            query = query.where(JOBS.c.state == state)
        if after is not None:
            number = select(JOBS.c.number).where(JOBS.c.id == after).scalar_subquery()
            query = query.where(JOBS.c.number < number)
        with self._read() as connection:
            return _all(connection.execute(query))

    def counts(self) -> dict[str, int]:
        """Count the jobs in each state."""
        with self._read() as connection:
            rows = connection.execute(select(JOBS.c.state, func.count()).group_by(JOBS.c.state))
            return {**dict.fromkeys(STATES, 0), **{row[0]: row[1] for row in rows}}

    def position(self, job: Job) -> int:
        """Count the jobs that are run before this one."""
        earlier = (JOBS.c.turn < job.turn) | ((JOBS.c.turn == job.turn) & (JOBS.c.number < job.number))
        query = select(func.count()).where((JOBS.c.state == "queued") & earlier)
        with self._read() as connection:
            return connection.scalar(query) or 0

    def peek(self) -> Job | None:
        """Return the job whose turn it is; it goes on waiting."""
        queued = JOBS.c.state == "queued"
        query = select(JOBS).where(queued).order_by(JOBS.c.turn, JOBS.c.number).limit(1)
        with self._read() as connection:
            return _one(connection.execute(query))

    def claim(self, owner: str, limit: Callable[[Job], int] = lambda _: 1) -> list[Job]:
        """Take the job whose turn it is, and others that can run with it.

        Args:
            owner: Who takes it.
            limit: Says for the first how many may run together.

        Returns:
            Jobs, now running; none where none waits.
        """
        queued = JOBS.c.state == "queued"
        in_order = select(JOBS.c.id).where(queued).order_by(JOBS.c.turn, JOBS.c.number)
        with self._write(lock=False) as connection:
            taken = self._take(connection, owner, in_order.limit(1))
            most = limit(taken[0]) if taken and taken[0].batch_key is not None else 1
            if most > 1:
                alike = in_order.where(JOBS.c.batch_key == taken[0].batch_key).limit(most - 1)
                taken += self._take(connection, owner, alike)
        return taken

    def finish(
        self,
        job_id: str,
        owner: str,
        state: str,
        *,
        result: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
    ) -> Job | None:
        """End a running job.

        Args:
            job_id: Which.
            owner: Who ran it.
            state: One of `FINISHED`.
            result: What came out.
            error: What went wrong.

        Returns:
            The record; None where the job is no longer this owner's.
        """
        now = self._clock()
        values = {"state": state, "result": result, "error": error, "owner": None}
        times = {"finished_at": now, "expires_at": now + self._keep_s}
        mine = (JOBS.c.id == job_id) & (JOBS.c.state == "running") & (JOBS.c.owner == owner)
        with self._write(lock=False) as connection:
            return _one(
                connection.execute(JOBS.update().where(mine).values(**values, **times).returning(JOBS))
            )

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a waiting job at once; ask a running one to end at its next step."""
        now = self._clock()
        with self._write() as connection:
            this = JOBS.c.id == job_id
            ended = {"state": "cancelled", "finished_at": now, "expires_at": now + self._keep_s}
            waiting = JOBS.update().where(this & (JOBS.c.state == "queued")).values(**ended)
            job = _one(connection.execute(waiting.returning(JOBS)))
            if job is not None:
                return job
            running = JOBS.update().where(this & (JOBS.c.state == "running")).values(cancel_asked=True)
            connection.execute(running)
            return _one(connection.execute(select(JOBS).where(this)))

    def cancelled_among(self, job_ids: Sequence[str]) -> set[str]:
        """Return those jobs that shall end."""
        query = select(JOBS.c.id).where(JOBS.c.id.in_(job_ids) & JOBS.c.cancel_asked)
        with self._read() as connection:
            return set(connection.scalars(query))

    def put_back(self, owner: str, *, is_counted: bool = True, job_ids: Sequence[str] = ()) -> list[Job]:
        """Put jobs back whose server has died or stops: the first time, they run again.

        Args:
            owner: Whose jobs.
            is_counted: Whether this is the once that a job may run again.
            job_ids: Only these; all if empty.

        Returns:
            The records, queued again or ended.
        """
        now = self._clock()
        theirs = (JOBS.c.state == "running") & (JOBS.c.owner == owner)
        if job_ids:
            theirs &= JOBS.c.id.in_(job_ids)
        ended = {"owner": None, "finished_at": now, "expires_at": now + self._keep_s}
        again = {"state": "queued", "owner": None, "started_at": None}
        if is_counted:
            again["restarted"] = JOBS.c.restarted + 1
        twice = {
            "message": "The server died twice while this job ran, so it is not run again.",
            "code": "server_died_twice",
            "status": 500,
        }
        nobody = {
            "message": "The server stopped while this ran, and nobody waits for the answer.",
            "code": "server_stopped",
            "status": 503,
        }
        changes: list[tuple[Any, dict[str, Any]]] = [
            (JOBS.c.cancel_asked, {"state": "cancelled", **ended}),
            (JOBS.c.is_awaited, {"state": "failed", "error": nobody, **ended}),
        ]
        if is_counted:
            changes.append((JOBS.c.restarted >= 1, {"state": "failed", "error": twice, **ended}))
        changes.append((sa.true(), again))
        jobs: list[Job] = []
        with self._write() as connection:
            for condition, values in changes:
                update = JOBS.update().where(theirs & condition).values(**values)
                jobs += _all(connection.execute(update.returning(JOBS)))
        return jobs

    def owners(self) -> set[str]:
        """Return the servers that have running jobs."""
        query = select(JOBS.c.owner).where(JOBS.c.state == "running").distinct()
        with self._read() as connection:
            return {owner for owner in connection.scalars(query) if owner is not None}

    def fail_overdue(self, queue_timeout_s: float) -> list[Job]:
        """End jobs that have waited for too long."""
        now = self._clock()
        error = {
            "message": f"The job waited for more than {queue_timeout_s:g} s; the server has too much to do.",
            "code": "queue_timeout",
            "status": 503,
        }
        overdue = (JOBS.c.state == "queued") & (JOBS.c.created_at < now - queue_timeout_s)
        ended = {"state": "failed", "error": error, "finished_at": now, "expires_at": now + self._keep_s}
        with self._write() as connection:
            return _all(connection.execute(JOBS.update().where(overdue).values(**ended).returning(JOBS)))

    def remove_expired(self) -> list[str]:
        """Remove the records whose time is over and return their ids."""
        expired = JOBS.c.expires_at < self._clock()
        with self._write() as connection:
            return list(connection.scalars(JOBS.delete().where(expired).returning(JOBS.c.id)))

    def ids(self, among: Collection[str]) -> set[str]:
        """Return those ids that have a record."""
        with self._read() as connection:
            return set(connection.scalars(select(JOBS.c.id).where(JOBS.c.id.in_(among))))

    def _take(self, connection: Connection, owner: str, which: Any) -> list[Job]:
        if not self._is_sqlite:
            which = which.with_for_update(skip_locked=True)
        # PostgreSQL may run a bare subquery again for each row; as a list it is run once.
        chosen = JOBS.c.id.in_(which.cte("chosen").select())
        values = {"state": "running", "owner": owner, "started_at": self._clock()}
        update = JOBS.update().where(chosen & (JOBS.c.state == "queued")).values(**values)
        return sorted(
            _all(connection.execute(update.returning(JOBS))), key=lambda job: (job.turn, job.number)
        )

    def _check_room(self, connection: Connection, client: str, queue_size: int, client_jobs: int) -> None:
        """Refuse what there is no room for.

        Raises:
            ApiError: The queue is full, or the client has its share.
        """
        waiting = connection.scalar(select(func.count()).where(JOBS.c.state == "queued")) or 0
        if waiting >= queue_size:
            raise ApiError(
                429, f"The queue is full: {waiting} jobs wait. Try again later.", code="queue_full"
            )
        active = (JOBS.c.client == client) & JOBS.c.state.in_(("queued", "running"))
        own = connection.scalar(select(func.count()).where(active)) or 0
        if own >= client_jobs:
            raise ApiError(
                429,
                f"You have {own} jobs that wait or run, and more are not taken. Try again when some ended.",
                code="too_many_jobs",
            )

    @contextmanager
    def _write(self, *, lock: bool = True) -> Iterator[Connection]:
        """Open a transaction that writes; with `lock`, the only one of its kind."""
        with self._engine.begin() as connection:
            if lock and not self._is_sqlite:
                connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
            yield connection

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with self._engine.connect().execution_options(is_reading=True) as connection:
            yield connection


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


def _all(rows: Any) -> list[Job]:
    return [Job(**row) for row in rows.mappings()]


def _one(rows: Any) -> Job | None:
    return next(iter(_all(rows)), None)
