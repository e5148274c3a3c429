"""How jobs end: recorded, published and counted, once each, also where the database is away for a while."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from joyimage.serving.jobs.events import EventLog
    from joyimage.serving.jobs.files import JobFiles
    from joyimage.serving.jobs.records import Job
    from joyimage.serving.jobs.store import JobStore
    from joyimage.serving.metrics import Metrics
    from joyimage.serving.workers.preview import Preview

logger = logging.getLogger(__name__)


class JobCompletion:
    """Records the start, the progress and the end of the jobs that run here.

    Args:
        store: The records.
        files: Input images and results.
        events: Where progress is published.
        metrics: Where it is counted.
        owner: This server's name.
    """

    def __init__(
        self, store: JobStore, files: JobFiles, events: EventLog, metrics: Metrics, owner: str
    ) -> None:
        self.store = store
        self.files = files
        self.events = events
        self.metrics = metrics
        self.owner = owner
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._cancelled: set[str] = set()
        self._progress: dict[str, tuple[int, int]] = {}
        self._unrecorded: dict[str, tuple[int, int]] = {}
        self._unsettled: dict[str, tuple[str, dict[str, Any]]] = {}

    def begin(self, job: Job) -> None:
        """Publish that a job runs."""
        with self._lock:
            self._running.add(job.id)
        self.metrics.wait_seconds.observe(max(0.0, (job.started_at or 0) - job.queued_at))
        self.events.publish(job.id, "running", {"restarted": job.restarted}, restarted=job.restarted)

    def report(self, job: Job, step: int, steps: int, preview: Preview | None, **where: int) -> None:
        """Publish how far a job is, and at which step of a plan."""
        with self._lock:
            if job.id not in self._running:  # it has been ended meanwhile
                return
            self._progress[job.id] = self._unrecorded[job.id] = (step, steps)
        data = {"step": step, "steps": steps, **where}
        self.events.publish(job.id, "progress", data, restarted=job.restarted, preview=preview)

    def progress(self, job_id: str) -> tuple[int, int] | None:
        """Return step and number of steps of a job that runs here."""
        return self._progress.get(job_id)

    def runs_here(self, job_id: str) -> bool:
        """Return whether a job runs on this server."""
        return job_id in self._running

    def record_progress(self) -> None:
        """Record how far the jobs are, for the clients of other servers."""
        with self._lock:
            new, self._unrecorded = self._unrecorded, {}
        try:
            if new:
                self.store.record_progress((job_id, *steps) for job_id, steps in new.items())
        except BaseException:
            with self._lock:  # tried again
                again = {job_id: steps for job_id, steps in new.items() if job_id in self._running}
                self._unrecorded = {**again, **self._unrecorded}
            raise

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a job: at once where it waits, at the next step where it runs."""
        job = self.store.cancel(job_id)
        if job is None:
            return None
        if job.state == "running":
            with self._lock:
                if job_id in self._running:  # another server asks the database
                    self._cancelled.add(job_id)
        elif job.state == "cancelled":
            self.publish_end(job)
        return job

    def is_cancelled(self, job_id: str) -> bool:
        """Return whether a running job is to end."""
        return job_id in self._cancelled

    def poll_cancelled(self, job_ids: Sequence[str]) -> None:
        """Learn which jobs another server was asked to cancel."""
        try:
            asked = self.store.cancelled_among(job_ids)
        except SQLAlchemyError:
            logger.exception("The database cannot be asked for cancelled jobs.")
            return
        with self._lock:
            self._cancelled |= asked & self._running

    def settle(
        self,
        job: Job,
        state: str,
        *,
        result: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
        stored_bytes: int = 0,
        device_s: float | None = None,
    ) -> None:
        """End a job; where the database cannot record it now, it is recorded later."""
        self._forget(job.id)
        values = {"result": result, "error": error, "stored_bytes": stored_bytes, "device_s": device_s}
        self._unsettled[job.id] = (state, values)
        self.settle_rest()

    def settle_rest(self) -> None:
        """Record the ends that are not recorded yet."""
        for job_id, (state, values) in list(self._unsettled.items()):
            try:
                job = self.store.finish(job_id, self.owner, state, **values)
            except SQLAlchemyError:
                logger.exception("A job's end cannot be recorded; trying again.")
                continue
            self._unsettled.pop(job_id, None)
            if job is not None:
                self.publish_end(job)

    def requeue(
        self, owner: str, *, job_ids: Sequence[str] = (), is_counted: bool = True, **values: Any
    ) -> None:
        """Requeue running jobs, or end those that no client wants or that did that before."""
        for job in self.store.requeue(owner, job_ids=job_ids, is_counted=is_counted, **values):
            self._forget(job.id)
            if job.is_finished:
                self.publish_end(job)
                continue
            if is_counted:
                self.metrics.restarted.inc()
            self.events.publish(job.id, "queued", {"restarted": job.restarted}, restarted=job.restarted)

    def publish_end(self, job: Job) -> None:
        """Keep the inputs of a job that has results, remove any others, publish the end and count it."""
        self._forget(job.id)
        if job.state == "succeeded" or job.count("images"):
            self.files.keep_inputs(job.id)
        self.files.remove_inputs(job.id)
        self.metrics.ended.labels(job.kind, job.state).inc()
        if job.started_at is not None and job.finished_at is not None:
            self.metrics.run_seconds.labels(job.kind).observe(max(0.0, job.finished_at - job.started_at))
        self.events.publish(
            job.id, job.state, {"error": job.error} if job.error else {}, restarted=job.restarted
        )

    def _forget(self, job_id: str) -> None:
        with self._lock:
            self._running.discard(job_id)
            self._cancelled.discard(job_id)
            self._progress.pop(job_id, None)
            self._unrecorded.pop(job_id, None)
