"""A job's record: as Python has it, and as a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

FINISHED = ("succeeded", "failed", "cancelled")
STATES = ("queued", "running", *FINISHED)

METADATA = sa.MetaData()
JOBS = sa.Table(
    "joyimage_jobs",
    METADATA,
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
