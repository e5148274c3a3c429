"""How jobs end: recorded, told and counted, once each, also where the database is away for a while."""

from __future__ import annotations

import logging
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


class Ledger:
    """Keeps the books of the jobs that run here.

    Args:
        store: The records.
        files: Pictures and results.
        events: Where progress is told.
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
        self._cancelled: set[str] = set()
        self._progress: dict[str, tuple[int, int]] = {}
        self._unsettled: dict[str, tuple[str, dict[str, Any]]] = {}

    def begin(self, job: Job) -> None:
        """Tell that a job runs."""
        self.metrics.wait_seconds.observe(max(0.0, (job.started_at or 0) - job.created_at))
        self.events.publish(job.id, "running", {"restarted": job.restarted}, restarted=job.restarted)

    def report(self, job: Job, step: int, steps: int, preview: Preview | None) -> None:
        """Tell how far a job is."""
        self._progress[job.id] = (step, steps)
        data = {"step": step, "steps": steps}
        self.events.publish(job.id, "progress", data, restarted=job.restarted, preview=preview)

    def progress(self, job_id: str) -> tuple[int, int] | None:
        """Return step and number of steps of a job that runs here."""
        return self._progress.get(job_id)

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a job: at once where it waits, at the next step where it runs."""
        self._cancelled.add(job_id)
        job = self.store.cancel(job_id)
        if job is None or job.state != "running":
            self._cancelled.discard(job_id)
        if job is not None and job.state == "cancelled":
            self.tell_end(job)
        return job

    def is_cancelled(self, job_id: str) -> bool:
        """Tell whether a running job shall end."""
        return job_id in self._cancelled

    def look_for_cancelled(self, job_ids: Sequence[str]) -> None:
        """Learn which jobs another server was asked to cancel."""
        try:
            self._cancelled |= self.store.cancelled_among(job_ids)
        except SQLAlchemyError:
            logger.exception("The database can't be asked for cancelled jobs.")

    def settle(
        self,
        job: Job,
        state: str,
        *,
        result: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
    ) -> None:
        """End a job; where the database can't take it now, later."""
        self._progress.pop(job.id, None)
        self._cancelled.discard(job.id)
        self._unsettled[job.id] = (state, {"result": result, "error": error})
        self.settle_rest()

    def fail(self, jobs: Sequence[Job], status: int, message: str, code: str | None = None) -> None:
        """End jobs with an error."""
        for job in jobs:
            self.settle(job, "failed", error={"status": status, "message": message, "code": code})

    def settle_rest(self) -> None:
        """Record the ends that are not recorded yet."""
        for job_id, (state, values) in list(self._unsettled.items()):
            try:
                job = self.store.finish(job_id, self.owner, state, **values)
            except SQLAlchemyError:
                logger.exception("A job's end can't be recorded; trying again.")
                continue
            self._unsettled.pop(job_id, None)
            if job is not None:
                self.files.remove_inputs(job.id)
                self.tell_end(job)

    def put_back(self, owner: str, *, job_ids: Sequence[str] = (), is_counted: bool = True) -> None:
        """Put running jobs back into the queue, or end those that nobody wants or that did that before."""
        for job in self.store.put_back(owner, job_ids=job_ids, is_counted=is_counted):
            self._progress.pop(job.id, None)
            if job.is_finished:
                self.tell_end(job)
                continue
            if is_counted:
                self.metrics.restarted.inc()
            self.events.publish(job.id, "queued", {"restarted": job.restarted}, restarted=job.restarted)

    def tell_end(self, job: Job) -> None:
        """Tell and count that a job has ended."""
        self.metrics.ended.labels(job.kind, job.state).inc()
        self.events.publish(
            job.id, job.state, {"error": job.error} if job.error else {}, restarted=job.restarted
        )
