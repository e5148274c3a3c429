"""The engine: takes jobs whose turn it is, runs them on pipelines, and sees to it that each of them ends.

It knows nothing of HTTP. One thread hands out work and has the next job prepared while all pipelines are
busy, one keeps house, and each pipeline has one run in flight: as soon as its pictures are decoded the next
begins, while another thread makes files of them.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from joyimage.serving.jobs.completion import Ledger
from joyimage.serving.jobs.execution import Run, prepare_job

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from joyimage.serving.jobs.events import EventLog
    from joyimage.serving.jobs.files import JobFiles
    from joyimage.serving.jobs.liveness import Liveness
    from joyimage.serving.jobs.records import Job
    from joyimage.serving.jobs.store import JobStore
    from joyimage.serving.metrics import Metrics
    from joyimage.serving.settings import ServerSettings
    from joyimage.serving.workers.preparation import Prepared
    from joyimage.serving.workers.protocol import ModelInfo, Runner

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
        self._liveness = liveness
        self._ledger = Ledger(store, files, events, metrics, liveness.name)
        self._runners: list[Runner] = []
        self._free: list[int] = []
        self._homes: OrderedDict[str, int] = OrderedDict()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._is_interrupting = threading.Event()
        self._run_s = 1.0
        self._threads: list[threading.Thread] = []
        # For each pipeline a thread whose job runs, and one whose results are written meanwhile.
        self._pool = ThreadPoolExecutor(2 * settings.replicas, "joyimage-run")
        self._ahead = ThreadPoolExecutor(1, "joyimage-ahead")
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
        self._ahead.shutdown(wait=True, cancel_futures=True)
        self._ledger.settle_rest()

    def wake(self) -> None:
        """Say that there is a new job."""
        with self._changed:
            self._changed.notify_all()

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a job: at once where it waits, at the next step where it runs."""
        return self._ledger.cancel(job_id)

    def progress(self, job_id: str) -> tuple[int, int] | None:
        """Return step and number of steps of a job that runs here."""
        return self._ledger.progress(job_id)

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
        ahead: dict[str, Future[Prepared]] = {}
        while True:
            with self._changed:
                if self._is_stopping:
                    return
                is_full = not self._free
            try:
                if is_full:
                    ahead = ahead or self._look_ahead()
                    self._wait(lambda: bool(self._free))
                    continue
                jobs = self._store.claim(self._ledger.owner, self._batch_limit)
            except SQLAlchemyError:
                logger.exception("The database can't be reached; trying again.")
                time.sleep(_TICK_S)
                continue
            if not jobs:
                # Another server's jobs, or one that came since, are found at the next tick.
                self._wait(lambda: False, _TICK_S / 4)
                continue
            with self._changed:
                number = self._choose(jobs[0].picture_hash)
                self._free.remove(number)
            try:
                self._pool.submit(self._occupy, number, jobs, ahead)
            except RuntimeError:  # stopped in between
                job_ids = [job.id for job in jobs]
                self._ledger.put_back(self._ledger.owner, job_ids=job_ids, is_counted=False)
            # What was prepared for another job than these is left: it may have been cancelled since.
            ahead = {}

    def _wait(self, is_over: Callable[[], bool], seconds: float = _TICK_S) -> None:
        """Wait until something changes, unless it has."""
        with self._changed:
            if not self._is_stopping and not is_over():
                self._changed.wait(seconds)

    def _look_ahead(self) -> dict[str, Future[Prepared]]:
        """Begin to prepare the job that comes next, beside those that run."""
        job = self._store.peek()
        if job is None or job.task["num_images"] == 0 or not self._runners:
            return {}
        return {job.id: self._ahead.submit(prepare_job, job, self._files, self._runners[0].info)}

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

    def _occupy(self, number: int, jobs: list[Job], ahead: dict[str, Future[Prepared]]) -> None:
        """Run jobs on a pipeline, give it back, and then finish their results."""
        run = Run(
            self._ledger,
            self._runners[number],
            jobs,
            ahead=ahead,
            timeout_s=self._settings.job_timeout_s,
            is_interrupted=self._is_interrupting.is_set,
        )
        try:
            try:
                started = time.monotonic()
                run.make()
                self._run_s += 0.2 * ((time.monotonic() - started) / len(jobs) - self._run_s)
            finally:
                with self._changed:
                    self._free.append(number)
                    self._changed.notify_all()
            run.finish()
        # A bug here must not take the pipeline out of service.
        except Exception:
            logger.exception("A run ended in an error of the engine.")
            self._ledger.fail(jobs, 500, "The server made a mistake; its log says which.")

    def _keep_house(self) -> None:
        while not self._is_interrupting.wait(_TICK_S):
            try:
                self._ledger.settle_rest()
                self._recover()
                for job in self._store.fail_overdue(self._settings.queue_timeout_s):
                    self._files.remove_inputs(job.id)
                    self._ledger.tell_end(job)
                for job_id in self._store.remove_expired():
                    self._files.remove(job_id)
            except (SQLAlchemyError, OSError):
                logger.exception("Housekeeping failed; trying again.")

    def _recover(self) -> None:
        """Put back the jobs of servers that have died."""
        for owner in self._store.owners():
            if not self._liveness.is_alive(owner):
                self._ledger.put_back(owner)
                self.wake()
