"""A plan while it runs: one step after the other, each result kept as soon as it is there."""

from __future__ import annotations

import hashlib
import logging
import time
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from joyimage.serving.jobs.execution import BatchRun, describe_failure
from joyimage.serving.jobs.plan import PlanTask, steps_made
from joyimage.serving.workers.preparation import prepare_step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from joyimage.serving.jobs.completion import JobCompletion
    from joyimage.serving.jobs.records import Job
    from joyimage.serving.workers.preparation import JobResult, PreparedTask
    from joyimage.serving.workers.preview import Preview
    from joyimage.serving.workers.protocol import Runner

logger = logging.getLogger(__name__)

_SAID_OF_A_STEP = (
    "prompt",
    "checks",
    "verdicts",
    "candidates",
    "memory",
    "reused",
    "warnings",
    "width",
    "height",
)


class PlanRun(BatchRun):
    """Runs one plan on one pipeline.

    The time limit holds for each step. A plan that was requeued continues after the last step that has its result.
    """

    _plan: PlanTask

    def __init__(
        self, completion: JobCompletion, runner: Runner, jobs: Sequence[Job], **options: Any
    ) -> None:
        super().__init__(completion, runner, jobs, **options)
        # Known at once: the job may be cancelled before it is made.
        self._made = [dict(one) for job in jobs for one in steps_made(job)]
        self._bytes = sum((job.result or {}).get("plan_bytes", 0) for job in jobs)
        self._steps_before = self._last_step = 0

    def make(self) -> None:
        """Have the model make the images, one after the other.

        Raises:
            DeviceFailedError: The device is broken; the job is queued again, or has ended.
        """
        (job,) = self._jobs
        self._completion.begin(job)
        try:
            self._plan = PlanTask.from_dict(job.task)
        except BaseException as error:  # noqa: BLE001 - logged by `describe_failure`
            self._end([job], *describe_failure(error, job))
            return
        self._steps_before = self._plan.num_steps() - self._plan.num_steps(len(self._made))
        for number in range(len(self._made), len(self._plan.steps)):
            self._started = time.monotonic()
            if self._is_interrupted():
                self._requeue([job], is_counted=False)
            if self._ends_now(job) or job.id not in self._open or not self._run_step(job, number):
                return

    def finish(self) -> None:
        """Record that all images are there."""
        (job,) = self._jobs
        if job.id in self._open and self._close(job):
            self._completion.settle(job, "succeeded", device_s=self._share_s, **self._kept(job))

    def _run_step(self, job: Job, number: int) -> bool:
        """Run a step and keep what it made; False where the job has ended or waits again."""
        prepared = self._prepare_step(job, number)
        if prepared is None:
            return False
        self._outputs.clear()
        self._make([job], {job.id: prepared})
        if not self._outputs or job.id not in self._open:
            return False
        ((_, _, output),) = self._outputs
        num_masks = sum(one["mask"] is not None for one in self._made)
        written = self._write(job, prepared, output, first_image=number, first_mask=num_masks)
        if written is None:
            return False
        result, num_bytes = written
        self._bytes += num_bytes
        self._made.append(_entry(prepared, result, number, num_masks))
        self._steps_before = self._last_step
        self._record(job, number)
        return True

    def _prepare_step(self, job: Job, number: int) -> PreparedTask | None:
        """Return a step ready for the model, or end the job."""
        files = self._completion.files
        self._last_step = self._steps_before
        try:
            image = files.read(job.id, f"output-{number - 1}" if number else "input-0")
            has_mask = self._plan.steps[number].has_mask
            mask = files.read(job.id, f"mask-{number}") if has_mask else None
            digest = hashlib.sha256(image).hexdigest()
            return prepare_step(
                self._plan, number, image, mask, self._runner.info, image_hash=digest, client=job.client
            )
        except OSError as error:
            reason = error.strerror or error
            self._end([job], "internal_error", f"The step's input image cannot be read: {reason}.")
        except BaseException as error:  # noqa: BLE001 - logged by `describe_failure`
            self._end([job], *describe_failure(error, job))
        return None

    def _record(self, job: Job, number: int) -> None:
        """Have a step's result seen at once, and found again where the job has to run again."""
        kept = self._kept(job)
        try:
            self._completion.store.record_result(
                job.id, self._completion.owner, kept["result"], kept["stored_bytes"]
            )
        except SQLAlchemyError:
            logger.exception("The result of a step cannot be recorded; it is recorded with the job's end.")
        data = {"plan_step": number + 1, "plan_steps": len(self._plan.steps)}
        self._completion.events.publish(job.id, "step", data, restarted=job.restarted)

    def _report(self, job: Job, step: int, steps: int, preview: Preview | None) -> None:
        """Publish how far the whole plan is."""
        number = len(self._made)
        self._last_step = self._steps_before + step
        total = self._steps_before + steps + self._plan.num_steps(number + 1)
        where = {"plan_step": number + 1, "plan_steps": len(self._plan.steps)}
        self._completion.report(job, self._last_step, total, preview, **where)

    def _kept(self, job: Job) -> dict[str, Any]:
        """Return what a job that ends now keeps: the results of the steps before."""
        if not self._made:
            return {}
        last = self._made[-1]
        result = {
            "plan": list(self._made),
            "plan_bytes": self._bytes,
            "num_images": len(self._made),
            "num_masks": sum(one["mask"] is not None for one in self._made),
            "width": last.get("width"),
            "height": last.get("height"),
        }
        return {"result": result, "stored_bytes": self._bytes + job.stored_bytes}

    def _failure(self, code: str, message: str) -> dict[str, Any]:
        """Return an error that says which step failed."""
        number, plan = len(self._made), getattr(self, "_plan", None)
        if plan is None:
            return super()._failure(code, message)
        message = f"Step {number + 1} of {len(plan.steps)}: {message}"
        return {"message": message, "code": code, "plan_step": number + 1}


def _entry(prepared: PreparedTask, result: JobResult, number: int, num_masks: int) -> dict[str, Any]:
    """Return what the record says of a step that has made its image."""
    said = {name: result.metadata[name] for name in _SAID_OF_A_STEP if name in result.metadata}
    seed = result.metadata.get("seed", prepared.item.task.edit.given().get("seed"))
    return {**said, "seed": seed, "image": number, "mask": num_masks if result.masks else None}
