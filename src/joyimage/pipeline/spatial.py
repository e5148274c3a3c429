"""Spatial edits: move an object, rotate an object, move the camera."""

# Annotations are real types here, as in `base.py`.

import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL.Image import Image

from joyimage.errors import InvalidInputError
from joyimage.pipeline.base import JoyImagePipeline
from joyimage.pipeline.checks import check_size
from joyimage.pipeline.framing import FramedImage, Framing
from joyimage.pipeline.images import ImageInput, to_images
from joyimage.pipeline.output import JoyImageEditPipelineOutput
from joyimage.spatial.box import Box, resolve_box
from joyimage.spatial.camera import CameraMove, check_moves
from joyimage.spatial.checks import SpatialChecks, check_edit
from joyimage.spatial.move import ObjectMove, draw_red_box
from joyimage.spatial.rotation import ObjectRotation, View
from joyimage.types import ImageSize

ChooseSize = Callable[[Framing, Image], ImageSize]
"""Returns the target size for an upright RGB image."""


class SpatialEditingPipeline(JoyImagePipeline):
    """A pipeline with `move`, `rotate` and `camera`.

    Steps and guidance are the checkpoint's own where a call does not give them. The result's `checks` say what
    changed, as far as images can tell without a judge.
    """

    @abstractmethod
    def edit_at_size(self, image: Image, prompt: str, **call: Any) -> JoyImageEditPipelineOutput:
        """Edit one image that already has the target size.

        Args:
            image: RGB image, whose sides 16 divides.
            prompt: What to do.
            **call: Further arguments of the pipeline's call.
        """

    def move(
        self,
        image: ImageInput,
        object: str,
        box: Sequence[float],
        *,
        box_form: str = "xyxy",
        prompt_style: str | None = None,
        **call: Any,
    ) -> JoyImageEditPipelineOutput:
        """Move an object to a place, and give it the size that it should have there.

        A box that the crop would cut off causes the image to be padded instead, with a warning.

        Args:
            image: One image of any kind that the pipeline takes, without a red box.
            object: What to move, such as "blue car".
            box: Where it should end up on `image`: pixels, or fractions where no number exceeds 1.
            box_form: "xyxy" (left, top, right, bottom) or "xywh" (left, top, width, height).
            prompt_style: "documented" or "benchmark"; None: "documented".
            **call: Further arguments of the pipeline's call.

        Returns:
            Images, with `checks` of each.

        Raises:
            InvalidTypeError: The image is of a type that is not accepted.
            InvalidInputError: The box does not fit on the image, or an argument is out of range.
        """
        style, framing = _take_prompt_style(call, prompt_style), _take_framing(call)
        plan = plan_move(
            image, object, box, framing, self._chooser(call), box_form=box_form, prompt_style=style
        )
        return self._edit_spatially(plan, call)

    def rotate(
        self,
        image: ImageInput,
        object: str,
        view: View | str,
        *,
        prompt_style: str | None = None,
        **call: Any,
    ) -> JoyImageEditPipelineOutput:
        """Rotate an object to one of eight views; camera and background stay.

        Args:
            image: One image of any kind that the pipeline takes.
            object: What to rotate, such as "car".
            view: A `View`, or a usual spelling such as "rear-left".
            prompt_style: "documented" or "benchmark"; None: "documented".
            **call: Further arguments of the pipeline's call.

        Returns:
            Images, with `checks` of each.

        Raises:
            InvalidTypeError: The image is of a type that is not accepted.
            InvalidInputError: There is no such view, or an argument is out of range.
        """
        prompt = ObjectRotation(object, view).prompt_in(_take_prompt_style(call, prompt_style))
        plan = plan_prompt(image, prompt, _take_framing(call), self._chooser(call))
        return self._edit_spatially(plan, call)

    def camera(
        self,
        image: ImageInput,
        yaw: float = 0,
        pitch: float = 0,
        zoom: str = "unchanged",
        *,
        prompt_style: str | None = None,
        **call: Any,
    ) -> JoyImageEditPipelineOutput:
        """Move the camera on its orbit around the object in focus.

        Args:
            image: One image of any kind that the pipeline takes.
            yaw: Degrees within ±360; positive moves the camera to its right.
            pitch: Degrees within ±89; positive raises it to look down.
            zoom: "in", "out" or "unchanged".
            prompt_style: "documented" or "benchmark"; None: "documented".
            **call: Further arguments of the pipeline's call.

        Returns:
            Images, with `checks` of each.

        Raises:
            InvalidTypeError: The image is of a type that is not accepted.
            InvalidInputError: The camera does not move, an angle is not finite, the zoom is unknown, or an argument
                is out of range.
        """
        check_moves(yaw, pitch, zoom)
        prompt = CameraMove(yaw, pitch, zoom).prompt_in(_take_prompt_style(call, prompt_style))
        plan = plan_prompt(image, prompt, _take_framing(call), self._chooser(call))
        return self._edit_spatially(plan, call)

    def _chooser(self, call: dict[str, Any]) -> ChooseSize:
        """Return what chooses the target size of an image, by the call's `height` and `width`."""
        height, width = call.get("height"), call.get("width")
        check_size(height, width)
        requested = None if height is None or width is None else ImageSize(int(width), int(height))
        return lambda framing, image: framing.choose_size(self.image_processor, [image], requested)

    def _edit_spatially(self, plan: "SpatialPlan", call: dict[str, Any]) -> JoyImageEditPipelineOutput:
        """Run a spatial edit, check the result and bring it into the caller's frame.

        Args:
            plan: The edit.
            call: Further arguments of the pipeline's call.

        Raises:
            InvalidInputError: `call` asks for a tuple, or for what the framing excludes.
        """
        if call.get("return_dict", True) is False:
            raise InvalidInputError(
                "`return_dict` is False; expected True: a tuple has no place for the checks."
            )
        output_type = call.get("output_type", "pil")
        plan.framing.check(has_image=True, output_type=output_type)
        plan.framing.check_region(ImageSize.of(plan.framed.source))
        output = self.edit_at_size(plan.model_input, plan.prompt, **call)
        if output_type != "pil":
            return replace(output, prompt=plan.prompt)
        images, masks, checks = plan.finish(output.images)
        return replace(output, images=images, masks=masks, checks=checks, prompt=plan.prompt)


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
        warnings.warn(
            f"`box` is {pixels}, which the crop to {ImageSize.of(framed.image)} would cut off; "
            "the image is padded instead (fit='pad').",
            stacklevel=3,
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


def _take_framing(call: dict[str, Any]) -> Framing:
    """Take the framing out of a call's arguments."""
    return Framing(
        **{name: call.pop(name) for name in ("fit", "restore", "preserve", "region") if name in call}
    )


def _take_prompt_style(call: dict[str, Any], prompt_style: str | None) -> str:
    """Return the prompt style, also under its deprecated name `style`.

    Raises:
        InvalidInputError: Both names are given.
    """
    if "style" not in call:
        return prompt_style or "documented"
    if prompt_style is not None:
        raise InvalidInputError("`prompt_style` and `style` are the same argument; give `prompt_style` only.")
    warnings.warn("`style` is deprecated; use `prompt_style`.", FutureWarning, stacklevel=3)
    return call.pop("style")


def _one_image(image: ImageInput) -> Image:
    """Return the image as upright RGB.

    Raises:
        InvalidInputError: There are several.
    """
    images = to_images(image)
    if len(images) != 1:
        raise InvalidInputError(f"`image` holds {len(images)} images; expected one.")
    return images[0]
