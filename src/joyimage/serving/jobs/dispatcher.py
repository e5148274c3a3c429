"""The dispatcher: takes jobs whose turn it is, runs them on pipelines, and makes each of them end.

It knows nothing of HTTP. One loop dispatches work and has the next job prepared while all pipelines are busy,
one does the housekeeping, and each pipeline has one batch in flight: as soon as its images are decoded the
next batch begins, while another thread makes files of them.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from joyimage.errors import JoyImageError
from joyimage.serving.jobs.completion import JobCompletion
from joyimage.serving.jobs.execution import BatchRun, prepare_job
from joyimage.serving.jobs.housekeeping import Housekeeping
from joyimage.serving.jobs.loops import GuardedLoop
from joyimage.serving.jobs.plan import PLAN
from joyimage.serving.jobs.plan_run import PlanRun
from joyimage.serving.jobs.task import Task, UnreadableJobError
from joyimage.serving.workers.protocol import DeviceFailedError

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
    from joyimage.serving.workers.preparation import PreparedTask
    from joyimage.serving.workers.protocol import ModelInfo, Runner

logger = logging.getLogger(__name__)

_TICK_S = 1.0
_AFFINITIES = 1024  # images whose replica is remembered
_LEAVING_S = 10.0  # for a step and for files, after the grace time
_FIRST_RELOAD_S = 10.0
_LONGEST_RELOAD_S = 300.0


class Dispatcher:
    """Runs jobs.

    Args:
        settings: Settings of the server.
        store: The queue.
        files: Input images and results.
        events: Where progress is published.
        metrics: Where it is counted.
        liveness: This server's name and heartbeat.
        on_fatal: Called once where the device is broken or hangs, so that the process ends and is restarted.
    """

    def __init__(
        self,
        settings: ServerSettings,
        store: JobStore,
        files: JobFiles,
        events: EventLog,
        metrics: Metrics,
        liveness: Liveness,
        on_fatal: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._files = files
        self._liveness = liveness
        self._on_fatal = on_fatal
        self._completion = JobCompletion(store, files, events, metrics, liveness.name)
        self._runners: list[Runner] = []
        self._free: list[int] = []
        self._affinity: OrderedDict[str, int] = OrderedDict()
        self._prefetched: dict[str, Future[PreparedTask]] = {}
        self._batches: set[BatchRun] = set()
        self._futures: set[Future[None]] = set()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._interrupting = threading.Event()
        self._run_s = 1.0
        # For each pipeline a thread whose batch runs, and one whose results are written meanwhile.
        self._pool = ThreadPoolExecutor(2 * settings.replicas, "joyimage-run")
        self._prefetch_pool = ThreadPoolExecutor(1, "joyimage-prefetch")
        self._housekeeping = Housekeeping(
            settings, store, files, events, liveness, self._completion, self.wake, self._watch_batches
        )
        self._loops = [
            GuardedLoop("dispatch", self._dispatch, self._stopping),
            GuardedLoop("housekeeping", self._clean_up, self._interrupting),
        ]
        self._load_problem: str | None = None
        self._device_problem: str | None = None

    @property
    def info(self) -> ModelInfo | None:
        """What is known of the model; None while it is loaded."""
        return self._runners[0].info if self._runners else None

    @property
    def problem(self) -> str | None:
        """Why no jobs can run; None where they can, or the model is being loaded for the first time."""
        return self.fatal_problem or self._load_problem

    @property
    def fatal_problem(self) -> str | None:
        """Why no jobs can run before the process is started again; None where it need not be."""
        loops = [loop.problem for loop in self._loops if loop.problem is not None]
        return self._device_problem or (loops[0] if loops else None)

    @property
    def is_stuck(self) -> bool:
        """Whether a device call continues although the server was stopped, so that its thread cannot end."""
        return bool(self._futures)

    @property
    def is_stopping(self) -> bool:
        """Whether no further jobs are taken."""
        return self._stopping.is_set()

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
        self._housekeeping.begin()
        threading.Thread(target=self._load, args=(load,), name="joyimage-load", daemon=True).start()
        for loop in self._loops:
            loop.start()

    def begin_stop(self) -> None:
        """Take no further jobs, end those that wait for this server's own clients, and begin the grace time."""
        with self._changed:
            if self._stopping.is_set():
                return
            self._stopping.set()
            self._changed.notify_all()
        grace = threading.Timer(self._settings.shutdown_grace_s, self._interrupting.set)
        grace.daemon = True
        grace.start()
        try:
            self._housekeeping.end_awaited(self._liveness.name)
        except SQLAlchemyError:
            logger.exception("Waiting jobs cannot be ended; the next server does it.")

    def interrupt(self) -> None:
        """End the grace time now: running jobs end at their next step, and are queued again."""
        self._interrupting.set()

    def stop(self) -> None:
        """Take no further jobs; what runs may end within the grace time, or is queued again."""
        self.begin_stop()
        self._pool.shutdown(wait=False)
        with self._changed:
            futures = set(self._futures)
        if self._device_problem is None:
            # Those that run are asked to end when the grace time is over; one that hangs never does.
            grace_ends_at = time.monotonic() + self._settings.shutdown_grace_s
            while time.monotonic() < grace_ends_at and not self._interrupting.is_set() and futures:
                futures = wait(futures, timeout=_TICK_S / 4).not_done
            self._interrupting.set()
            wait(futures, timeout=_LEAVING_S)
        self._interrupting.set()
        for loop in self._loops:
            loop.join(2 * _TICK_S)
        self._prefetch_pool.shutdown(wait=not self.is_stuck, cancel_futures=True)
        self._completion.settle_rest()
        if self.is_stuck:
            logger.error("A device call does not end; its jobs are queued again.")
            self._completion.requeue(self._completion.owner, is_counted=False)

    def wake(self) -> None:
        """Notify the dispatcher of a new job."""
        with self._changed:
            self._changed.notify_all()

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a job: at once where it waits, at the next step where it runs."""
        return self._completion.cancel(job_id)

    def progress(self, job_id: str) -> tuple[int, int] | None:
        """Return step and number of steps of a job that runs here."""
        return self._completion.progress(job_id)

    def runs_here(self, job_id: str) -> bool:
        """Return whether a job runs on this server."""
        return self._completion.runs_here(job_id)

    def wait_s(self, waiting: int) -> float:
        """Estimate how long a queue takes."""
        return max(1.0, waiting * self._run_s / max(1, len(self._runners)))

    def _load(self, load: Callable[[int], Runner]) -> None:
        pause_s = _FIRST_RELOAD_S
        while not self._try_to_load(load) and not self._stopping.wait(pause_s):
            pause_s = min(2 * pause_s, _LONGEST_RELOAD_S)

    def _try_to_load(self, load: Callable[[int], Runner]) -> bool:
        """Load the pipelines that are missing; return whether all are there."""
        try:
            for number in range(len(self._runners), self._settings.replicas):
                runner = load(number)
                with self._changed:
                    self._runners.append(runner)
                    self._free.append(number)
                    self._changed.notify_all()
        # Whatever keeps the model from loading, also SystemExit, is reported where readiness is asked for.
        except BaseException as error:
            self._load_problem = f"The model cannot be loaded: {error}"
            if isinstance(error, JoyImageError):
                logger.error("%s", self._load_problem)
            else:
                logger.exception("The model cannot be loaded.")
            return False
        self._load_problem = None
        return True

    def _dispatch(self) -> None:
        """Give the next jobs to a free pipeline, or wait."""
        if not self._free:
            if self._runners:
                self._prefetched = self._prefetched or self._prefetch()
            self._wait(lambda: bool(self._free), _TICK_S)
            return
        jobs = self._store.claim(self._completion.owner, self._batch_limit)
        if not jobs:
            # Another server's jobs, or one that came since, are found at the next tick.
            self._wait(lambda: False, _TICK_S / 4)
            return
        # A task that was prepared for another job is dropped: that job may have been cancelled since.
        prefetched, self._prefetched = self._prefetched, {}
        with self._changed:
            number = self._choose(jobs[0].image_hash)
            self._free.remove(number)
        try:
            with self._changed:
                future = self._pool.submit(self._run_batch, number, jobs, prefetched)
                self._futures.add(future)
            future.add_done_callback(self._forget_future)
        except BaseException as error:
            with self._changed:
                self._free.append(number)
            job_ids = [job.id for job in jobs]
            self._completion.requeue(self._completion.owner, job_ids=job_ids, is_counted=False)
            if not (isinstance(error, RuntimeError) and self._stopping.is_set()):
                raise

    def _forget_future(self, future: Future[None]) -> None:
        with self._changed:
            self._futures.discard(future)

    def _wait(self, is_over: Callable[[], bool], seconds: float) -> None:
        """Wait until something changes, unless it has."""
        with self._changed:
            if not self._stopping.is_set() and not is_over():
                self._changed.wait(seconds)

    def _prefetch(self) -> dict[str, Future[PreparedTask]]:
        """Begin to prepare the job that comes next, beside those that run."""
        job = self._store.peek()
        if job is None or job.kind == PLAN or not job.task.get("num_inputs"):
            return {}
        return {job.id: self._prefetch_pool.submit(prepare_job, job, self._files, self._runners[0].info)}

    def _batch_limit(self, job: Job) -> int:
        """Return how many jobs like this one may run together."""
        try:
            task = Task.from_dict(job.task)
        except UnreadableJobError:
            return 1
        pixels = 1 if task.target_size is None else task.target_size.num_pixels
        pixels *= max(1, task.num_images)
        return max(1, min(self._settings.max_batch, self._settings.batch_pixels // pixels))

    def _choose(self, image_hash: str | None) -> int:
        """Return the free pipeline that knows an image, or else the one that its hash is closest to."""
        if image_hash is None:
            return self._free[0]
        chosen = self._affinity.get(image_hash)
        if chosen is None or chosen not in self._free:
            chosen = max(
                self._free, key=lambda number: hashlib.sha256(f"{image_hash}{number}".encode()).digest()
            )
        self._affinity[image_hash] = chosen
        self._affinity.move_to_end(image_hash)
        while len(self._affinity) > _AFFINITIES:
            self._affinity.popitem(last=False)
        return chosen

    def _run_batch(self, number: int, jobs: list[Job], prefetched: dict[str, Future[PreparedTask]]) -> None:
        """Run jobs on a pipeline, return it, and then finish their results."""
        # A plan runs alone.
        batch = (PlanRun if jobs[0].kind == PLAN else BatchRun)(
            self._completion,
            self._runners[number],
            jobs,
            prefetched=prefetched,
            timeout_s=self._settings.job_timeout_s,
            is_interrupted=self._interrupting.is_set,
        )
        with self._changed:
            self._batches.add(batch)
        try:
            try:
                started = time.monotonic()
                batch.make()
                self._run_s += 0.2 * ((time.monotonic() - started) / len(jobs) - self._run_s)
            except DeviceFailedError as error:
                # Before the pipeline is free for the next job, which would fail as well.
                self._fail_device(f"The device failed: {error}")
                return
            finally:
                with self._changed:
                    self._batches.discard(batch)
                    self._free.append(number)
                    self._changed.notify_all()
            batch.finish()
        # A bug here must not take the pipeline out of service.
        except BaseException:
            logger.exception("A batch ended in an error of the dispatcher.")
            batch.fail_open("internal_error", "Internal server error; see the server log.")

    def _clean_up(self) -> None:
        self._interrupting.wait(_TICK_S)
        self._housekeeping.step()

    def _watch_batches(self) -> None:
        """Hold the jobs that run to their limits, and notice a device that does not answer."""
        with self._changed:
            batches = list(self._batches)
        for batch in batches:
            batch.enforce_limits()
            if batch.overdue_s > self._settings.hang_timeout_s:
                self._fail_device(
                    f"A device call hangs, {self._settings.hang_timeout_s:g} s after the job's time limit."
                )

    def _fail_device(self, problem: str) -> None:
        """Take no further jobs: every one of them would fail as fast as it is taken."""
        with self._changed:
            if self._device_problem is not None:
                return
            self._device_problem = problem
        logger.error("%s The server exits so that it can be restarted.", problem)
        self.begin_stop()
        self._on_fatal(problem)
