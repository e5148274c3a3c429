"""The events of jobs, for those who follow them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from joyimage.serving.jobs.records import FINISHED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from joyimage.serving.workers.preview import Preview

# After a restart a job's events continue from a number that no earlier event of it had.
_PER_START = 1_000_000
_ENDED_KEPT = 256
_ENDED_KEPT_S = 120.0


@dataclass(frozen=True)
class Event:
    """One event of a job.

    Attributes:
        id: Number that grows from event to event.
        type: "queued", "running", "progress", "step" (of a plan), "succeeded", "failed" or "cancelled".
        data: Content of the event, as JSON values.
        preview: Preview image of a step; only the newest is kept.
    """

    id: int
    type: str
    data: dict[str, Any]
    preview: Preview | None = None

    @property
    def is_last(self) -> bool:
        """Whether nothing comes after it."""
        return self.type in FINISHED


@dataclass(eq=False)
class _Log:
    events: list[Event] = field(default_factory=list)
    with_preview: int | None = None  # place of the event that has the newest preview
    watchers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = field(default_factory=set)


class EventLog:
    """The events of each job, published by any thread and followed by coroutines.

    The events of jobs that have ended are dropped after a while: the record says all that they said.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logs: dict[str, _Log] = {}
        self._ended: deque[tuple[float, str]] = deque()

    def publish(
        self,
        job_id: str,
        kind: str,
        data: dict[str, Any],
        *,
        restarted: int = 0,
        preview: Preview | None = None,
    ) -> None:
        """Add an event and wake the followers of the job; after the last event, nothing is added."""
        with self._lock:
            log = self._logs.setdefault(job_id, _Log())
            events = log.events
            last = events[-1] if events else None
            if last is not None and last.is_last:
                return
            if preview is not None:
                if log.with_preview is not None:
                    events[log.with_preview] = replace(events[log.with_preview], preview=None)
                log.with_preview = len(events)
            number = max(0 if last is None else last.id, restarted * _PER_START) + 1
            event = Event(number, kind, data, preview)
            events.append(event)
            if event.is_last:
                self._ended.append((time.monotonic(), job_id))
                self._forget()
            watchers = list(log.watchers)
        for loop, woken in watchers:
            # A closed loop has no watchers.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(woken.set)

    async def follow(self, job_id: str, after: int = 0, idle_s: float = 1.0) -> AsyncIterator[Event | None]:
        """Yield a job's events as they come, up to its last.

        Args:
            job_id: Id of the job.
            after: Number of the last event that is known already.
            idle_s: How long to wait for one.

        Yields:
            Events; None where none came in time, and at the start where there is none yet.
        """
        watcher = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            log = self._logs.setdefault(job_id, _Log())
            log.watchers.add(watcher)
        try:
            while True:
                watcher[1].clear()
                with self._lock:
                    new = [event for event in log.events if event.id > after]
                for event in new:
                    yield event
                    after = event.id
                    if event.is_last:
                        return
                if not new:
                    yield None
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(watcher[1].wait(), idle_s)
        finally:
            with self._lock:
                log.watchers.discard(watcher)
                if not log.events and not log.watchers and self._logs.get(job_id) is log:
                    del self._logs[job_id]

    def unended(self) -> list[str]:
        """Return the jobs of which no last event is known and that no client follows."""
        with self._lock:
            return [
                job_id
                for job_id, log in self._logs.items()
                if not log.watchers and not (log.events and log.events[-1].is_last)
            ]

    def drop(self, job_ids: set[str]) -> None:
        """Drop the events of jobs that no client follows."""
        with self._lock:
            for job_id in job_ids:
                log = self._logs.get(job_id)
                if log is not None and not log.watchers:
                    del self._logs[job_id]

    def _forget(self) -> None:
        now = time.monotonic()
        while self._ended and (len(self._ended) > _ENDED_KEPT or now - self._ended[0][0] > _ENDED_KEPT_S):
            self._logs.pop(self._ended.popleft()[1], None)


def sse(kind: str, data: dict[str, Any], number: int | None = None) -> bytes:
    """Write one server-sent event."""
    identity = "" if number is None else f"id: {number}\n"
    return f"{identity}event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
