"""Job records that survive a restart, in SQLite or PostgreSQL.

The database is the queue: single statements in it decide what runs next and who runs it, so several servers
may share one database and one folder. Nothing here knows HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import func, select

from joyimage.errors import IdempotencyConflictError
from joyimage.serving.jobs.database import Database
from joyimage.serving.jobs.limits import check_room
from joyimage.serving.jobs.records import FACTS, FINISHED, JOBS, PASSING, STATES, Job
from joyimage.serving.jobs.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy import Connection

    from joyimage.serving.jobs.limits import QueueLimits

_AT_ONCE = 500  # rows that one statement names or changes


class JobStore:
    """All jobs.

    Args:
        url: SQLAlchemy's address of the database.
        clock: Returns the time.
        keep_s: How long finished jobs are kept.

    Raises:
        ServerError: The database cannot be opened or brought to this version of the schema.
        InvalidInputError: The database was written by a newer joyimage.
    """

    def __init__(self, url: str, clock: Callable[[], float], keep_s: float) -> None:
        self._clock = clock
        self._keep_s = keep_s
        self._turns = Turns()
        self.database = Database(url)
        self._read, self._write = self.database.read, self.database.write

    def close(self) -> None:
        """Give the connections back."""
        self.database.close()

    def submit(self, job: Job, limits: QueueLimits) -> tuple[Job, bool]:
        """Put a job into the queue, or find the one that the same request made before.

        Clients share the device by what their jobs cost: a job's turn begins where the turn of its client's
        last one ends, and not before that of the job that runs now or is next.

        Args:
            job: The new record.
            limits: How much may wait.

        Returns:
            The record, and whether it is new.

        Raises:
            LimitError: There is no room.
            IdempotencyConflictError: The idempotency key was used for another request.
        """
        now = self._clock()
        with self._write() as connection:
            if job.idempotency_key is not None:
                mine = (JOBS.c.client == job.client) & (JOBS.c.idempotency_key == job.idempotency_key)
                earlier = _one(connection.execute(select(JOBS).where(mine)))
                if earlier is not None:
                    if earlier.request_hash != job.request_hash:
                        raise IdempotencyConflictError(
                            "The Idempotency-Key was used for another request; give each request its own."
                        )
                    if (earlier.error or {}).get("code") not in PASSING:
                        return earlier, False
                    connection.execute(
                        JOBS.update().where(JOBS.c.id == earlier.id).values(idempotency_key=None)
                    )
            check_room(connection, job.client, limits, now=now, new_bytes=job.stored_bytes)
            turn = self._turns.find(connection, job.client)
            number = (connection.scalar(select(func.max(JOBS.c.number))) or 0) + 1
            values = {
                **{column.name: getattr(job, column.name) for column in JOBS.columns},
                "number": number,
                "turn": turn,
                "created_at": now,
                "queued_at": now,
            }
            connection.execute(JOBS.insert().values(**values))
        self._turns.end_at(job.client, turn + job.cost)
        return Job(**values), True

    def check_room(self, client: str, limits: QueueLimits) -> None:
        """Reject a request before its body is read, where it would be rejected afterwards.

        Raises:
            LimitError: There is no room.
        """
        with self._read() as connection:
            check_room(connection, client, limits, now=self._clock())

    def check(self) -> None:
        """Read a row with all its columns; raises SQLAlchemy's error where that is not possible."""
        with self._read() as connection:
            connection.execute(select(JOBS).limit(1)).all()

    @property
    def database_id(self) -> str:
        """A random name that the database keeps for good."""
        with self._read() as connection:
            return str(connection.scalar(select(FACTS.c.value).where(FACTS.c.name == "database_id")))

    def heartbeat(self) -> None:
        """Record that a server runs now."""
        with self._write() as connection:
            self._set_last_seen(connection, self._clock())

    def skip_downtime(self) -> float:
        """Move all deadlines by the time since a server last ran, and return it in seconds.

        What is kept for a day is kept for a day in which a server runs; a clock that was set while none ran,
        forward or back, ends nothing.
        """
        with self._write() as connection:
            now = self._clock()
            last = connection.scalar(select(FACTS.c.value).where(FACTS.c.name == "last_seen"))
            self._set_last_seen(connection, now)
            if last is None:
                last = connection.scalar(
                    select(func.max(func.coalesce(JOBS.c.finished_at, JOBS.c.started_at, JOBS.c.created_at)))
                )
            gap = 0.0 if last is None else now - float(last)
            if gap:
                connection.execute(JOBS.update().values(expires_at=JOBS.c.expires_at + gap))
                connection.execute(
                    JOBS.update().where(JOBS.c.state == "queued").values(queued_at=JOBS.c.queued_at + gap)
                )
            return gap

    def _set_last_seen(self, connection: Connection, now: float) -> None:
        this = FACTS.c.name == "last_seen"
        if not connection.execute(FACTS.update().where(this).values(value=repr(now))).rowcount:
            connection.execute(FACTS.insert().values(name="last_seen", value=repr(now)))

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

    def oldest_wait_s(self) -> float:
        """Return for how long the oldest waiting job waits; 0 where none does."""
        query = select(func.min(JOBS.c.queued_at)).where(JOBS.c.state == "queued")
        with self._read() as connection:
            oldest = connection.scalar(query)
        return 0.0 if oldest is None else max(0.0, self._clock() - oldest)

    def position(self, job: Job) -> int:
        """Count the jobs that are run before this one."""
        earlier = (JOBS.c.turn < job.turn) | ((JOBS.c.turn == job.turn) & (JOBS.c.number < job.number))
        query = select(func.count()).where((JOBS.c.state == "queued") & earlier)
        with self._read() as connection:
            return connection.scalar(query) or 0

    def peek(self) -> Job | None:
        """Return the job whose turn it is; it stays queued."""
        queued = JOBS.c.state == "queued"
        query = select(JOBS).where(queued).order_by(JOBS.c.turn, JOBS.c.number).limit(1)
        with self._read() as connection:
            return _one(connection.execute(query))

    def claim(self, owner: str, limit: Callable[[Job], int] = lambda _: 1) -> list[Job]:
        """Take the job whose turn it is, and others that can run with it.

        Args:
            owner: Name of the server that takes it.
            limit: Returns for the first job how many may run together.

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
        stored_bytes: int = 0,
        device_s: float | None = None,
    ) -> Job | None:
        """End a running job.

        Args:
            job_id: Id of the job.
            owner: Name of the server that ran it.
            state: One of `FINISHED`.
            result: What came out.
            error: What went wrong.
            stored_bytes: Size of its results on disk.
            device_s: Seconds for which it had a pipeline.

        Returns:
            The record; None where the job is no longer this owner's.
        """
        now = self._clock()
        values = {"state": state, "result": result, "error": error, "owner": None}
        values |= {"stored_bytes": stored_bytes, "device_s": device_s}
        times = {"finished_at": now, "expires_at": now + self._keep_s}
        mine = (JOBS.c.id == job_id) & (JOBS.c.state == "running") & (JOBS.c.owner == owner)
        with self._write(lock=False) as connection:
            return _one(
                connection.execute(JOBS.update().where(mine).values(**values, **times).returning(JOBS))
            )

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a queued job at once; ask a running one to end at its next step."""
        now = self._clock()
        with self._write() as connection:
            this = JOBS.c.id == job_id
            ended = {"state": "cancelled", "finished_at": now, "expires_at": now + self._keep_s}
            waiting = JOBS.update().where(this & (JOBS.c.state == "queued")).values(**ended)
            job = _one(connection.execute(waiting.returning(JOBS)))
            if job is not None:
                self._turns.refund(job.client, job.cost)
                return job
            running = JOBS.update().where(this & (JOBS.c.state == "running")).values(cancel_asked=True)
            connection.execute(running)
            return _one(connection.execute(select(JOBS).where(this)))

    def cancelled_among(self, job_ids: Sequence[str]) -> set[str]:
        """Return those running jobs that are to end."""
        return self._ids_where(job_ids, JOBS.c.cancel_asked)

    def unfinished_among(self, job_ids: Sequence[str]) -> set[str]:
        """Return those jobs that are queued or running."""
        return self._ids_where(job_ids, JOBS.c.state.in_(("queued", "running")))

    def record_progress(self, progress: Iterable[tuple[str, int, int]]) -> None:
        """Record how far running jobs are, for the other servers: id, steps done, number of steps."""
        with self._write(lock=False) as connection:
            for job_id, step, num_steps in progress:
                this = (JOBS.c.id == job_id) & (JOBS.c.state == "running")
                connection.execute(JOBS.update().where(this).values(step=step, num_steps=num_steps))

    def record_result(self, job_id: str, owner: str, result: dict[str, Any], stored_bytes: int) -> None:
        """Record what a running job has made so far.

        Args:
            job_id: Id of the job.
            owner: Name of the server that runs it.
            result: What came out.
            stored_bytes: Size of its files on disk.
        """
        runs_here = (JOBS.c.state == "running") & (JOBS.c.owner == owner)
        values = {"result": result, "stored_bytes": stored_bytes}
        with self._write(lock=False) as connection:
            connection.execute(JOBS.update().where((JOBS.c.id == job_id) & runs_here).values(**values))

    def drop_results(self, job_id: str) -> Job | None:
        """Record that a finished job's files are removed; its record stays until it expires."""
        this = (JOBS.c.id == job_id) & JOBS.c.state.in_(FINISHED)
        with self._write() as connection:
            job = _one(connection.execute(select(JOBS).where(this)))
            if job is None:
                return None
            result = None if job.result is None else {**job.result, "num_images": 0, "num_masks": 0}
            values = {"stored_bytes": 0, "result": None if result is None else {**result, "is_deleted": True}}
            return _one(connection.execute(JOBS.update().where(this).values(**values).returning(JOBS)))

    def requeue(
        self,
        owner: str,
        *,
        is_counted: bool = True,
        job_ids: Sequence[str] = (),
        reason: str = "The server stopped while the job ran, and no client waits for the answer.",
    ) -> list[Job]:
        """Requeue jobs whose server has died or stops: the first time, they run again.

        Args:
            owner: Name of the server whose jobs they are.
            is_counted: Whether this is the one time that a job may run again.
            job_ids: Only these, a few; all of the server if empty.
            reason: Message of the error of a job whose client is gone.

        Returns:
            The records, queued again or ended.
        """
        now = self._clock()
        theirs = (JOBS.c.state == "running") & (JOBS.c.owner == owner)
        if job_ids:
            theirs &= JOBS.c.id.in_(job_ids)
        ended = {"owner": None, "finished_at": now, "expires_at": now + self._keep_s}
        again = {"state": "queued", "owner": None, "started_at": None, "step": None, "queued_at": now}
        if is_counted:
            again["restarted"] = JOBS.c.restarted + 1
        twice = {
            "message": "The server died twice while this job ran, so it is not run again.",
            "code": "server_died_twice",
        }
        unwanted = {"message": reason, "code": "server_stopped"}
        changes: list[tuple[Any, dict[str, Any]]] = [
            (JOBS.c.cancel_asked, {"state": "cancelled", **ended}),
            (JOBS.c.is_awaited, {"state": "failed", "error": unwanted, **ended}),
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

    def end_awaited(self, waiter: str | None) -> list[Job]:
        """End queued jobs whose only client had its connection to a server that has died or stops.

        Args:
            waiter: Name of the server; None for jobs of versions that did not record it.
        """
        error = {
            "message": "The server stopped before the job began; send it again.",
            "code": "server_stopped",
        }
        theirs = JOBS.c.awaited_by.is_(None) if waiter is None else JOBS.c.awaited_by == waiter
        return self._end_queued(JOBS.c.is_awaited & theirs, error)

    def owners(self) -> set[str]:
        """Return the servers that have running jobs."""
        query = select(JOBS.c.owner).where(JOBS.c.state == "running").distinct()
        with self._read() as connection:
            return {owner for owner in connection.scalars(query) if owner is not None}

    def waiters(self) -> set[str | None]:
        """Return the servers on whose connections queued jobs depend."""
        query = select(JOBS.c.awaited_by).where((JOBS.c.state == "queued") & JOBS.c.is_awaited).distinct()
        with self._read() as connection:
            return set(connection.scalars(query))

    def fail_overdue(self, queue_timeout_s: float) -> list[Job]:
        """End jobs that have waited for too long; returns some of them, none where none is left."""
        error = {
            "message": f"The job waited for more than {queue_timeout_s:g} s; the server is overloaded.",
            "code": "queue_timeout",
        }
        return self._end_queued(JOBS.c.queued_at < self._clock() - queue_timeout_s, error)

    def remove_expired(self) -> list[str]:
        """Remove records whose time is over; returns the ids of some of them, none where none is left."""
        expired = select(JOBS.c.id).where(JOBS.c.expires_at < self._clock()).limit(_AT_ONCE)
        with self._write() as connection:
            ids = list(connection.scalars(expired))
            if ids:
                connection.execute(JOBS.delete().where(JOBS.c.id.in_(ids)))
            return ids

    def ids(self, among: Sequence[str]) -> set[str]:
        """Return those ids that have a record."""
        return self._ids_where(among, sa.true())

    def _ids_where(self, job_ids: Sequence[str], condition: Any) -> set[str]:
        found: set[str] = set()
        with self._read() as connection:
            for start in range(0, len(job_ids), _AT_ONCE):
                some = JOBS.c.id.in_(job_ids[start : start + _AT_ONCE])
                found.update(connection.scalars(select(JOBS.c.id).where(some & condition)))
        return found

    def _end_queued(self, condition: Any, error: dict[str, Any]) -> list[Job]:
        now = self._clock()
        some = select(JOBS.c.id).where((JOBS.c.state == "queued") & condition).limit(_AT_ONCE)
        ended = {"state": "failed", "error": error, "finished_at": now, "expires_at": now + self._keep_s}
        with self._write() as connection:
            ids = list(connection.scalars(some))
            if not ids:
                return []
            these = JOBS.c.id.in_(ids) & (JOBS.c.state == "queued")
            return _all(connection.execute(JOBS.update().where(these).values(**ended).returning(JOBS)))

    def _take(self, connection: Connection, owner: str, which: Any) -> list[Job]:
        if not self.database.is_sqlite:
            which = which.with_for_update(skip_locked=True)
        # PostgreSQL may run a bare subquery again for each row; as a list it is run once.
        chosen = JOBS.c.id.in_(which.cte("chosen").select())
        values = {"state": "running", "owner": owner, "started_at": self._clock()}
        update = JOBS.update().where(chosen & (JOBS.c.state == "queued")).values(**values)
        return sorted(
            _all(connection.execute(update.returning(JOBS))), key=lambda job: (job.turn, job.number)
        )


def _all(rows: Any) -> list[Job]:
    return [Job(**row) for row in rows.mappings()]


def _one(rows: Any) -> Job | None:
    return next(iter(_all(rows)), None)
