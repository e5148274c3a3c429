"""Spatial edits as methods of a pipeline: move, rotate, camera."""

# Annotations are real types here, as in `edit.py`.

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL.Image import Image

from joyimage.errors import InvalidInputError
from joyimage.pipeline.framing import Framing
from joyimage.pipeline.images import to_pictures
from joyimage.pipeline.output import JoyImageEditPipelineOutput
from joyimage.spatial.box import Box, resolve_box
from joyimage.spatial.camera import CameraMove
from joyimage.spatial.checks import SpatialChecks, check_edit
from joyimage.spatial.frame import Placement
from joyimage.spatial.move import ObjectMove, draw_red_box
from joyimage.spatial.rotation import ObjectRotation, View

ChooseSize = Callable[[Framing, Image], tuple[int, int]]


class SpatialEditingMixin(DiffusionPipeline):
    """Give a pipeline `move`, `rotate` and `camera`.

    Steps and guidance are the checkpoint's own where a call doesn't give them. The result's `checks` say what
    changed, as far as pictures can tell without a judge.
    """

    image_processor: Any
    _picture_argument = "image"
    _takes_fit = True

    def move(
        self,
        image: Any,
        object: str,
        box: Sequence[float],
        *,
        box_form: str = "xyxy",
        style: str = "documented",
        **call: Any,
    ) -> JoyImageEditPipelineOutput:
        """Move an object to a place, with the size that it shall have there.

        Args:
            image: One picture of any kind that the pipeline takes, without a red box.
            object: What to move, such as "blue car".
            box: Where it shall end on `image`: pixels, or fractions where no number exceeds 1.
            box_form: "xyxy" (left, top, right, bottom) or "xywh" (left, top, width, height).
            style: Wording, "documented" or "benchmark".
            **call: Further arguments of the pipeline's call.

        A box that the crop would cut off makes the picture be padded instead, with a warning.

        Returns:
            Pictures, with `checks` of each.

        Raises:
            TypeError: The picture is none.
            InvalidInputError: The box doesn't fit on the picture.
        """
        framing = _take_framing(call)
        plan = plan_move(image, object, box, framing, self._chooser(call), box_form=box_form, style=style)
        return self._edit_spatially(plan, call)

    def rotate(
        self, image: Any, object: str, view: View | str, *, style: str = "documented", **call: Any
    ) -> JoyImageEditPipelineOutput:
        """Turn an object to one of eight views; camera and background stay.

        Args:
            image: One picture of any kind that the pipeline takes.
            object: What to turn, such as "car".
            view: A `View`, or a usual spelling such as "rear-left".
            style: Wording, "documented" or "benchmark".
            **call: Further arguments of the pipeline's call.

        Returns:
            Pictures, with `checks` of each.

        Raises:
            TypeError: The picture is none.
            InvalidInputError: There is no such view.
        """
        prompt = ObjectRotation(object, view).prompt_in(style)
        return self._edit_spatially(plan_words(image, prompt, _take_framing(call), self._chooser(call)), call)

    def camera(
        self,
        image: Any,
        yaw: float = 0,
        pitch: float = 0,
        zoom: str = "unchanged",
        *,
        style: str = "documented",
        **call: Any,
    ) -> JoyImageEditPipelineOutput:
        """Move the camera on its orbit around the object in focus.

        Args:
            image: One picture of any kind that the pipeline takes.
            yaw: Degrees; positive carries the camera to its right.
            pitch: Degrees; positive raises it to look down.
            zoom: "in", "out" or "unchanged".
            style: Wording, "documented" or "benchmark".
            **call: Further arguments of the pipeline's call.

        Returns:
            Pictures, with `checks` of each.

        Raises:
            TypeError: The picture is none.
            InvalidInputError: An angle is not finite or the zoom is unknown.
        """
        prompt = CameraMove(yaw, pitch, zoom).prompt_in(style)
        return self._edit_spatially(plan_words(image, prompt, _take_framing(call), self._chooser(call)), call)

    def _chooser(self, call: dict[str, Any]) -> ChooseSize:
        height, width = call.get("height"), call.get("width")
        return lambda framing, picture: framing.choose_size(self.image_processor, [picture], height, width)

    def _edit_spatially(self, plan: "SpatialPlan", call: dict[str, Any]) -> JoyImageEditPipelineOutput:
        """Run the edit, check and finish what comes out.

        Args:
            plan: The edit.
            call: Arguments of the pipeline's call.

        Raises:
            InvalidInputError: `call` asks for a tuple, or for what doesn't go with the framing.
        """
        if call.get("return_dict", True) is False:
            raise InvalidInputError(
                "`return_dict` is False; expected True: the checks have no place in a tuple."
            )
        is_pil = call.get("output_type", "pil") == "pil"
        plan.framing.check(has_image=True, output_type=call.get("output_type", "pil"))
        if plan.framing.region is not None:
            plan.framing.check_region(plan.picture.size)
        settings = {
            "num_inference_steps": self.config["default_num_inference_steps"],
            "guidance_scale": self.config["default_guidance_scale"],
            **call,
            "height": plan.given.height,
            "width": plan.given.width,
            self._picture_argument: [plan.given],
        }
        if self._takes_fit:
            settings["fit"] = "exact"  # the canvas as it is
        output = cast("Any", self)(prompt=plan.prompt, **settings)
        if not is_pil:
            return replace(output, prompt=plan.prompt)
        images, masks, checks = plan.finish(output.images)
        return replace(output, images=images, masks=masks, checks=checks, prompt=plan.prompt)


