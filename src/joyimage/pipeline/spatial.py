"""Spatial edits: move an object, rotate an object, move the camera."""

# Annotations are real types here, as in `base.py`.

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL.Image import Image

from joyimage.errors import InvalidInputError
from joyimage.pipeline.answers import ImageReader
from joyimage.pipeline.base import JoyImagePipeline
from joyimage.pipeline.calls import serialized
from joyimage.pipeline.candidates import Choice, Chooser, check_choosable, shared_features, take_choice
from joyimage.pipeline.checks import check_size
from joyimage.pipeline.framing import FramedImage, Framing
from joyimage.pipeline.images import ImageInput
from joyimage.pipeline.judging import judge_images
from joyimage.pipeline.output import JoyImageEditPipelineOutput
from joyimage.pipeline.plans import ChooseSize, SpatialPlan, plan_move, plan_prompt
from joyimage.spatial.camera import CameraMove, check_moves
from joyimage.spatial.rotation import ObjectRotation, View
from joyimage.types import ImageSize
from joyimage.understanding.judge import Verdict, check_objects_present, check_present, judge_edit


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
        check_object: bool = False,
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
            check_object: Whether to ask the model first if there is such an object, and to reject the edit if not.
            **call: Further arguments of the pipeline's call.

        Returns:
            Images, with `checks` of each.

        Raises:
            InvalidTypeError: The image is of a type that is not accepted.
            InvalidInputError: The box does not fit on the image, an argument is out of range, or there is no such
                object.
        """
        style, framing = _take_prompt_style(call, prompt_style), _take_framing(call)
        plan = plan_move(
            image, object, box, framing, self._chooser(call), box_form=box_form, prompt_style=style
        )
        self._check_object(plan, object, wanted=check_object)
        return self._edit_spatially(plan, call)

    def rotate(
        self,
        image: ImageInput,
        object: str,
        view: View | str,
        *,
        prompt_style: str | None = None,
        check_object: bool = False,
        **call: Any,
    ) -> JoyImageEditPipelineOutput:
        """Rotate an object to one of eight views; camera and background stay.

        Args:
            image: One image of any kind that the pipeline takes.
            object: What to rotate, such as "car".
            view: A `View`, or a usual spelling such as "rear-left".
            prompt_style: "documented" or "benchmark"; None: "documented".
            check_object: Whether to ask the model first if there is such an object, and to reject the edit if not.
            **call: Further arguments of the pipeline's call.

        Returns:
            Images, with `checks` of each.

        Raises:
            InvalidTypeError: The image is of a type that is not accepted.
            InvalidInputError: There is no such view or object, or an argument is out of range.
        """
        prompt = ObjectRotation(object, view).prompt_in(_take_prompt_style(call, prompt_style))
        plan = plan_prompt(image, prompt, _take_framing(call), self._chooser(call))
        with shared_features(self):
            self._check_object(plan, object, wanted=check_object)
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

    @serialized
    @torch.no_grad()
    def judge(
        self,
        before: ImageInput | None,
        after: ImageInput,
        instruction: str,
        *,
        box: Sequence[float] | None = None,
        box_form: str = "xyxy",
    ) -> Verdict:
        """Judge whether an edit was done, and whether everything else stayed.

        The model is asked about both images, and pixels are compared; a checkpoint without language has the pixels
        alone. Nothing is sampled: the verdict of the same images is always the same.

        Args:
            before: The image before the edit, without a red box; None for an image made from text alone.
            after: The result.
            instruction: What was asked for; prompts of spatial edits are recognized.
            box: For a move, where the object should be on `before`: pixels, or fractions where no number exceeds 1.
            box_form: "xyxy" (left, top, right, bottom) or "xywh" (left, top, width, height).

        Returns:
            The verdict, with what it is based on; its `done` is None where nothing can be judged.

        Raises:
            InvalidTypeError: An image is of a type that is not accepted.
            InvalidInputError: The instruction is empty, a box fits on no image, or there are several images.
        """
        try:
            return judge_images(self, before, after, instruction, box=box, box_form=box_form)
        finally:
            self.maybe_free_model_hooks()

    @serialized
    @torch.no_grad()
    def _check_object(self, plan: SpatialPlan, name: str, *, wanted: bool) -> None:
        """Reject an object that the model does not see in the image.

        Raises:
            InvalidInputError: It does not.
        """
        if not wanted:
            return
        try:
            check_present(ImageReader(self, self._feature_cache), plan.framed.image, name)
        finally:
            self.maybe_free_model_hooks()

    @serialized
    @torch.no_grad()
    def _check_named_objects(
        self, prompt: str | list[str] | None, framed: Sequence[FramedImage], *, wanted: bool
    ) -> None:
        """Reject prompts about objects that the model does not see in their images.

        Args:
            prompt: The call's prompt or prompts; None where it gives embeddings.
            framed: One image for all prompts, one for each, or none.
            wanted: Whether to ask at all.

        Raises:
            InvalidInputError: There is no such object.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt or []
        if not wanted or not framed:
            return
        try:
            for number, one in enumerate(prompts):
                image = framed[number * len(framed) // len(prompts)].image
                check_objects_present(ImageReader(self, self._feature_cache), image, one)
        finally:
            self.maybe_free_model_hooks()

    def _chooser(self, call: dict[str, Any]) -> ChooseSize:
        """Return what chooses the target size of an image, by the call's `height` and `width`."""
        height, width = call.get("height"), call.get("width")
        check_size(height, width)
        requested = None if height is None or width is None else ImageSize(int(width), int(height))
        return lambda framing, image: framing.choose_size(self.image_processor, [image], requested)

    def _edit_spatially(self, plan: SpatialPlan, call: dict[str, Any]) -> JoyImageEditPipelineOutput:
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
        for name in ("prompt", "image", "images"):
            if name in call:
                raise InvalidInputError(
                    f"`{name}` can't be given here: a spatial edit makes its own prompt from its arguments, and takes "
                    "one image. Leave it out, or call the pipeline itself."
                )
        choice = take_choice(call)
        if choice.is_needed:
            return self._choose_spatially(choice, plan, call)
        output_type = call.get("output_type", "pil")
        plan.framing.check(has_image=True, output_type=output_type)
        output = self.edit_at_size(plan.model_input, plan.prompt, **call)
        if output_type != "pil":
            return replace(output, prompt=plan.prompt)
        images, masks, checks = plan.finish(output.images)
        return replace(output, images=images, masks=masks, checks=checks, prompt=plan.prompt)

    def _choose_spatially(
        self, choice: Choice, plan: SpatialPlan, call: dict[str, Any]
    ) -> JoyImageEditPipelineOutput:
        """Make candidates of a spatial edit; all are judged at the target size, where the box is known."""
        check_choosable(self, plan.prompt, call)
        reader = ImageReader(self)

        def judge(result: Image) -> Verdict:
            return judge_edit(reader, plan.framed.image, result, plan.prompt, plan.box)

        def run(**further: Any) -> JoyImageEditPipelineOutput:
            return self.edit_at_size(plan.model_input, plan.prompt, **{**call, **further})

        chooser = Chooser(pipe=self, choice=choice, run=run, judge=judge, judge_early=judge)
        output = chooser.choose(call)
        images, masks, checks = plan.finish(output.images)
        return replace(output, images=images, masks=masks, checks=checks, prompt=plan.prompt)


def _take_framing(call: dict[str, Any]) -> Framing:
    """Take the framing out of a call's arguments."""
    return Framing(
        **{
            name: call.pop(name)
            for name in ("fit", "restore", "preserve", "region", "feather")
            if name in call
        }
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
