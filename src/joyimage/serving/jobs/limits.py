"""How much may wait in the queue, and how much of the server each client may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from joyimage.errors import QueueFullError
from joyimage.serving.jobs.records import JOBS

if TYPE_CHECKING:
    from sqlalchemy import Connection

_HOUR_S = 3600


class LimitError(QueueFullError):
    """A job is not accepted because a limit is reached.

    Args:
        message: What the limit is.
        code: Name of the limit for programs, such as "queue_full".
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class QueueLimits:
    """How much may wait, and how much each client may have.

    Attributes:
        queue_size: Maximum number of queued jobs. A client that has none queued may submit one beyond it, up to twice
            as many.
        client_jobs: Maximum number of queued or running jobs per client.
        client_bytes: Maximum size of a client's inputs and results on disk, in bytes; None for no limit.
        stored_bytes: Maximum size of all inputs and results on disk, in bytes; None for no limit.
        client_device_s: Maximum device time per client and hour, in seconds; None for no limit.
    """

    queue_size: int
    client_jobs: int
    client_bytes: int | None = None
    stored_bytes: int | None = None
    client_device_s: float | None = None


def check_room(
    connection: Connection, client: str, limits: QueueLimits, *, now: float, new_bytes: int = 0
) -> None:
    """Reject what there is no room for.

    Args:
        connection: In a transaction.
        client: Name of the client.
        limits: How much may wait, and how much each client may have.
        now: The time.
        new_bytes: Size of the new job's inputs.

    Raises:
        LimitError: The queue is full, or the client has its share.
    """
    waiting = connection.scalar(select(func.count()).where(JOBS.c.state == "queued")) or 0
    mine = JOBS.c.client == client
    if waiting >= limits.queue_size:
        own = connection.scalar(select(func.count()).where((JOBS.c.state == "queued") & mine)) or 0
        # Others with many jobs must not shut out a client that has none.
        if own or waiting >= 2 * limits.queue_size:
            raise LimitError(f"The queue is full: {waiting} jobs wait. Try again later.", "queue_full")
    active = mine & JOBS.c.state.in_(("queued", "running"))
    own = connection.scalar(select(func.count()).where(active)) or 0
    if own >= limits.client_jobs:
        raise LimitError(
            f"You have {own} queued or running jobs, the maximum; try again when one finishes.",
            "too_many_jobs",
        )
    if limits.client_bytes is not None:
        stored = connection.scalar(select(func.sum(JOBS.c.stored_bytes)).where(mine)) or 0
        if stored + new_bytes > limits.client_bytes:
            raise LimitError(
                f"Your images take {stored:,} bytes on this server; at most {limits.client_bytes:,} are accepted. "
                "Delete jobs, or wait until some expire.",
                "storage_quota",
            )
    if limits.stored_bytes is not None:
        stored = connection.scalar(select(func.sum(JOBS.c.stored_bytes))) or 0
        if stored + new_bytes > limits.stored_bytes:
            raise LimitError(
                "The server's storage is full; try again when jobs have expired.", "storage_quota"
            )
    if limits.client_device_s is not None:
        recent = mine & (JOBS.c.finished_at > now - _HOUR_S)
        used = connection.scalar(select(func.sum(JOBS.c.device_s)).where(recent)) or 0.0
        if used >= limits.client_device_s:
            raise LimitError(
                f"Your jobs ran for {used:.0f} s within an hour, of {limits.client_device_s:g} s; "
                "try again later.",
                "device_quota",
            )
