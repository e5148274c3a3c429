"""What a task needs before and after the model: decoding, framing, checks, files. None of it needs a device.

It runs in threads beside the device's work: the next task is prepared and the last one finished while one is
denoised.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from joyimage.advice import collect_advice
from joyimage.edits import Camera, Describe, Edit, Move, Rotate
from joyimage.imaging.decode import Limits, decode
from joyimage.pipeline.framing import Framing
from joyimage.pipeline.images import JoyImageEditImageProcessor, to_images
from joyimage.pipeline.plans import ChooseSize, SpatialPlan, plan_move, plan_prompt
from joyimage.serving.security.uploads import mask_to_region
from joyimage.serving.workers.protocol import WorkItem
from joyimage.types import ImageSize

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from joyimage.serving.jobs.plan import PlanTask
    from joyimage.serving.jobs.task import Task
    from joyimage.serving.workers.protocol import ModelInfo, ModelOutput
    from joyimage.spatial.checks import SpatialChecks

    Finish = Callable[
        [list[Image.Image]],
        tuple[list[Image.Image], list[Image.Image] | None, list[SpatialChecks] | None],
    ]


_NO_LIMITS = Limits(max_bytes=2**62, max_pixels=2**62, max_jpeg_scans=2**62, max_seconds=float("inf"))


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What came out of a task.

    Attributes:
        images: Image files.
        masks: PNG files, one for each image: 255 where a pixel is the edit's, 0 where it is the input's; none
            where neither `preserve`, `region` nor a mask was given.
        metadata: What the record is to say: sizes, prompt, checks, the answer.
    """

    images: tuple[bytes, ...] = ()
    masks: tuple[bytes, ...] = ()
    metadata: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PreparedTask:
    """A task that is ready for the model.

    Attributes:
        item: What the model gets.
        finish_images: Brings what it makes into the input's own frame; None where nothing is to be done.
        metadata: What the record is to say already.
    """

    item: WorkItem
    finish_images: Finish | None
    metadata: dict[str, Any]

    def finish(self, output: ModelOutput) -> JobResult:
        """Write the files that a client gets."""
        metadata = {**self.metadata, **output.metadata}
        metadata["warnings"] = [
            *self.metadata.get("warnings", ()),
            *output.metadata.get("warnings", ()),
        ]
        if not output.images:
            return JobResult(metadata=metadata)
        images, masks, checks = list(output.images), None, None
        if self.finish_images is not None:
            images, masks, checks = self.finish_images(images)
        metadata["width"], metadata["height"] = images[0].size
        if checks is not None:
            metadata["checks"] = [one.to_dict() for one in checks]
        task = self.item.task
        return JobResult(
            images=tuple(encode(one, task.output_format, task.output_compression) for one in images),
            masks=tuple(encode(one, "png", 100) for one in masks or ()),
            metadata=metadata,
        )


def prepare(
    task: Task,
    images: Sequence[bytes],
    mask: bytes | None,
    info: ModelInfo,
    *,
    image_hash: str | None = None,
    client: str = "",
) -> PreparedTask:
    """Bring a task's images to what the model takes.

    Args:
        task: What to do.
        images: Image files that can be decoded.
        mask: File of OpenAI's mask.
        info: What is known of the model.
        image_hash: Hash of the first image's file.
        client: Name of the client.

    Returns:
        The task, ready.

    Raises:
        InvalidInputError: The task cannot be done.
    """
    given = tuple(_decode(data) for data in images)
    decoded_mask = None if mask is None else _decode(mask)
    return _prepare(task, given, decoded_mask, info, image_hash=image_hash, client=client)


def _prepare(
    task: Task, given: tuple[Image.Image, ...], mask: Image.Image | None, info: ModelInfo, **known: Any
) -> PreparedTask:
    """Bring decoded images to what the model takes, and collect the advice on them."""
    with collect_advice() as warnings:
        prepared = _frame(task, given, mask, info, known)
    return replace(prepared, metadata=prepared.metadata | {"warnings": warnings})


