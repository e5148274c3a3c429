"""One batch of jobs that run together: from their files to their results."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from joyimage.errors import (
    ImageError,
    InvalidInputError,
    InvalidResultError,
    MissingObjectError,
    OutOfMemoryError,
)
from joyimage.serving.jobs.task import Task, UnreadableJobError
from joyimage.serving.workers.preparation import prepare
from joyimage.serving.workers.protocol import DeviceFailedError, ReplicaLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    from joyimage.serving.jobs.completion import JobCompletion
    from joyimage.serving.jobs.files import JobFiles
    from joyimage.serving.jobs.records import Job
    from joyimage.serving.workers.preparation import JobResult, PreparedTask
    from joyimage.serving.workers.preview import Preview
    from joyimage.serving.workers.protocol import ModelInfo, ModelOutput, Runner

logger = logging.getLogger(__name__)

_ASK_S = 1.0  # how often the database is asked whether a job was cancelled at another server
_BUG = "Internal server error; see the server log."


class BatchRun:
    """Runs the jobs of one batch.

    `make` has the model's part, for which the pipeline is needed, and `finish` what comes after it.

    Args:
        completion: Where jobs end.
        runner: What runs them.
        jobs: The jobs, which can run together.
        prefetched: Tasks that were prepared while another batch ran, by job.
        timeout_s: Longest time that a job may run.
        is_interrupted: Returns whether the server stops now.
    """

    def __init__(
        self,
        completion: JobCompletion,
        runner: Runner,
        jobs: Sequence[Job],
        *,
        prefetched: Mapping[str, Future[PreparedTask]],
        timeout_s: float,
        is_interrupted: Callable[[], bool],
    ) -> None:
        self._completion = completion
        self._runner = runner
        self._jobs = jobs
        self._prefetched = prefetched
        self._timeout_s = timeout_s
        self._is_interrupted = is_interrupted
        self._lock = threading.Lock()
        self._open = {job.id: job for job in jobs}
        self._started = self._asked_at = time.monotonic()
        self._device_s = 0.0
        self._outputs: list[tuple[Job, PreparedTask, ModelOutput]] = []

    @property
    def overdue_s(self) -> float:
        """Seconds since the time limit; negative before it."""
        return time.monotonic() - self._started - self._timeout_s

    def make(self) -> None:
        """Have the model make the images; jobs that fail are ended.

        Raises:
            DeviceFailedError: The device is broken; the jobs are queued again, or have ended.
        """
        self._completion.metrics.batch_size.observe(len(self._jobs))
        prepared: dict[str, PreparedTask] = {}
        for job in self._jobs:
            self._completion.begin(job)
            one = self._prepare(job)
            if one is not None:
                prepared[job.id] = one
        if prepared:
            self._make([job for job in self._jobs if job.id in prepared], prepared)

    def finish(self) -> None:
        """Write files of what the model made, and then record that they are there."""
        for job, prepared, output in self._outputs:
            if self._ends_now(job) or job.id not in self._open:
                continue
            written = self._write(job, prepared, output)
            if written is None:
                continue
            result, num_bytes = written
            counts = {"num_images": len(result.images), "num_masks": len(result.masks)}
            if self._close(job):
                self._completion.settle(
                    job,
                    "succeeded",
                    result={**result.metadata, **counts},
                    stored_bytes=num_bytes + job.stored_bytes,  # the inputs are kept beside the results
                    device_s=self._share_s,
                )

    def enforce_limits(self) -> None:
        """End jobs that were cancelled or ran for too long, also while the device does not answer."""
        self._poll_cancelled()
        for job in list(self._open.values()):
            self._ends_now(job)

    def fail_open(self, code: str, message: str) -> None:
        """End all jobs that have not ended."""
        self._end(list(self._open.values()), code, message)

    @property
    def _share_s(self) -> float:
        return self._device_s / max(1, len(self._jobs))

    def _write(
        self,
        job: Job,
        prepared: PreparedTask,
        output: ModelOutput,
        *,
        first_image: int = 0,
        first_mask: int = 0,
    ) -> tuple[JobResult, int] | None:
        """Write the files of a result, numbered from the given ones on; return it and its bytes, or end the job."""
        metrics, num_bytes = self._completion.metrics, 0
        try:
            result = prepared.finish(output)
            for name, images, first in (
                ("output", result.images, first_image),
                ("edited", result.masks, first_mask),
            ):
                for number, image in enumerate(images, first):
                    self._completion.files.write(job.id, f"{name}-{number}", image)
                    num_bytes += len(image)
        except OSError as error:
            reason = error.strerror or str(error)
            self._end([job], "storage_full", f"The result cannot be stored: {reason}.")
            return None
        except BaseException:
            logger.exception("The result of job %s cannot be finished.", job.id)
            self._end([job], "internal_error", _BUG)
            return None
        if "memory" in result.metadata:
            metrics.low_memory.inc()
        if result.metadata.get("reused"):
            metrics.reused.inc()
        return result, num_bytes

    def _report(self, job: Job, step: int, steps: int, preview: Preview | None) -> None:
        """Publish how far a job is."""
        self._completion.report(job, step, steps, preview)

    def _kept(self, job: Job) -> dict[str, Any]:
        """Return `result` and `stored_bytes` of a job that fails or is cancelled now."""
        del job
        return {}

    def _failure(self, code: str, message: str) -> dict[str, Any]:
        """Return the error of a job that fails now."""
        return {"message": message, "code": code}

    def _make(self, jobs: Sequence[Job], prepared: Mapping[str, PreparedTask]) -> None:
        """Run jobs together and, where that fails for an unknown reason, each alone.

        Raises:
            DeviceFailedError: The device is broken.
        """

        def report(step: int, steps: int, previews: Sequence[Preview | None]) -> None:
            for job, preview in zip(jobs, previews, strict=True):
                if job.id in self._open:
                    self._report(job, step, steps, preview)

        started = time.monotonic()
        try:
            items = [prepared[job.id].item for job in jobs]
            made = self._runner.run(items, report, lambda: self._is_stopped(jobs))
        except DeviceFailedError:
            self._requeue(jobs, is_counted=True)
            raise
        except ReplicaLostError:
            self._requeue(jobs, is_counted=True)
            return
        except OutOfMemoryError as error:
            self._end(jobs, "out_of_memory", str(error))
            return
        # What is wrong with one job must not end those that happened to run with it.
        except BaseException as error:  # noqa: BLE001 - logged by `describe_failure`
            if len(jobs) > 1:
                for job in jobs:
                    if job.id in self._open:
                        self._make([job], prepared)
            else:
                self._end(jobs, *describe_failure(error, jobs[0]))
            return
        finally:
            self._device_s += time.monotonic() - started
        if made is None:
            self._requeue(jobs, is_counted=False)  # the server stops
            return
        self._outputs += [(job, prepared[job.id], one) for job, one in zip(jobs, made, strict=True)]

    def _prepare(self, job: Job) -> PreparedTask | None:
        """Return a job ready for the model, or end it."""
        prefetched = self._prefetched.get(job.id)
        try:
            if prefetched is not None:
                return prefetched.result()
            return prepare_job(job, self._completion.files, self._runner.info)
        except OSError as error:
            reason = error.strerror or error
            self._end([job], "internal_error", f"The job's input images cannot be read: {reason}.")
        except BaseException as error:  # noqa: BLE001 - logged by `describe_failure`
            self._end([job], *describe_failure(error, job))
        return None

    def _is_stopped(self, jobs: Sequence[Job]) -> bool:
        """End jobs that were cancelled or ran for too long; return whether none is left, or the server stops."""
        if self._is_interrupted():
            return True
        self._poll_cancelled()
        for job in jobs:
            if job.id in self._open:
                self._ends_now(job)
        return not any(job.id in self._open for job in jobs)

    def _poll_cancelled(self) -> None:
        now = time.monotonic()
        if now - self._asked_at > _ASK_S:
            self._asked_at = now
            self._completion.poll_cancelled(sorted(self._open))

    def _ends_now(self, job: Job) -> bool:
        if self._completion.is_cancelled(job.id):
            if self._close(job):
                self._completion.settle(job, "cancelled", device_s=self._share_s, **self._kept(job))
            return True
        if time.monotonic() - self._started > self._timeout_s:
            self._end(
                [job],
                "job_timeout",
                f"The job ran for more than {self._timeout_s:g} s; ask for fewer steps or a smaller size.",
            )
            return True
        return False

    def _requeue(self, jobs: Sequence[Job], *, is_counted: bool) -> None:
        ids = [job.id for job in jobs if self._close(job)]
        if ids:
            self._completion.requeue(self._completion.owner, job_ids=ids, is_counted=is_counted)

    def _end(self, jobs: Sequence[Job], code: str, message: str) -> None:
        for job in jobs:
            if self._close(job):
                error = self._failure(code, message)
                self._completion.settle(job, "failed", error=error, device_s=self._share_s, **self._kept(job))

    def _close(self, job: Job) -> bool:
        """Return whether a job had not ended before; of several threads, one may end it."""
        with self._lock:
            return self._open.pop(job.id, None) is not None


def prepare_job(job: Job, files: JobFiles, info: ModelInfo) -> PreparedTask:
    """Read a job's files and bring them to what the model takes.

    Raises:
        OSError: A file cannot be read.
        UnreadableJobError: The job's row is damaged.
        InvalidInputError: The job cannot be done.
    """
    task = Task.from_dict(job.task)
    images = [files.read(job.id, f"input-{number}") for number in range(task.num_inputs)]
    mask = files.read(job.id, "mask") if task.has_mask else None
    return prepare(task, images, mask, info, image_hash=job.image_hash, client=job.client)


def describe_failure(error: BaseException, job: Job) -> tuple[str, str]:
    """Return code and message of a job that failed; what is not one of our errors is logged, and not passed on."""
    if isinstance(error, UnreadableJobError):
        return "unreadable_job", str(error)
    if isinstance(error, InvalidResultError):
        return "invalid_result", str(error)
    if isinstance(error, MissingObjectError):
        return "missing_object", str(error)
    if isinstance(error, (InvalidInputError, ImageError)) or type(error) is ValueError:
        return "invalid_value", str(error)
    logger.error("Job %s failed.", job.id, exc_info=error)
    return "internal_error", _BUG