@dataclass(frozen=True, kw_only=True)
class SpatialPlan:
    """A spatial edit, ready for the model: everything about it that needs no model.

    Attributes:
        image: What the caller gave.
        picture: The same as upright RGB.
        framing: How it goes in and comes out.
        placement: How it lies on the canvas.
        canvas: Of the size that the model works at, without a red box.
        given: What the model sees.
        prompt: What it is told.
        box: Target box of a move on the canvas; None for other edits.
        object: Name of the object of a move; None for other edits.
    """

    image: Any
    picture: Image
    framing: Framing
    placement: Placement
    canvas: Image
    given: Image
    prompt: str
    box: Box | None = None
    object: str | None = None

    def finish(self, results: list[Image]) -> tuple[list[Image], list[Image] | None, list[SpatialChecks]]:
        """Check what the model made, and bring it into the caller's frame.

        Args:
            results: Of the canvas's size.

        Returns:
            Pictures, masks where `preserve` or `region` is on, and what changed in each picture.
        """
        checks = [check_edit(self.canvas, made, self.box, self.object) for made in results]
        if self.framing.is_plain:
            return results, None, checks
        images, masks = self.framing.finish_all(results, [self.picture], [self.placement], self.image)
        return images, masks, checks


def plan_move(
    image: Any,
    object: str,
    box: Sequence[float],
    framing: Framing,
    choose_size: ChooseSize,
    *,
    box_form: str = "xyxy",
    style: str = "documented",
) -> SpatialPlan:
    """Draw the red box; arguments as in `SpatialEditingMixin.move`.

    Args:
        image: One picture.
        object: What to move.
        box: Where it shall end.
        framing: How the picture goes in and comes out.
        choose_size: Gives the canvas's size (height, width).
        box_form: "xyxy" or "xywh".
        style: Wording.

    Returns:
        The plan.

    Raises:
        TypeError: The picture is none.
        InvalidInputError: The box doesn't fit on the picture.
    """
    picture = _one_picture(image)
    pixels = resolve_box(box, picture.size, box_form)
    edit = ObjectMove(object, pixels)
    canvas, placement = framing.place(picture, choose_size(framing, picture))
    if placement.cuts(pixels):
        warnings.warn(
            f"`box` is {pixels}, which the crop to {canvas.width} x {canvas.height} would cut off; "
            "the picture is padded instead (fit='pad').",
            stacklevel=3,
        )
        framing = replace(framing, fit="pad")
        canvas, placement = framing.place(picture, choose_size(framing, picture))
    left, top, right, bottom = (round(side) for side in placement.to_canvas(pixels))
    placed = (left, top, right, bottom)
    return SpatialPlan(
        image=image,
        picture=picture,
        framing=framing,
        placement=placement,
        canvas=canvas,
        given=draw_red_box(canvas, placed),
        prompt=edit.prompt_in(style),
        box=placed,
        object=object,
    )


def plan_words(image: Any, prompt: str, framing: Framing, choose_size: ChooseSize) -> SpatialPlan:
    """Plan an edit that needs nothing but words: a rotation or a camera move.

    Args:
        image: One picture.
        prompt: The words.
        framing: How the picture goes in and comes out.
        choose_size: Gives the canvas's size (height, width).

    Returns:
        The plan.

    Raises:
        TypeError: The picture is none.
        InvalidInputError: There are several.
    """
    picture = _one_picture(image)
    canvas, placement = framing.place(picture, choose_size(framing, picture))
    return SpatialPlan(
        image=image,
        picture=picture,
        framing=framing,
        placement=placement,
        canvas=canvas,
        given=canvas,
        prompt=prompt,
    )


def _take_framing(call: dict[str, Any]) -> Framing:
    """Take what belongs to framing out of a call's arguments."""
    return Framing(
        **{name: call.pop(name) for name in ("fit", "restore", "preserve", "region") if name in call}
    )


def _one_picture(image: Any) -> Image:
    """Return the picture.

    Raises:
        InvalidInputError: There are several.
    """
    pictures = to_pictures(image)
    if len(pictures) != 1:
        raise InvalidInputError(f"`image` holds {len(pictures)} pictures; expected one.")
    return pictures[0]
