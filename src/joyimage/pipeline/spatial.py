"""Spatial edits as methods of a pipeline: move, rotate, camera."""

# Annotations are real types here, as in `edit.py`.

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL.Image import Image

from joyimage.pipeline.images import scale_to_cover, to_pictures
from joyimage.pipeline.output import JoyImageEditPipelineOutput
from joyimage.spatial.box import Box, resolve_box
from joyimage.spatial.camera import CameraMove
from joyimage.spatial.checks import check_edit
from joyimage.spatial.move import ObjectMove, draw_red_box
from joyimage.spatial.rotation import ObjectRotation, View


class SpatialEditingMixin(DiffusionPipeline):
    """Give a pipeline `move`, `rotate` and `camera`.

    Steps and guidance are the checkpoint's own where a call doesn't give them. The result's `checks` say what
    changed, as far as pictures can tell without a judge.
    """

    image_processor: Any
    _picture_argument = "image"

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

        Returns:
            Pictures, with `checks` of each.

        Raises:
            TypeError: The picture is none.
            ValueError: The box doesn't fit, or would be cut off where the picture is cropped.
        """
        picture = _one_picture(image)
        pixels = resolve_box(box, picture.size, box_form)
        edit = ObjectMove(object, pixels)
        size = self.image_processor.choose_size([picture], call.get("height"), call.get("width"))
        fitted = self.image_processor.fit(picture, *size)
        placed = _through_crop(pixels, picture, size)
        return self._edit_spatially(fitted, draw_red_box(fitted, placed), edit.prompt_in(style), placed, call)

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
        fitted = self._fit_one(image, call)
        return self._edit_spatially(fitted, fitted, edit.prompt_in(style), None, call)

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
        fitted = self._fit_one(image, call)
        return self._edit_spatially(fitted, fitted, edit.prompt_in(style), None, call)

    def _fit_one(self, image: Any, call: dict[str, Any]) -> Image:
        picture = _one_picture(image)
        size = self.image_processor.choose_size([picture], call.get("height"), call.get("width"))
        return self.image_processor.fit(picture, *size)

    def _edit_spatially(
        self, before: Image, given: Image, prompt: str, box: Box | None, call: dict[str, Any]
    ) -> JoyImageEditPipelineOutput:
        """Run the edit on a picture that has its final size already, and check what comes out.

        Raises:
            ValueError: `call` asks for a tuple.
        """
        if call.get("return_dict", True) is False:
            raise ValueError("`return_dict` is False; expected True: the checks have no place in a tuple.")
        settings = {
            "num_inference_steps": self.config["default_num_inference_steps"],
            "guidance_scale": self.config["default_guidance_scale"],
            **call,
            "height": given.height,
            "width": given.width,
        }
        output = cast("Any", self)(prompt=prompt, **{self._picture_argument: [given]}, **settings)
        checks = None
        if settings.get("output_type", "pil") == "pil":
            checks = [check_edit(before, picture, box) for picture in output.images]
        return replace(output, checks=checks, prompt=prompt)


def _one_picture(image: Any) -> Image:
    """Return the picture.

    Raises:
        ValueError: There are several.
    """
    pictures = to_pictures(image)
    if len(pictures) != 1:
        raise ValueError(f"`image` holds {len(pictures)} pictures; expected one.")
    return pictures[0]


def _through_crop(box: Box, picture: Image, size: tuple[int, int]) -> Box:
    """Carry a box on a picture through scaling and cropping to a size (height, width).

    Raises:
        ValueError: The crop would cut it off.
    """
    (scaled_height, scaled_width), (top, left) = scale_to_cover(picture.height, picture.width, *size)
    across, down = scaled_width / picture.width, scaled_height / picture.height
    placed = (
        round(box[0] * across) - left,
        round(box[1] * down) - top,
        round(box[2] * across) - left,
        round(box[3] * down) - top,
    )
    height, width = size
    if placed[0] < 0 or placed[1] < 0 or placed[2] > width or placed[3] > height:
        lost_across, lost_down = left / across, top / down
        raise ValueError(
            f"`box` is {box} in a picture of {picture.width} x {picture.height} pixels, "
            f"of which the crop to {width} x {height} keeps columns {lost_across:.0f} to "
            f"{picture.width - lost_across:.0f} and rows {lost_down:.0f} to "
            f"{picture.height - lost_down:.0f}; expected a box within them."
        )
    return placed
