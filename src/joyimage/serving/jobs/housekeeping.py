"""What is done every second beside the jobs: deadlines, dead servers, expired records, orphaned files."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from joyimage.serving.jobs.completion import JobCompletion
    from joyimage.serving.jobs.events import EventLog
    from joyimage.serving.jobs.files import JobFiles
    from joyimage.serving.jobs.liveness import Liveness
    from joyimage.serving.jobs.store import JobStore
    from joyimage.serving.settings import ServerSettings

logger = logging.getLogger(__name__)

_HEARTBEAT_S = 10.0
_PRUNE_S = 60.0
_LONGEST_REMOVAL_S = 1.0  # in one round: jobs that run are watched in between, however many folders there are


class Housekeeping:
    """Keeps records, files and event logs bounded and true.

    Args:
        settings: Settings of the server.
        store: The records.
        files: Input images and results.
        events: The event logs.
        liveness: This server's name, and which others are alive.
        completion: Where jobs end.
        wake: Called where a job waits again.
        watch_batches: Holds the jobs that run to their limits.
    """

    def __init__(
        self,
        settings: ServerSettings,
        store: JobStore,
        files: JobFiles,
        events: EventLog,
        liveness: Liveness,
        completion: JobCompletion,
        wake: Callable[[], None],
        watch_batches: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._files = files
        self._events = events
        self._liveness = liveness
        self._completion = completion
        self._wake = wake
        self._watch_batches = watch_batches
        self._orphans: Iterator[list[str]] | None = None
        self._heartbeat_at = self._pruned_at = time.monotonic()

    def begin(self) -> None:
        """Do what comes before the first job."""
        is_alone = not self._liveness.others()
        if is_alone:
            gap_s = self._store.skip_downtime()
            if abs(gap_s) > _PRUNE_S:
                logger.info("No server ran for %.0f s; this time does not count for any deadline.", gap_s)
        if self._files.bind(self._store.database_id):
            self._orphans = self._files.settled_ids()
        self._recover()

    def step(self) -> None:
        """Do everything that is due; what fails does not keep the rest from being done.

        Raises:
            BaseException: The first thing that failed, when the rest is done.
        """
        failures: list[BaseException] = []
        for task in (
            self._watch_batches,
            self._completion.settle_rest,
            self._completion.record_progress,
            self._recover,
            self._end_overdue,
            self._remove_expired,
            self._remove_orphans,
            self._beat,
            self._prune_events,
        ):
            try:
                task()
            except BaseException as error:  # noqa: BLE001 - raised below
                failures.append(error)
        if failures:
            raise failures[0]

    def end_awaited(self, waiter: str | None) -> None:
        """End queued jobs whose only clients were connected to a stopped server."""
        while jobs := self._store.end_awaited(waiter):
            for job in jobs:
                self._completion.publish_end(job)

    def _recover(self) -> None:
        """Requeue the jobs of servers that have died, and end those whose clients went with them."""
        for owner in self._store.owners():
            if not self._liveness.is_alive(owner):
                self._completion.requeue(owner)
                self._wake()
        for waiter in self._store.waiters():
            if waiter is None or not self._liveness.is_alive(waiter):
                self.end_awaited(waiter)

    def _end_overdue(self) -> None:
        while jobs := self._store.fail_overdue(self._settings.queue_timeout_s):
            for job in jobs:
                self._completion.publish_end(job)

    def _remove_expired(self) -> None:
        ends_at = time.monotonic() + _LONGEST_REMOVAL_S
        while ids := self._store.remove_expired():
            for job_id in ids:
                self._files.remove(job_id)
            if time.monotonic() >= ends_at:
                return

    def _remove_orphans(self) -> None:
        """Remove, once, the folders without a record that a killed server of this database left."""
        ends_at = time.monotonic() + _LONGEST_REMOVAL_S
        for ids in self._orphans or ():
            known = self._store.ids(ids)
            for job_id in ids:
                if job_id not in known:
                    self._files.remove(job_id)
            if time.monotonic() >= ends_at:
                return  # the next round continues
        self._orphans = None

    def _beat(self) -> None:
        if time.monotonic() - self._heartbeat_at >= _HEARTBEAT_S:
            self._heartbeat_at = time.monotonic()
            self._store.heartbeat()

    def _prune_events(self) -> None:
        """Drop the events of jobs that ended on another server."""
        if time.monotonic() - self._pruned_at >= _PRUNE_S:
            self._pruned_at = time.monotonic()
            ids = self._events.unended()
            self._events.drop(set(ids) - self._store.unfinished_among(ids))
