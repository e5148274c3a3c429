"""A plan: several edits as one job, each of what the one before it made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from joyimage.edits import Edit, Move
from joyimage.serving.jobs.task import VERSION, Task, UnreadableJobError
from joyimage.types import ImageSize

if TYPE_CHECKING:
    from collections.abc import Mapping

    from joyimage.serving.jobs.records import Job

PLAN = "plan"
"""Kind of a job that is a plan."""


@dataclass(frozen=True, kw_only=True)
class PlanTask:
    """One plan, everything decided.

    Attributes:
        steps: What is done, in order; each makes one image.
        sizes: Size that the input of each step is expected to have; boxes are in its pixels.
    """

    steps: tuple[Task, ...]
    sizes: tuple[ImageSize, ...]

    kind = PLAN
    num_inputs = 1

    @property
    def cost(self) -> int:
        """Share of the device that the plan takes, beside other jobs."""
        return sum(step.cost for step in self.steps)

    def num_steps(self, start: int = 0) -> int:
        """Return the number of denoising steps from one of its steps to the end, before any has run."""
        return sum(_num_denoising_steps(step) for step in self.steps[start:])

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "version": VERSION,
            "plan": [step.to_dict() for step in self.steps],
            "sizes": [str(size) for size in self.sizes],
            "num_inputs": self.num_inputs,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PlanTask:
        """Read a plan from its dict.

        Raises:
            UnreadableJobError: The dict is damaged or of another version.
        """
        try:
            steps = tuple(Task.from_dict(step) for step in data["plan"])
            sizes = tuple(ImageSize.parse(size) for size in data["sizes"])
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UnreadableJobError(
                f"The job's record cannot be read ({type(error).__name__}); submit the job again."
            ) from error
        if not steps or len(steps) != len(sizes):
            raise UnreadableJobError("The job's record cannot be read (no steps); submit the job again.")
        return cls(steps=steps, sizes=sizes)

    def step_for(self, number: int, size: ImageSize) -> Task:
        """Return a step with its box and its region on an image of another size than was expected.

        Args:
            number: Place of the step in the plan, from 0.
            size: Size of the step's input.
        """
        step, expected = self.steps[number], self.sizes[number]
        if size == expected:
            return step
        across, down = size.width / expected.width, size.height / expected.height
        given = step.edit.given()
        values: dict[str, Any] = {}
        for name in ("box", "region"):
            if isinstance(given.get(name), tuple):
                left, top, right, bottom = given[name]
                x, y = round(left * across), round(top * down)
                values[name] = (x, y, max(x + 1, round(right * across)), max(y + 1, round(bottom * down)))
        if not values or not isinstance(step.edit, (Edit, Move)):
            return step
        return replace(step, edit=step.edit.replace(**values))


def load_task(data: Mapping[str, Any]) -> Task | PlanTask:
    """Read the task of any job from its dict.

    Raises:
        UnreadableJobError: The dict is damaged or of another version.
    """
    return PlanTask.from_dict(data) if "plan" in data else Task.from_dict(data)


def steps_made(job: Job) -> list[dict[str, Any]]:
    """Return what is recorded of those steps of a plan that have made their image, in order."""
    found = (job.result or {}).get("plan")
    return found if isinstance(found, list) else []


def _num_denoising_steps(step: Task) -> int:
    return step.edit.given().get("num_inference_steps") or 1