def _frame(
    task: Task,
    given: tuple[Image.Image, ...],
    mask: Image.Image | None,
    info: ModelInfo,
    known: Mapping[str, Any],
) -> PreparedTask:
    edit = task.edit
    if isinstance(edit, (Move, Rotate, Camera)):
        plan = _plan(edit, given[0], info)
        size = ImageSize.of(plan.model_input)
        item = WorkItem(
            task=task,
            prompt=plan.prompt,
            images=(plan.model_input,),
            target_size=size,
            before=plan.framed.image,
            box=plan.box,
            **known,
        )
        return PreparedTask(item=item, finish_images=plan.finish, metadata={"prompt": plan.prompt})
    if not isinstance(edit, Edit) or info.takes_several:
        prompt = "" if isinstance(edit, Describe) else edit.prompt or ""
        size = None if isinstance(edit, Describe) else edit.sampling.size
        item = WorkItem(
            task=task,
            prompt=prompt,
            images=given,
            target_size=size,
            before=given[0] if given else None,
            **known,
        )
        return PreparedTask(item=item, finish_images=None, metadata={})
    region = edit.framing.region if mask is None else mask_to_region(mask)
    framing = _framing(edit, region)
    (image,) = to_images(given[0])
    size = _choose_size(edit, info)(framing, image)
    framed = framing.place(image, size, given[0])
    item = WorkItem(
        task=task,
        prompt=edit.prompt or "",
        images=(framed.image,),
        target_size=size,
        before=framed.image,
        **known,
    )

    def finish(results: list[Image.Image]) -> Any:
        return (*framing.finish_all(results, [framed]), None)

    return PreparedTask(item=item, finish_images=None if framing.is_plain else finish, metadata={})


def prepare_step(
    plan: PlanTask,
    number: int,
    image: bytes,
    mask: bytes | None,
    info: ModelInfo,
    *,
    image_hash: str | None = None,
    client: str = "",
) -> PreparedTask:
    """Bring the image of a plan's step to what the model takes.

    Args:
        plan: The plan.
        number: Place of the step in the plan, from 0.
        image: Image file that can be decoded.
        mask: File of the step's mask; it is scaled to the image.
        info: What is known of the model.
        image_hash: Hash of the image's file.
        client: Name of the client.

    Raises:
        InvalidInputError: The step cannot be done.
    """
    given = _decode(image)
    size = ImageSize.of(given)
    scaled = None
    if mask is not None:
        scaled = _decode(mask).convert("RGBA").resize(size.pil, Image.Resampling.NEAREST)
    task = plan.step_for(number, size)
    return _prepare(task, (given,), scaled, info, image_hash=image_hash, client=client)


def encode(image: Image.Image, output_format: str, quality: int) -> bytes:
    """Write an image as a file; what is transparent becomes white where the format has no transparency."""
    file = io.BytesIO()
    if output_format == "jpeg" and image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if output_format == "png":
        image.save(file, "PNG")
    else:
        image.save(file, output_format.upper(), quality=quality)
    return file.getvalue()


def _plan(edit: Move | Rotate | Camera, image: Image.Image, info: ModelInfo) -> SpatialPlan:
    framing = _framing(edit, edit.framing.region)
    choose = _choose_size(edit, info)
    if isinstance(edit, Move):
        return plan_move(
            image,
            object=edit.object or "",
            box=edit.box or (),
            box_form=edit.box_form or "xyxy",
            framing=framing,
            choose_size=choose,
            prompt_style=edit.prompt_style or "documented",
        )
    return plan_prompt(image, edit.prompt, framing, choose)


def _framing(edit: Edit | Move | Rotate | Camera, region: Any) -> Framing:
    given = edit.framing
    framing = Framing(
        fit=given.fit or "crop",
        restore=bool(given.restore),
        preserve=bool(given.preserve),
        region=region,
        feather=given.feather,
        close_up=isinstance(edit, Edit) and bool(edit.close_up),
    )
    framing.check(has_image=True, output_type="pil")
    return framing


def _choose_size(edit: Edit | Move | Rotate | Camera, info: ModelInfo) -> ChooseSize:
    processor = JoyImageEditImageProcessor(base_size=info.base_size)
    return lambda framing, image: framing.choose_size(processor, [image], edit.sampling.size)


def _decode(data: bytes) -> Image.Image:
    """Decode an image that was within the limits when it came."""
    return decode(data, "The image", _NO_LIMITS).image
