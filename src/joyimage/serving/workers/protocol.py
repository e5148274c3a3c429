"""What passes between a server and whatever runs its tasks: a pipeline here, or a replica elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from joyimage.edits import Defaults
from joyimage.errors import InvalidInputError, JoyImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from PIL.Image import Image

    from joyimage.serving.jobs.task import Task
    from joyimage.serving.workers.preview import Preview
    from joyimage.spatial.box import Box
    from joyimage.types import ImageSize

    ProgressCallback = Callable[[int, int, Sequence[Preview | None]], None]


class ReplicaLostError(JoyImageError, RuntimeError):
    """The process that ran a job has died; the job can run elsewhere."""


class DeviceFailedError(JoyImageError, RuntimeError):
    """The device is broken until its process is restarted: every further call would fail."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a server has to know of its model before a job runs.

    Attributes:
        base_size: Side of the square size.
        steps: Default number of steps.
        guidance: Default guidance scale.
        takes_several: Whether one edit takes several images.
        device: Device of the model, such as "cuda:0".
        dtype: Precision of the model, such as "bfloat16".
        loras: Names of the adapters it has.
        speeds: Names of the speed presets it has.
        lora_sha256: Hash of each adapter's content by its name.
        lora_defaults: What each turbo adapter sets, by its name, where an edit gives nothing.
        acceleration: What runs in an edit and what does not; see `joyimage.acceleration.Report`.
    """

    base_size: int
    steps: int
    guidance: float
    takes_several: bool
    device: str
    dtype: str
    loras: tuple[str, ...] = ()
    speeds: tuple[str, ...] = ("exact",)
    lora_sha256: Mapping[str, str] = field(default_factory=dict)
    lora_defaults: Mapping[str, Defaults] = field(default_factory=dict)
    acceleration: Mapping[str, Any] = field(default_factory=dict)

    def defaults(self, loras: Iterable[str] = ()) -> Defaults:
        """Return what is used where an edit gives nothing.

        Args:
            loras: Names of the adapters of the edit; those that the model does not have count for nothing.

        Raises:
            InvalidInputError: Two turbo adapters want to be sampled in different ways.
        """
        found = {self.lora_defaults[name] for name in loras if name in self.lora_defaults}
        if len(found) > 1:
            raise InvalidInputError(
                "`loras` names two turbo adapters with different settings; use one of them."
            )
        own = Defaults(num_inference_steps=self.steps, guidance_scale=self.guidance)
        return found.pop() if found else own


@dataclass(frozen=True, kw_only=True)
class WorkItem:
    """A task as the model gets it.

    Attributes:
        task: What to do.
        prompt: The prompt for it.
        images: Input images as the model sees them.
        target_size: Size of an output; None where the model chooses.
        before: The first image without a red box, for judging; None where there is none.
        box: Where the object of a move should be on it, in pixels; None for all else.
        image_hash: Hash of the first image's file, by which its replica is found again.
        client: Name of the client; what is cached of an image serves its own client only.
    """

    task: Task
    prompt: str
    images: tuple[Image, ...] = ()
    target_size: ImageSize | None = None
    before: Image | None = None
    box: Box | None = None
    image_hash: str | None = None
    client: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelOutput:
    """What the model made of a task.

    Attributes:
        images: Images of the target size.
        metadata: What the record is to say of them.
    """

    images: tuple[Image, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)


class Runner(Protocol):
    """Whatever can run tasks: a pipeline here, or a replica elsewhere."""

    info: ModelInfo

    def run(
        self, items: Sequence[WorkItem], report: ProgressCallback, is_stopped: Callable[[], bool]
    ) -> list[ModelOutput] | None:
        """Run tasks that can run together.

        Args:
            items: One task, or several of equal settings.
            report: Called after each step, in any thread, with its number from 1, the number of steps, and a
                preview of each task's first output.
            is_stopped: Called after each step; True ends the run.

        Returns:
            One output for each task; None where the run was stopped.

        Raises:
            OutOfMemoryError: The device has too little memory.
            InvalidInputError: A task cannot be done.
            DeviceFailedError: The device is broken.
        """
        ...
