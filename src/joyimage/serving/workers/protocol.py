"""What passes between a server and whatever runs its tasks: a pipeline here, or a replica elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image

    from joyimage.serving.http.schemas import Task
    from joyimage.serving.workers.preview import Preview

    Report = Callable[[int, int, Sequence[Preview | None]], None]


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a server has to know of its model before a job runs.

    Attributes:
        base_size: Side of the square size.
        steps: Default number of steps.
        guidance: Default guidance scale.
        takes_several: Whether one edit takes several pictures.
        device: Where it is.
        dtype: Its precision.
        loras: Names of the adapters it has.
    """

    base_size: int
    steps: int
    guidance: float
    takes_several: bool
    device: str
    dtype: str
    loras: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Work:
    """A task as the model gets it.

    Attributes:
        task: What to do.
        prompt: The words for it.
        pictures: As the model sees them.
        canvas: Width and height of an output; None where the model chooses.
        picture_hash: Of the first picture's file, by which its replica is found again.
    """

    task: Task
    prompt: str
    pictures: tuple[Image, ...] = ()
    canvas: tuple[int, int] | None = None
    picture_hash: str | None = None


@dataclass(frozen=True, kw_only=True)
class Made:
    """What the model made of a task.

    Attributes:
        images: Of the canvas's size.
        facts: What the record shall say.
    """

    images: tuple[Image, ...] = ()
    facts: dict[str, Any]


class Runner(Protocol):
    """Whatever can run tasks: a pipeline here, or a replica elsewhere."""

    info: ModelInfo

    def run(self, works: Sequence[Work], report: Report, is_stopped: Callable[[], bool]) -> list[Made] | None:
        """Run tasks that can share a pass.

        Args:
            works: One, or several of equal settings.
            report: Called after each step, in any thread, with its number from 1, the number of steps, and a
                preview of each task's first output.
            is_stopped: Asked after each step; True ends the run.

        Returns:
            Of each task what was made; None where the run was stopped.

        Raises:
            OutOfMemoryError: It doesn't fit.
            ValueError: A task can't be done.
        """
        ...
