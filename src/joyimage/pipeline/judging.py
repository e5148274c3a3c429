"""Judge the result of an edit at the size at which the model works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from joyimage.errors import InvalidInputError
from joyimage.pipeline.answers import ImageReader
from joyimage.pipeline.checks import check_text
from joyimage.pipeline.framing import Framing
from joyimage.pipeline.images import to_images
from joyimage.pipeline.plans import plan_move, plan_prompt
from joyimage.spatial.move import ObjectMove
from joyimage.spatial.parse import parse
from joyimage.types import ImageSize
from joyimage.understanding.judge import Verdict, judge_drawing, judge_edit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from joyimage.pipeline.images import ImageInput
    from joyimage.pipeline.parts import PipelineParts
    from joyimage.pipeline.plans import ChooseSize, SpatialPlan


def judge_images(
    pipe: PipelineParts,
    before: ImageInput | None,
    after: ImageInput,
    instruction: str,
    *,
    box: Sequence[float] | None = None,
    box_form: str = "xyxy",
) -> Verdict:
    """Judge an edit; see `SpatialEditingPipeline.judge`.

    Raises:
        InvalidTypeError: An image is of a type that is not accepted.
        InvalidInputError: The instruction is empty, a box fits on no image, or there are several images.
    """
    check_text("instruction", instruction, "what was asked for")
    result = _one("after", after)
    reader = ImageReader(pipe)
    if before is None:
        return judge_drawing(reader, _place(pipe, result), instruction)
    source = _one("before", before)
    if box is None:
        plan = plan_prompt(source, instruction, Framing(), _chooser(pipe))
    else:
        name = _object_of(instruction)
        plan = plan_move(source, name, box, Framing(), _chooser(pipe), box_form=box_form)
    return judge_edit(reader, plan.framed.image, _place_like(result, plan), instruction, plan.box)


def _object_of(instruction: str) -> str:
    """Return the object of a move.

    Raises:
        InvalidInputError: The instruction is none.
    """
    edit = parse(instruction)
    if not isinstance(edit, ObjectMove):
        raise InvalidInputError(
            f"`box` is given, but `instruction` is {instruction!r}; expected the prompt of a move, which "
            "`ObjectMove(object, box).prompt` builds."
        )
    return edit.object


def _place_like(result: Image, plan: SpatialPlan) -> Image:
    """Bring a result to the size at which the image before it is judged."""
    target = ImageSize.of(plan.framed.image)
    if ImageSize.of(result) == target:
        return result
    # A result in the frame of the caller's image lies as that image does.
    has_same_shape = (
        abs(result.width / result.height * plan.framed.source.height / plan.framed.source.width - 1) < 0.01
    )
    framing = plan.framing if has_same_shape else Framing()
    return framing.place(result, target).image


def _place(pipe: PipelineParts, image: Image) -> Image:
    return Framing().place(image, pipe.image_processor.choose_size([image])).image


def _chooser(pipe: PipelineParts) -> ChooseSize:
    return lambda framing, image: framing.choose_size(pipe.image_processor, [image], None)


def _one(name: str, given: ImageInput) -> Image:
    """Return the image as upright RGB.

    Raises:
        InvalidInputError: There are several.
    """
    images = to_images(given)
    if len(images) != 1:
        raise InvalidInputError(f"`{name}` holds {len(images)} images; expected one.")
    return images[0]
