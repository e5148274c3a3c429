"""A job's record: as a Python value, and as a table."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

FINISHED = ("succeeded", "failed", "cancelled")
_MOST_FILES = 1000
STATES = ("queued", "running", *FINISHED)
PASSING = ("out_of_memory", "storage_full", "server_stopped", "queue_timeout")
"""Codes of errors that say nothing of the job itself: the same request may succeed later."""


class JsonText(sa.types.TypeDecorator[Any]):
    """JSON in a text column; what is not JSON reads as an empty object, so that a bad row harms no other."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        """Return the text that is stored."""
        del dialect
        return None if value is None else json.dumps(value, ensure_ascii=False)

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        """Return the value that a row holds."""
        del dialect
        if value is None:
            return None
        try:
            read = json.loads(value)
        except (TypeError, ValueError, RecursionError):
            return {}
        return read if read is None or isinstance(read, dict) else {}


METADATA = sa.MetaData()
JOBS = sa.Table(
    "joyimage_jobs",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False, unique=True),
    sa.Column("turn", sa.BigInteger, nullable=False),
    sa.Column("cost", sa.BigInteger, nullable=False),
    sa.Column("client", sa.String(200), nullable=False),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("task", JsonText, nullable=False),
    sa.Column("batch_key", sa.String(64)),
    sa.Column("image_hash", sa.String(64)),
    sa.Column("idempotency_key", sa.String(255)),
    sa.Column("request_hash", sa.String(64), nullable=False),
    sa.Column("is_awaited", sa.Boolean, nullable=False),
    sa.Column("awaited_by", sa.String(64)),
    sa.Column("cancel_asked", sa.Boolean, nullable=False),
    sa.Column("owner", sa.String(64)),
    sa.Column("restarted", sa.Integer, nullable=False),
    sa.Column("step", sa.Integer),
    sa.Column("num_steps", sa.Integer),
    sa.Column("stored_bytes", sa.BigInteger, nullable=False),
    sa.Column("device_s", sa.Float),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("queued_at", sa.Float, nullable=False),
    sa.Column("started_at", sa.Float),
    sa.Column("finished_at", sa.Float),
    sa.Column("expires_at", sa.Float),
    sa.Column("result", JsonText),
    sa.Column("error", JsonText),
    sa.UniqueConstraint("client", "idempotency_key"),
    sa.Index("joyimage_jobs_turn", "state", "turn", "number"),
    sa.Index("joyimage_jobs_client", "client", "state"),
    sa.Index("joyimage_jobs_expiry", "expires_at"),
)
FACTS = sa.Table(
    "joyimage_server",
    METADATA,
    sa.Column("name", sa.String(40), primary_key=True),
    sa.Column("value", sa.String(100), nullable=False),
)
"""What is known of the whole database: its id, and when a server last ran on it."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job's record.

    Attributes:
        id: Cannot be guessed.
        client: Name of the client that submitted it.
        kind: Kind of the edit, such as "move".
        task: `Task.to_dict` of the job; an empty dict where the row is damaged.
        request_hash: Hash of everything that came with the request.
        number: Place in the order of arrival.
        turn: Jobs run in the order of their turns, so that clients share the device fairly.
        cost: What the job takes of the device, as `Task.cost`.
        state: One of `STATES`.
        batch_key: Jobs with the same one may run together; None for those that run alone.
        image_hash: Hash of the first input image.
        idempotency_key: The client's own name for the request.
        is_awaited: Whether a connection waits for the result and no other client will ask for it.
        awaited_by: Name of the server that holds this connection.
        cancel_asked: Whether the job is to end at its next step.
        owner: Name of the server that runs it.
        restarted: How often it was requeued because its server died.
        step: Steps that are done, as last recorded.
        num_steps: Number of its steps, as last recorded.
        stored_bytes: Size of its files on disk.
        device_s: Seconds for which it had a pipeline.
        created_at: Seconds since 1970, like the other times.
        queued_at: Start of its wait; moved where no server ran, so that such time does not count.
        started_at: When it last began to run.
        finished_at: When it ended.
        expires_at: When record and results are removed.
        result: What came out, as JSON.
        error: What went wrong: message and code.
    """

    id: str
    client: str
    kind: str
    task: dict[str, Any] = field(repr=False)
    request_hash: str
    number: int = 0
    turn: int = 0
    cost: int = 1
    state: str = "queued"
    batch_key: str | None = None
    image_hash: str | None = None
    idempotency_key: str | None = None
    is_awaited: bool = False
    awaited_by: str | None = None
    cancel_asked: bool = False
    owner: str | None = None
    restarted: int = 0
    step: int | None = None
    num_steps: int | None = None
    stored_bytes: int = 0
    device_s: float | None = None
    created_at: float = 0.0
    queued_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = None
    result: dict[str, Any] | None = field(default=None, repr=False)
    error: dict[str, Any] | None = None

    @property
    def is_finished(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.state in FINISHED

    def count(self, which: str) -> int:
        """Return how many "images", "masks" or "inputs" clients can fetch; 0 where a damaged row does not tell."""
        result = self.result or {}
        if which == "inputs":
            has_ended = self.state == "succeeded" or (self.is_finished and self.count("images") > 0)
            is_kept = has_ended and not result.get("is_deleted")
            number = self.task.get("num_inputs") if is_kept else 0
        else:
            number = result.get(f"num_{which}")
        return number if isinstance(number, int) and 0 <= number <= _MOST_FILES else 0
