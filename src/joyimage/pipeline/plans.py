"""Plans of spatial edits: everything about them that needs no model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from PIL.Image import Image

from joyimage.advice import advise
from joyimage.errors import InvalidInputError
from joyimage.pipeline.framing import Framing
from joyimage.pipeline.images import to_images
from joyimage.spatial.box import resolve_box
from joyimage.spatial.checks import check_edit
from joyimage.spatial.move import ObjectMove, draw_red_box
from joyimage.types import ImageSize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from joyimage.pipeline.framing import FramedImage
    from joyimage.pipeline.images import ImageInput
    from joyimage.spatial.box import Box
    from joyimage.spatial.checks import SpatialChecks

ChooseSize = Callable[[Framing, Image], ImageSize]
"""Returns the target size for an upright RGB image."""


@dataclass(frozen=True, kw_only=True)
class SpatialPlan:
    """A spatial edit, ready for the model: everything about it that needs no model.

    Attributes:
        framing: How the image is brought to the target size and back.
        framed: The caller's image, and the same at the target size.
        model_input: What the model sees: the image at the target size, for a move with a red box.
        prompt: Instruction for the model.
        box: Target box of a move, in pixels of the target size; None for other edits.
        object: Name of the object of a move; None for other edits.
    """

    framing: Framing
    framed: FramedImage
    model_input: Image
    prompt: str
    box: Box | None = None
    object: str | None = None

    def finish(self, results: list[Image]) -> tuple[list[Image], list[Image] | None, list[SpatialChecks]]:
        """Check what the model made, and bring it into the caller's frame.

        Args:
            results: RGB images at the target size.

        Returns:
            Images, masks where `preserve` or `region` is on, and what changed in each image.
        """
        checks = [check_edit(self.framed.image, result, self.box, self.object) for result in results]
        if self.framing.is_plain:
            return results, None, checks
        images, masks = self.framing.finish_all(results, [self.framed])
        return images, masks, checks


def plan_move(
    image: ImageInput,
    object: str,
    box: Sequence[float],
    framing: Framing,
    choose_size: ChooseSize,
    *,
    box_form: str = "xyxy",
    prompt_style: str = "documented",
) -> SpatialPlan:
    """Plan a move: draw the red box on the image at its target size.

    Args:
        image: One image of any kind that the pipeline takes.
        object: What to move.
        box: Where it should end up on `image`: pixels, or fractions where no number exceeds 1.
        framing: How the image is brought to the target size and back.
        choose_size: Returns the target size.
        box_form: "xyxy" or "xywh".
        prompt_style: "documented" or "benchmark".

    Raises:
        InvalidTypeError: The image is of a type that is not accepted.
        InvalidInputError: The box does not fit on the image, or there are several images.
    """
    source = _one_image(image)
    pixels = resolve_box(box, source.size, box_form)
    edit = ObjectMove(object, pixels)
    framed = framing.place(source, choose_size(framing, source), image)
    if framed.placement.cuts(pixels):
        advise(
            f"`box` is {pixels}, which the crop to {ImageSize.of(framed.image)} would cut off; "
            "the image is padded instead (fit='pad').",
        )
        framing = replace(framing, fit="pad")
        framed = framing.place(source, choose_size(framing, source), image)
    left, top, right, bottom = (round(side) for side in framed.placement.to_target(pixels))
    placed = (left, top, right, bottom)
    return SpatialPlan(
        framing=framing,
        framed=framed,
        model_input=draw_red_box(framed.image, placed),
        prompt=edit.prompt_in(prompt_style),
        box=placed,
        object=object,
    )


def plan_prompt(image: ImageInput, prompt: str, framing: Framing, choose_size: ChooseSize) -> SpatialPlan:
    """Plan an edit that needs a prompt only: a rotation or a camera move.

    Args:
        image: One image of any kind that the pipeline takes.
        prompt: Instruction for the model.
        framing: How the image is brought to the target size and back.
        choose_size: Returns the target size.

    Raises:
        InvalidTypeError: The image is of a type that is not accepted.
        InvalidInputError: There are several images.
    """
    source = _one_image(image)
    framed = framing.place(source, choose_size(framing, source), image)
    return SpatialPlan(framing=framing, framed=framed, model_input=framed.image, prompt=prompt)


def _one_image(image: ImageInput) -> Image:
    """Return the image as upright RGB.

    Raises:
        InvalidInputError: There are several.
    """
    images = to_images(image)
    if len(images) != 1:
        raise InvalidInputError(f"`image` holds {len(images)} images; expected one.")
    return images[0]
