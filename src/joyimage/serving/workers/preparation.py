"""What a task needs before and after the model: decoding, framing, checks, files. None of it needs a device.

It runs in threads beside the device's work: the next task is prepared and the last one finished while one is
denoised.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from joyimage.pipeline.framing import Framing
from joyimage.pipeline.images import JoyImageEditImageProcessor, to_pictures
from joyimage.pipeline.spatial import SpatialPlan, plan_move, plan_words
from joyimage.serving.security.uploads import mask_to_region
from joyimage.serving.workers.protocol import Work
from joyimage.spatial import CameraMove, ObjectRotation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from joyimage.serving.http.schemas import Task
    from joyimage.serving.workers.protocol import Made, ModelInfo
    from joyimage.spatial.checks import SpatialChecks

    Finish = Callable[
        [list[Image.Image]],
        tuple[list[Image.Image], list[Image.Image] | None, list[SpatialChecks] | None],
    ]

SPATIAL = ("move", "rotate", "camera")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came out of a task.

    Attributes:
        images: Files.
        masks: PNG files, one an image: where it is the edit's (255) and not the given picture's; none where
            neither `preserve` nor a mask was given.
        facts: What the record shall say: sizes, words, checks, the answer.
    """

    images: tuple[bytes, ...] = ()
    masks: tuple[bytes, ...] = ()
    facts: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A task that is ready for the model.

    Attributes:
        work: What the model gets.
        finish_images: Brings what it makes into the picture's own frame; None where nothing is to be done.
        facts: What the record shall say already.
    """

    work: Work
    finish_images: Finish | None
    facts: dict[str, Any]

    def finish(self, made: Made) -> Outcome:
        """Make the files that a client gets."""
        facts = {**self.facts, **made.facts}
        if not made.images:
            return Outcome(facts=facts)
        images, masks, checks = list(made.images), None, None
        if self.finish_images is not None:
            images, masks, checks = self.finish_images(images)
        facts["width"], facts["height"] = images[0].size
        if checks is not None:
            facts["checks"] = [{**asdict(one), "summary": one.summary} for one in checks]
        task = self.work.task
        return Outcome(
            images=tuple(encode(one, task.output_format, task.output_compression) for one in images),
            masks=tuple(encode(one, "png", 100) for one in masks or ()),
            facts=facts,
        )


def prepare(
    task: Task,
    pictures: Sequence[bytes],
    mask: bytes | None,
    info: ModelInfo,
    picture_hash: str | None = None,
) -> Prepared:
    """Bring a task's pictures to what the model takes.

    Args:
        task: What to do.
        pictures: Files that can be decoded.
        mask: File of OpenAI's mask.
        info: Of the model.
        picture_hash: Of the first picture.

    Returns:
        The task, ready.

    Raises:
        ValueError: It can't be done.
    """
    given = tuple(_decode(data) for data in pictures)
    if task.kind in SPATIAL:
        plan = _plan(task, given[0], info)
        work = Work(
            task=task,
            prompt=plan.prompt,
            pictures=(plan.given,),
            canvas=plan.given.size,
            picture_hash=picture_hash,
        )
        return Prepared(work=work, finish_images=plan.finish, facts={"prompt": plan.prompt})
    if task.kind != "edit" or info.takes_several:
        wished = None if task.width is None or task.height is None else (task.width, task.height)
        work = Work(task=task, prompt=task.prompt, pictures=given, canvas=wished, picture_hash=picture_hash)
        return Prepared(work=work, finish_images=None, facts={})
    region = None if mask is None else mask_to_region(_decode(mask))
    framing = Framing(**task.framing, region=region)
    framing.check(has_image=True, output_type="pil")
    (picture,) = to_pictures(given[0])
    if region is not None:
        framing.check_region(picture.size)
    canvas, placement = framing.place(picture, _choose_size(task, info)(framing, picture))
    work = Work(
        task=task, prompt=task.prompt, pictures=(canvas,), canvas=canvas.size, picture_hash=picture_hash
    )

    def finish(images: list[Image.Image]) -> Any:
        return (*framing.finish_all(images, [picture], [placement], given[0]), None)

    return Prepared(work=work, finish_images=None if framing.is_plain else finish, facts={})


def encode(picture: Image.Image, output_format: str, quality: int) -> bytes:
    """Write a picture as a file; what is transparent becomes white where the format has no transparency."""
    file = io.BytesIO()
    if output_format == "jpeg" and picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    if output_format == "png":
        picture.save(file, "PNG")
    else:
        picture.save(file, output_format.upper(), quality=quality)
    return file.getvalue()


def _plan(task: Task, picture: Image.Image, info: ModelInfo) -> SpatialPlan:
    framing = Framing(**task.framing)
    framing.check(has_image=True, output_type="pil")
    choose = _choose_size(task, info)
    asked = {name: value for name, value in task.spatial.items() if name != "style"}
    style = task.spatial.get("style", "documented")
    if task.kind == "move":
        return plan_move(picture, **asked, framing=framing, choose_size=choose, style=style)
    edit = ObjectRotation(**asked) if task.kind == "rotate" else CameraMove(**asked)
    return plan_words(picture, edit.prompt_in(style), framing, choose)


def _choose_size(task: Task, info: ModelInfo) -> Callable[[Framing, Image.Image], tuple[int, int]]:
    processor = JoyImageEditImageProcessor(base_size=info.base_size)
    return lambda framing, picture: framing.choose_size(processor, [picture], task.height, task.width)


def _decode(data: bytes) -> Image.Image:
    """Decode a picture that has been decoded before."""
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture
