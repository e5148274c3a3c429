"""The engine: takes jobs whose turn it is, runs them on pipelines, and sees to it that each of them ends.

It knows nothing of HTTP. One thread hands out work, one keeps house, and each pipeline has a thread of its
own with one run in flight.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from joyimage.serving.errors import OutOfMemoryError, ReplicaLostError
from joyimage.serving.runner import Work
from joyimage.serving.schemas import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from joyimage.serving.events import EventLog
    from joyimage.serving.files import JobFiles
    from joyimage.serving.jobs import Job, JobStore
    from joyimage.serving.liveness import Liveness
    from joyimage.serving.metrics import Metrics
    from joyimage.serving.preview import Preview
    from joyimage.serving.runner import ModelInfo, Outcome, Runner
    from joyimage.serving.settings import ServerSettings

logger = logging.getLogger(__name__)

_TICK_S = 1.0
_HOMES = 1024  # pictures whose replica is remembered


class Engine:
    """Runs jobs.

    Args:
        settings: Of the server.
        store: The queue.
        files: Pictures and results.
        events: Where progress is told.
        metrics: Where it is counted.
        liveness: This server's name and sign of life.
    """

    def __init__(
        self,
        settings: ServerSettings,
        store: JobStore,
        files: JobFiles,
        events: EventLog,
        metrics: Metrics,
        liveness: Liveness,
    ) -> None:
        self._settings = settings
        self._store = store
        self._files = files
        self._events = events
        self._metrics = metrics
        self._liveness = liveness
        self._owner = liveness.name
        self._runners: list[Runner] = []
        self._free: list[int] = []
        self._homes: OrderedDict[str, int] = OrderedDict()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._is_interrupting = threading.Event()
        self._cancelled: set[str] = set()
        self._progress: dict[str, tuple[int, int]] = {}
        self._unsettled: dict[str, tuple[str, dict[str, Any]]] = {}
        self._run_s = 1.0
        self._threads: list[threading.Thread] = []
        self._pool = ThreadPoolExecutor(settings.replicas, "joyimage-run")
        self.problem: str | None = None

    @property
    def info(self) -> ModelInfo | None:
        """What is known of the model; None while it is loaded."""
        return self._runners[0].info if self._runners else None

    @property
    def idle(self) -> int:
        """Number of pipelines that wait."""
        return len(self._free)

    @property
    def busy(self) -> int:
        """Number of pipelines that run."""
        return len(self._runners) - len(self._free)

    def start(self, load: Callable[[int], Runner]) -> None:
        """Begin to load pipelines and then to run jobs, in threads.

        Args:
            load: Makes the pipeline of a number.
        """
        self._recover()
        targets: list[Callable[[], None]] = [lambda: self._load(load), self._hand_out, self._keep_house]
        for target in targets:
            thread = threading.Thread(target=target, name="joyimage-engine", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Take no further jobs; what runs may end within the time of grace, or goes back."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        timer = threading.Timer(self._settings.shutdown_grace_s, self._is_interrupting.set)
        timer.daemon = True
        timer.start()
        self._pool.shutdown(wait=True)
        timer.cancel()
        self._is_interrupting.set()
        for thread in self._threads:
            thread.join(timeout=2 * _TICK_S)
        self._settle()

    def wake(self) -> None:
        """Say that there is a new job."""
        with self._changed:
            self._changed.notify_all()

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a job: at once where it waits, at the next step where it runs."""
        self._cancelled.add(job_id)
        job = self._store.cancel(job_id)
        if job is None or job.state != "running":
            self._cancelled.discard(job_id)
        if job is not None and job.state == "cancelled":
            self._tell_end(job)
        return job

    def progress(self, job_id: str) -> tuple[int, int] | None:
        """Return step and number of steps of a job that runs here."""
        return self._progress.get(job_id)

    def wait_s(self, waiting: int) -> float:
        """Estimate how long a queue takes."""
        return max(1.0, waiting * self._run_s / max(1, len(self._runners)))

    def _load(self, load: Callable[[int], Runner]) -> None:
        try:
            for number in range(self._settings.replicas):
                runner = load(number)
                with self._changed:
                    self._runners.append(runner)
                    self._free.append(number)
                    self._changed.notify_all()
        # Whatever keeps the model from loading is told to those who ask whether the server is ready.
        except Exception as error:
            self.problem = f"The model can't be loaded: {error}"
            logger.exception("The model can't be loaded.")

    def _hand_out(self) -> None:
        """Give waiting jobs to free pipelines until the engine stops."""
        while True:
            with self._changed:
                if self._is_stopping:
                    return
                if not self._free:
                    self._changed.wait()
                    continue
            try:
                jobs = self._store.claim(self._owner, self._batch_limit)
            except SQLAlchemyError:
                logger.exception("The database can't be reached; trying again.")
                time.sleep(_TICK_S)
                continue
            with self._changed:
                if not jobs:
                    # Another server's jobs, or one that came since, are found at the next tick.
                    self._changed.wait(_TICK_S / 4)
                    continue
                number = self._choose(jobs[0].picture_hash)
                self._free.remove(number)
            try:
                self._pool.submit(self._occupy, number, jobs)
            except RuntimeError:  # stopped in between
                self.put_back(self._owner, job_ids=[job.id for job in jobs], is_counted=False)

    def _batch_limit(self, job: Job) -> int:
        """Return how many jobs like this one may run together."""
        width, height = job.task["canvas"] or (1, 1)
        pixels = job.task["num_outputs"] * width * height
        return max(1, min(self._settings.max_batch, self._settings.batch_pixels // pixels))

    def _choose(self, picture_hash: str | None) -> int:
        """Return the free pipeline that knows a picture, or else the one that its hash is closest to."""
        if picture_hash is None:
            return self._free[0]
        home = self._homes.get(picture_hash)
        if home is None or home not in self._free:
            home = max(
                self._free, key=lambda number: hashlib.sha256(f"{picture_hash}{number}".encode()).digest()
            )
        self._homes[picture_hash] = home
        self._homes.move_to_end(picture_hash)
        while len(self._homes) > _HOMES:
            self._homes.popitem(last=False)
        return home

    def _occupy(self, number: int, jobs: list[Job]) -> None:
        try:
            started = time.monotonic()
            _Run(self, self._runners[number], jobs).run()
            self._run_s += 0.2 * ((time.monotonic() - started) / len(jobs) - self._run_s)
        # A bug here must not take the pipeline out of service; the jobs are put back with the next sweep.
        except Exception:
            logger.exception("A run ended in an error of the engine.")
            self._fail_all(jobs)
        finally:
            with self._changed:
                self._free.append(number)
                self._changed.notify_all()

    def _fail_all(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self.settle(job, "failed", error=_error(500, "The server made a mistake; its log says which."))

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
        self._settle()

    def _settle(self) -> None:
        for job_id, (state, values) in list(self._unsettled.items()):
            try:
                job = self._store.finish(job_id, self._owner, state, **values)
            except SQLAlchemyError:
                logger.exception("A job's end can't be recorded; trying again.")
                continue
            self._unsettled.pop(job_id, None)
            if job is not None:
                self._files.remove_inputs(job.id)
                self._tell_end(job)

    def _tell_end(self, job: Job) -> None:
        self._metrics.ended.labels(job.kind, job.state).inc()
        self._events.publish(
            job.id, job.state, {"error": job.error} if job.error else {}, restarted=job.restarted
        )

    def _keep_house(self) -> None:
        while not self._is_interrupting.wait(_TICK_S):
            try:
                self._settle()
                self._recover()
                for job in self._store.fail_overdue(self._settings.queue_timeout_s):
                    self._files.remove_inputs(job.id)
                    self._tell_end(job)
                for job_id in self._store.remove_expired():
                    self._files.remove(job_id)
            except (SQLAlchemyError, OSError):
                logger.exception("Housekeeping failed; trying again.")

    def _recover(self) -> None:
        """Put back the jobs of servers that have died."""
        for owner in self._store.owners():
            if not self._liveness.is_alive(owner):
                self.put_back(owner)

    def put_back(self, owner: str, *, job_ids: Sequence[str] = (), is_counted: bool = True) -> None:
        """Put running jobs back into the queue, or end those that nobody wants or that did that before."""
        for job in self._store.put_back(owner, job_ids=job_ids, is_counted=is_counted):
            self._progress.pop(job.id, None)
            if job.is_finished:
                self._tell_end(job)
                continue
            if is_counted:
                self._metrics.restarted.inc()
            self._events.publish(job.id, "queued", {"restarted": job.restarted}, restarted=job.restarted)
        self.wake()


class _Run:
    """One run of jobs that share a pass."""

    def __init__(self, engine: Engine, runner: Runner, jobs: list[Job]) -> None:
        self._engine = engine
        self._runner = runner
        self._jobs = jobs
        self._open = {job.id for job in jobs}
        self._deadline = time.monotonic() + engine._settings.job_timeout_s
        self._asked_at = time.monotonic()

    def run(self) -> None:
        """Run the jobs and end each of them, whatever happens."""
        engine = self._engine
        started = time.monotonic()
        engine._metrics.batch_size.observe(len(self._jobs))
        for job in self._jobs:
            engine._metrics.wait_seconds.observe(max(0.0, (job.started_at or 0) - job.created_at))
            engine._events.publish(job.id, "running", {"restarted": job.restarted}, restarted=job.restarted)
        try:
            works = [self._read(job) for job in self._jobs]
        except OSError as error:
            self._end_all(500, f"The job's pictures can't be read: {error.strerror or error}.")
            return
        try:
            outcomes = self._runner.run(works, self._report, self._is_stopped)
        except ReplicaLostError:
            engine.put_back(engine._owner, job_ids=sorted(self._open))
            return
        except OutOfMemoryError as error:
            self._end_all(503, str(error), "out_of_memory")
            return
        # What is wrong with one job must not end those that happened to run with it.
        except Exception as error:
            if len(self._jobs) > 1:
                for job in [job for job in self._jobs if job.id in self._open]:
                    _Run(engine, self._runner, [job]).run()
            elif isinstance(error, (ValueError, TypeError)):
                self._end_all(400, str(error), "invalid_value")
            else:
                logger.exception("A job failed.")
                self._end_all(500, "The server made a mistake; its log says which.", "internal_error")
            return
        if outcomes is None:
            if self._open:  # the server stops
                engine.put_back(engine._owner, job_ids=sorted(self._open), is_counted=False)
            return
        for job, outcome in zip(self._jobs, outcomes, strict=True):
            engine._metrics.run_seconds.labels(job.kind).observe(time.monotonic() - started)
            if "memory" in outcome.facts:
                engine._metrics.low_memory.inc()
            if outcome.facts.get("reused"):
                engine._metrics.reused.inc()
            if job.id in self._open and not self._ends_now(job):
                self._keep(job, outcome)

    def _read(self, job: Job) -> Work:
        files = self._engine._files
        task = Task.model_validate(job.task)
        pictures = tuple(files.read(job.id, f"input-{number}") for number in range(task.num_images))
        return Work(task=task, pictures=pictures, mask=files.read(job.id, "mask") if task.has_mask else None)

    def _keep(self, job: Job, outcome: Outcome) -> None:
        """Write results, then say that they are there."""
        try:
            for number, image in enumerate(outcome.images):
                self._engine._files.write(job.id, f"output-{number}", image)
        except OSError as error:
            reason = error.strerror or str(error)
            failure = _error(503, f"The result can't be stored: {reason}.", "storage_full")
            self._engine.settle(job, "failed", error=failure)
            return
        self._engine.settle(job, "succeeded", result={**outcome.facts, "num_images": len(outcome.images)})

    def _report(self, step: int, steps: int, previews: Sequence[Preview | None]) -> None:
        for job, preview in zip(self._jobs, previews, strict=True):
            if job.id not in self._open:
                continue
            self._engine._progress[job.id] = (step, steps)
            data = {"step": step, "steps": steps}
            self._engine._events.publish(job.id, "progress", data, restarted=job.restarted, preview=preview)

    def _is_stopped(self) -> bool:
        """End jobs that shall not go on; tell whether none is left, or the server stops."""
        if self._engine._is_interrupting.is_set():
            return True
        now = time.monotonic()
        if now - self._asked_at > _TICK_S:  # another server may have been asked to cancel
            self._asked_at = now
            try:
                self._engine._cancelled |= self._engine._store.cancelled_among(sorted(self._open))
            except SQLAlchemyError:
                logger.exception("The database can't be asked for cancelled jobs.")
        for job in self._jobs:
            if job.id in self._open:
                self._ends_now(job)
        return not self._open

    def _ends_now(self, job: Job) -> bool:
        engine = self._engine
        if job.id in engine._cancelled:
            self._open.discard(job.id)
            engine.settle(job, "cancelled")
            return True
        if time.monotonic() > self._deadline:
            self._open.discard(job.id)
            limit = engine._settings.job_timeout_s
            sentence = f"The job ran for more than {limit:g} s; ask for fewer steps or a smaller size."
            engine.settle(job, "failed", error=_error(504, sentence, "job_timeout"))
            return True
        return False

    def _end_all(self, status: int, message: str, code: str | None = None) -> None:
        for job in self._jobs:
            if job.id in self._open:
                self._engine.settle(job, "failed", error=_error(status, message, code))


def _error(status: int, message: str, code: str | None = None) -> dict[str, Any]:
    return {"status": status, "message": message, "code": code}
