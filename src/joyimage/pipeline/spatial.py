"""Spatial edits as methods of a pipeline: move, rotate, camera."""

# Annotations are real types here, as in `edit.py`.

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL.Image import Image

from joyimage.pipeline.framing import Framing
from joyimage.pipeline.images import to_pictures
from joyimage.pipeline.output import JoyImageEditPipelineOutput
from joyimage.spatial.box import Box, resolve_box
from joyimage.spatial.camera import CameraMove
from joyimage.spatial.checks import check_edit
from joyimage.spatial.frame import Placement
from joyimage.spatial.move import ObjectMove, draw_red_box
from joyimage.spatial.rotation import ObjectRotation, View


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
            ValueError: The box doesn't fit on the picture.
        """
        picture = _one_picture(image)
        pixels = resolve_box(box, picture.size, box_form)
        edit = ObjectMove(object, pixels)
        framing = _take_framing(call)
        canvas, placement = self._place(picture, framing, call)
        if placement.cuts(pixels):
            warnings.warn(
                f"`box` is {pixels}, which the crop to {canvas.width} x {canvas.height} would cut off; "
                "the picture is padded instead (fit='pad').",
                stacklevel=2,
            )
            framing = replace(framing, fit="pad")
            canvas, placement = self._place(picture, framing, call)
        left, top, right, bottom = (round(side) for side in placement.to_canvas(pixels))
        placed = (left, top, right, bottom)
        given = draw_red_box(canvas, placed)
        prompt = edit.prompt_in(style)
        return self._edit_spatially(image, picture, framing, placement, canvas, given, prompt, placed, call)

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
            ValueError: There is no such view.
        """
        edit = ObjectRotation(object, view)
        return self._edit_whole(image, edit.prompt_in(style), call)

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
            ValueError: An angle is not finite or the zoom is unknown.
        """
        edit = CameraMove(yaw, pitch, zoom)
        return self._edit_whole(image, edit.prompt_in(style), call)

    def _edit_whole(self, image: Any, prompt: str, call: dict[str, Any]) -> JoyImageEditPipelineOutput:
        """Run an edit that needs nothing but words."""
        picture, framing = _one_picture(image), _take_framing(call)
        canvas, placement = self._place(picture, framing, call)
        return self._edit_spatially(image, picture, framing, placement, canvas, canvas, prompt, None, call)

    def _place(self, picture: Image, framing: Framing, call: dict[str, Any]) -> tuple[Image, Placement]:
        height, width = call.get("height"), call.get("width")
        return framing.place(picture, framing.choose_size(self.image_processor, [picture], height, width))

    def _edit_spatially(
        self,
        image: Any,
        picture: Image,
        framing: Framing,
        placement: Placement,
        canvas: Image,
        given: Image,
        prompt: str,
        box: Box | None,
        call: dict[str, Any],
    ) -> JoyImageEditPipelineOutput:
        """Run the edit on a canvas that has its final size already, check and finish what comes out.

        Args:
            image: What the caller gave.
            picture: The same as upright RGB.
            framing: How it goes in and comes out.
            placement: How it lies on the canvas.
            canvas: Without a red box.
            given: What the model sees.
            prompt: What it is told.
            box: Of a move, on the canvas.
            call: Arguments of the pipeline's call.

        Raises:
            ValueError: `call` asks for a tuple, or for what doesn't go with the framing.
        """
        if call.get("return_dict", True) is False:
            raise ValueError("`return_dict` is False; expected True: the checks have no place in a tuple.")
        is_pil = call.get("output_type", "pil") == "pil"
        framing.check(has_image=True, output_type=call.get("output_type", "pil"))
        if framing.region is not None:
            framing.check_region(picture.size)
        settings = {
            "num_inference_steps": self.config["default_num_inference_steps"],
            "guidance_scale": self.config["default_guidance_scale"],
            **call,
            "height": given.height,
            "width": given.width,
            self._picture_argument: [given],
        }
        if self._takes_fit:
            settings["fit"] = "exact"  # the canvas as it is
        output = cast("Any", self)(prompt=prompt, **settings)
        if not is_pil or output.interrupted:
            return replace(output, prompt=prompt)
        checks = [check_edit(canvas, made, box) for made in output.images]
        if framing.is_plain:
            return replace(output, checks=checks, prompt=prompt)
        images, masks = framing.finish_all(output.images, [picture], [placement], image)
        return replace(output, images=images, masks=masks, checks=checks, prompt=prompt)


def _take_framing(call: dict[str, Any]) -> Framing:
    """Take what belongs to framing out of a call's arguments."""
    return Framing(
        **{name: call.pop(name) for name in ("fit", "restore", "preserve", "region") if name in call}
    )


def _one_picture(image: Any) -> Image:
    """Return the picture.

    Raises:
        ValueError: There are several.
    """
    pictures = to_pictures(image)
    if len(pictures) != 1:
        raise ValueError(f"`image` holds {len(pictures)} pictures; expected one.")
    return pictures[0]
