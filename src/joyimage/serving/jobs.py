"""Job records that survive a restart, in SQLite or PostgreSQL.

The database is the queue: what runs next, and who runs it, is decided by single statements in it, so several
servers may share one database and one folder.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event, func, select

from joyimage.serving.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from sqlalchemy import Connection

FINISHED = ("succeeded", "failed", "cancelled")
STATES = ("queued", "running", *FINISHED)
_LOCK = 5_600_210  # any number that only we use, for PostgreSQL's advisory lock

_metadata = sa.MetaData()
_jobs = sa.Table(
    "joyimage_jobs",
    _metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False, unique=True),
    sa.Column("turn", sa.BigInteger, nullable=False),
    sa.Column("client", sa.String(200), nullable=False),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("task", sa.JSON, nullable=False),
    sa.Column("batch_key", sa.String(64)),
    sa.Column("picture_hash", sa.String(64)),
    sa.Column("idempotency_key", sa.String(255)),
    sa.Column("request_hash", sa.String(64), nullable=False),
    sa.Column("is_awaited", sa.Boolean, nullable=False),
    sa.Column("cancel_asked", sa.Boolean, nullable=False),
    sa.Column("owner", sa.String(64)),
    sa.Column("restarted", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("started_at", sa.Float),
    sa.Column("finished_at", sa.Float),
    sa.Column("expires_at", sa.Float),
    sa.Column("result", sa.JSON),
    sa.Column("error", sa.JSON),
    sa.UniqueConstraint("client", "idempotency_key"),
    sa.Index("joyimage_jobs_turn", "state", "turn", "number"),
    sa.Index("joyimage_jobs_client", "client", "state"),
    sa.Index("joyimage_jobs_expiry", "expires_at"),
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job's record.

    Attributes:
        id: Can't be guessed.
        client: Whose it is.
        kind: What is made.
        task: How, as JSON.
        request_hash: Of everything that came with the request.
        number: Place in the order of arrival.
        turn: Round in which it is its client's turn.
        state: One of `STATES`.
        batch_key: Jobs with the same one may run together; None for those that run alone.
        picture_hash: Of the first picture.
        idempotency_key: The client's own name for the request.
        is_awaited: Whether a connection waits for the result and nobody else will ask for it.
        cancel_asked: Whether it shall end at the next step.
        owner: Which server runs it.
        restarted: How often it was put back because its server died.
        created_at: Seconds since 1970, as the other times.
        started_at: When it ran first, or again.
        finished_at: When it ended.
        expires_at: When record and results go.
        result: What came out, as JSON.
        error: What went wrong: status, message, code.
    """

    id: str
    client: str
    kind: str
    task: dict[str, Any] = field(repr=False)
    request_hash: str
    number: int = 0
    turn: int = 0
    state: str = "queued"
    batch_key: str | None = None
    picture_hash: str | None = None
    idempotency_key: str | None = None
    is_awaited: bool = False
    cancel_asked: bool = False
    owner: str | None = None
    restarted: int = 0
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = None
    result: dict[str, Any] | None = field(default=None, repr=False)
    error: dict[str, Any] | None = None

    @property
    def is_finished(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.state in FINISHED


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
        self._engine = sa.create_engine(url, pool_size=8, max_overflow=8, **options)
        if self._is_sqlite:
            event.listen(self._engine, "connect", _set_up_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        with self._write() as connection:
            _metadata.create_all(connection)

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
                mine = (_jobs.c.client == job.client) & (_jobs.c.idempotency_key == job.idempotency_key)
                earlier = _one(connection.execute(select(_jobs).where(mine)))
                if earlier is not None:
                    if earlier.request_hash != job.request_hash:
                        raise ApiError(
                            422,
                            "The Idempotency-Key was used for another request; give each request its own.",
                            code="idempotency_key_reused",
                        )
                    return earlier, False
            self._check_room(connection, job.client, queue_size, client_jobs)
            queued = _jobs.c.state == "queued"
            head = connection.scalar(select(func.min(_jobs.c.turn)).where(queued))
            own = connection.scalar(
                select(func.max(_jobs.c.turn)).where(queued & (_jobs.c.client == job.client))
            )
            number = (connection.scalar(select(func.max(_jobs.c.number))) or 0) + 1
            values = {
                **{column.name: getattr(job, column.name) for column in _jobs.columns},
                "number": number,
                "turn": max((head or 1) - 1, own or 0) + 1,
                "created_at": self._clock(),
            }
            connection.execute(_jobs.insert().values(**values))
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
        query = select(_jobs).where(_jobs.c.id == job_id)
        if client is not None:
            query = query.where(_jobs.c.client == client)
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
        query = select(_jobs).order_by(_jobs.c.number.desc()).limit(limit)
        if client is not None:
            query = query.where(_jobs.c.client == client)
        if state is not None:
            query = query.where(_jobs.c.state == state)
        if after is not None:
            number = select(_jobs.c.number).where(_jobs.c.id == after).scalar_subquery()
            query = query.where(_jobs.c.number < number)
        with self._read() as connection:
            return _all(connection.execute(query))

    def counts(self) -> dict[str, int]:
        """Count the jobs in each state."""
        with self._read() as connection:
            rows = connection.execute(select(_jobs.c.state, func.count()).group_by(_jobs.c.state))
            return {**dict.fromkeys(STATES, 0), **{row[0]: row[1] for row in rows}}

    def position(self, job: Job) -> int:
        """Count the jobs that are run before this one."""
        earlier = (_jobs.c.turn < job.turn) | ((_jobs.c.turn == job.turn) & (_jobs.c.number < job.number))
        query = select(func.count()).where((_jobs.c.state == "queued") & earlier)
        with self._read() as connection:
            return connection.scalar(query) or 0

    def claim(self, owner: str, limit: Callable[[Job], int] = lambda _: 1) -> list[Job]:
        """Take the job whose turn it is, and others that can run with it.

        Args:
            owner: Who takes it.
            limit: Says for the first how many may run together.

        Returns:
            Jobs, now running; none where none waits.
        """
        queued = _jobs.c.state == "queued"
        in_order = select(_jobs.c.id).where(queued).order_by(_jobs.c.turn, _jobs.c.number)
        with self._write(lock=False) as connection:
            taken = self._take(connection, owner, in_order.limit(1))
            most = limit(taken[0]) if taken and taken[0].batch_key is not None else 1
            if most > 1:
                alike = in_order.where(_jobs.c.batch_key == taken[0].batch_key).limit(most - 1)
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
        mine = (_jobs.c.id == job_id) & (_jobs.c.state == "running") & (_jobs.c.owner == owner)
        with self._write(lock=False) as connection:
            return _one(
                connection.execute(_jobs.update().where(mine).values(**values, **times).returning(_jobs))
            )

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a waiting job at once; ask a running one to end at its next step."""
        now = self._clock()
        with self._write() as connection:
            this = _jobs.c.id == job_id
            ended = {"state": "cancelled", "finished_at": now, "expires_at": now + self._keep_s}
            waiting = _jobs.update().where(this & (_jobs.c.state == "queued")).values(**ended)
            job = _one(connection.execute(waiting.returning(_jobs)))
            if job is not None:
                return job
            running = _jobs.update().where(this & (_jobs.c.state == "running")).values(cancel_asked=True)
            connection.execute(running)
            return _one(connection.execute(select(_jobs).where(this)))

    def cancelled_among(self, job_ids: Sequence[str]) -> set[str]:
        """Return those jobs that shall end."""
        query = select(_jobs.c.id).where(_jobs.c.id.in_(job_ids) & _jobs.c.cancel_asked)
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
        theirs = (_jobs.c.state == "running") & (_jobs.c.owner == owner)
        if job_ids:
            theirs &= _jobs.c.id.in_(job_ids)
        ended = {"owner": None, "finished_at": now, "expires_at": now + self._keep_s}
        again = {"state": "queued", "owner": None, "started_at": None}
        if is_counted:
            again["restarted"] = _jobs.c.restarted + 1
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
            (_jobs.c.cancel_asked, {"state": "cancelled", **ended}),
            (_jobs.c.is_awaited, {"state": "failed", "error": nobody, **ended}),
        ]
        if is_counted:
            changes.append((_jobs.c.restarted >= 1, {"state": "failed", "error": twice, **ended}))
        changes.append((sa.true(), again))
        jobs: list[Job] = []
        with self._write() as connection:
            for condition, values in changes:
                update = _jobs.update().where(theirs & condition).values(**values)
                jobs += _all(connection.execute(update.returning(_jobs)))
        return jobs

    def owners(self) -> set[str]:
        """Return the servers that have running jobs."""
        query = select(_jobs.c.owner).where(_jobs.c.state == "running").distinct()
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
        overdue = (_jobs.c.state == "queued") & (_jobs.c.created_at < now - queue_timeout_s)
        ended = {"state": "failed", "error": error, "finished_at": now, "expires_at": now + self._keep_s}
        with self._write() as connection:
            return _all(connection.execute(_jobs.update().where(overdue).values(**ended).returning(_jobs)))

    def remove_expired(self) -> list[str]:
        """Remove the records whose time is over and return their ids."""
        expired = _jobs.c.expires_at < self._clock()
        with self._write() as connection:
            return list(connection.scalars(_jobs.delete().where(expired).returning(_jobs.c.id)))

    def ids(self, among: Collection[str]) -> set[str]:
        """Return those ids that have a record."""
        with self._read() as connection:
            return set(connection.scalars(select(_jobs.c.id).where(_jobs.c.id.in_(among))))

    def _take(self, connection: Connection, owner: str, which: Any) -> list[Job]:
        if not self._is_sqlite:
            which = which.with_for_update(skip_locked=True)
        # PostgreSQL may run a bare subquery again for each row; as a list it is run once.
        chosen = _jobs.c.id.in_(which.cte("chosen").select())
        values = {"state": "running", "owner": owner, "started_at": self._clock()}
        update = _jobs.update().where(chosen & (_jobs.c.state == "queued")).values(**values)
        return sorted(
            _all(connection.execute(update.returning(_jobs))), key=lambda job: (job.turn, job.number)
        )

    def _check_room(self, connection: Connection, client: str, queue_size: int, client_jobs: int) -> None:
        """Refuse what there is no room for.

        Raises:
            ApiError: The queue is full, or the client has its share.
        """
        waiting = connection.scalar(select(func.count()).where(_jobs.c.state == "queued")) or 0
        if waiting >= queue_size:
            raise ApiError(
                429, f"The queue is full: {waiting} jobs wait. Try again later.", code="queue_full"
            )
        active = (_jobs.c.client == client) & _jobs.c.state.in_(("queued", "running"))
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
