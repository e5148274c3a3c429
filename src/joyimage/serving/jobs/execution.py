"""One run of jobs that share a pass: from their files to their results."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from joyimage.serving.http.errors import OutOfMemoryError, ReplicaLostError
from joyimage.serving.http.schemas import Task
from joyimage.serving.workers.preparation import prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    from joyimage.serving.jobs.completion import Ledger
    from joyimage.serving.jobs.files import JobFiles
    from joyimage.serving.jobs.records import Job
    from joyimage.serving.workers.preparation import Prepared
    from joyimage.serving.workers.preview import Preview
    from joyimage.serving.workers.protocol import Made, ModelInfo, Runner

logger = logging.getLogger(__name__)

_ASK_S = 1.0  # how often the database is asked whether a job was cancelled at another server
_MISTAKE = "The server made a mistake; its log says which."


class Run:
    """One run.

    `make` has the model's part, for which the pipeline is needed, and `finish` what comes after it.

    Args:
        ledger: Where jobs end.
        runner: What runs them.
        jobs: Those that share the pass.
        ahead: By job, what was prepared while another one ran.
        timeout_s: Longest time for all of it.
        is_interrupted: Whether the server stops now.
    """

    def __init__(
        self,
        ledger: Ledger,
        runner: Runner,
        jobs: Sequence[Job],
        *,
        ahead: Mapping[str, Future[Prepared]],
        timeout_s: float,
        is_interrupted: Callable[[], bool],
    ) -> None:
        self._ledger = ledger
        self._runner = runner
        self._jobs = jobs
        self._ahead = ahead
        self._timeout_s = timeout_s
        self._is_interrupted = is_interrupted
        self._open = {job.id: job for job in jobs}
        self._started = self._asked_at = time.monotonic()
        self._made: list[tuple[Job, Prepared, Made]] = []

    def make(self) -> None:
        """Have the model make the pictures; jobs that fail are ended."""
        self._ledger.metrics.batch_size.observe(len(self._jobs))
        prepared: dict[str, Prepared] = {}
        for job in self._jobs:
            self._ledger.begin(job)
            one = self._prepare(job)
            if one is not None:
                prepared[job.id] = one
        if not prepared:
            return
        self._jobs = [job for job in self._jobs if job.id in prepared]
        works = [prepared[job.id].work for job in self._jobs]
        try:
            made = self._runner.run(works, self._report, self._is_stopped)
        except ReplicaLostError:
            self._ledger.put_back(self._ledger.owner, job_ids=sorted(self._open))
            return
        except OutOfMemoryError as error:
            self._fail_all(503, str(error), "out_of_memory")
            return
        # What is wrong with one job must not end those that happened to run with it.
        except Exception as error:
            if len(self._jobs) > 1:
                self._run_one_by_one()
            elif isinstance(error, ValueError):
                self._fail_all(400, str(error), "invalid_value")
            else:
                logger.exception("A job failed.")
                self._fail_all(500, _MISTAKE, "internal_error")
            return
        if made is None:
            if self._open:  # the server stops
                self._ledger.put_back(self._ledger.owner, job_ids=sorted(self._open), is_counted=False)
            return
        self._made = [(job, prepared[job.id], one) for job, one in zip(self._jobs, made, strict=True)]

    def finish(self) -> None:
        """Make files of what the model made, write them, and then say that they are there."""
        for job, prepared, made in self._made:
            if job.id not in self._open or self._ends_now(job):
                continue
            metrics = self._ledger.metrics
            try:
                outcome = prepared.finish(made)
                for number, image in enumerate(outcome.images):
                    self._ledger.files.write(job.id, f"output-{number}", image)
                for number, mask in enumerate(outcome.masks):
                    self._ledger.files.write(job.id, f"edited-{number}", mask)
            except OSError as error:
                reason = error.strerror or str(error)
                self._ledger.fail([job], 503, f"The result can't be stored: {reason}.", "storage_full")
                continue
            except Exception:
                logger.exception("A result can't be finished.")
                self._ledger.fail([job], 500, _MISTAKE, "internal_error")
                continue
            metrics.run_seconds.labels(job.kind).observe(time.monotonic() - self._started)
            if "memory" in outcome.facts:
                metrics.low_memory.inc()
            if outcome.facts.get("reused"):
                metrics.reused.inc()
            counts = {"num_images": len(outcome.images), "num_masks": len(outcome.masks)}
            self._ledger.settle(job, "succeeded", result={**outcome.facts, **counts})

    def _prepare(self, job: Job) -> Prepared | None:
        """Return a job ready for the model, or end it."""
        ahead = self._ahead.get(job.id)
        try:
            return ahead.result() if ahead else prepare_job(job, self._ledger.files, self._runner.info)
        except OSError as error:
            reason = error.strerror or error
            self._ledger.fail([job], 500, f"The job's pictures can't be read: {reason}.")
        except ValueError as error:
            self._ledger.fail([job], 400, str(error), "invalid_value")
        except Exception:
            logger.exception("A job can't be prepared.")
            self._ledger.fail([job], 500, _MISTAKE, "internal_error")
        del self._open[job.id]
        return None

    def _run_one_by_one(self) -> None:
        for job in list(self._open.values()):
            run = Run(
                self._ledger,
                self._runner,
                [job],
                ahead={},
                timeout_s=self._timeout_s,
                is_interrupted=self._is_interrupted,
            )
            run.make()
            run.finish()

    def _report(self, step: int, steps: int, previews: Sequence[Preview | None]) -> None:
        for job, preview in zip(self._jobs, previews, strict=True):
            if job.id in self._open:
                self._ledger.report(job, step, steps, preview)

    def _is_stopped(self) -> bool:
        """End jobs that shall not go on; tell whether none is left, or the server stops."""
        if self._is_interrupted():
            return True
        now = time.monotonic()
        if now - self._asked_at > _ASK_S:
            self._asked_at = now
            self._ledger.look_for_cancelled(sorted(self._open))
        for job in list(self._open.values()):
            self._ends_now(job)
        return not self._open

    def _ends_now(self, job: Job) -> bool:
        if self._ledger.is_cancelled(job.id):
            del self._open[job.id]
            self._ledger.settle(job, "cancelled")
            return True
        if time.monotonic() - self._started > self._timeout_s:
            del self._open[job.id]
            sentence = (
                f"The job ran for more than {self._timeout_s:g} s; ask for fewer steps or a smaller size."
            )
            self._ledger.fail([job], 504, sentence, "job_timeout")
            return True
        return False

    def _fail_all(self, status: int, message: str, code: str) -> None:
        self._ledger.fail(list(self._open.values()), status, message, code)


def prepare_job(job: Job, files: JobFiles, info: ModelInfo) -> Prepared:
    """Read a job's files and bring them to what the model takes.

    Raises:
        OSError: They can't be read.
        ValueError: The job can't be done.
    """
    task = Task.model_validate(job.task)
    pictures = [files.read(job.id, f"input-{number}") for number in range(task.num_images)]
    mask = files.read(job.id, "mask") if task.has_mask else None
    return prepare(task, pictures, mask, info, job.picture_hash)
