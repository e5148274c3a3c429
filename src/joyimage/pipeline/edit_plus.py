"""`JoyImageEditPlusPipeline`: edit with several reference images, each at its own size."""

# Annotations are real types here, as in `base.py`.

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from diffusers.callbacks import PipelineCallback
from PIL.Image import Image
from torch import Tensor

from joyimage.acceleration.presets import EXACT
from joyimage.errors import InvalidInputError
from joyimage.pipeline.callbacks import StepCallback, StepFunction
from joyimage.pipeline.calls import DefaultGuidance, DefaultSchedule, DefaultSpeed, DefaultSteps, serialized
from joyimage.pipeline.candidates import choosing
from joyimage.pipeline.checks import check_divisible, check_latents
from joyimage.pipeline.decode import decode_target
from joyimage.pipeline.denoise import denoise
from joyimage.pipeline.images import ImageInput, ModelImage, fit_to_size, is_nested, to_images
from joyimage.pipeline.inputs import PromptInputs, SamplingInputs
from joyimage.pipeline.latents import Generators, draw_noise, draw_posterior, group_references, resolve_dtype
from joyimage.pipeline.output import JoyImageEditPipelineOutput
from joyimage.pipeline.spatial import SpatialEditingPipeline
from joyimage.types import ImageSize


class JoyImageEditPlusPipeline(SpatialEditingPipeline):
    """Edit by instruction with several references, such as a person, a dress and a place.

    Every reference goes in at the bucket nearest to its own shape; the output takes any size divisible by 16.
    `JoyImageEditPipeline` documents the arguments of the constructor; the published number of steps is 30.
    """

    takes_several_images: ClassVar[bool] = True
    _published_steps: ClassVar[int] = 30
    _default_negative_prompt: ClassVar[str] = " "  # As trained: one blank, where Edit has none.

    @choosing
    @serialized
    @torch.no_grad()
    def __call__(
        self,
        images: ImageInput | None = None,
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = DefaultSteps(30),
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        guidance_scale: float = DefaultGuidance(4.0),
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_embeds_mask: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_embeds_mask: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepFunction | PipelineCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        max_sequence_length: int = 4096,
        enable_denormalization: bool = True,
        schedule: str = DefaultSchedule("diffusers"),
        reference_latents: str = "mode",
        latents_dtype: str | torch.dtype | None = None,
        speed: str = DefaultSpeed(EXACT),
        attention_kwargs: Mapping[str, Any] | None = None,
    ) -> JoyImageEditPipelineOutput | tuple[Any]:
        """Generate an image from `images` as `prompt` says; without images, from the prompt alone.

        Args:
            images: References of any kind that `JoyImageEditPipeline` takes: a list, which every prompt gets,
                or one list per prompt, whose lengths may differ.
            prompt: What to do.
            height: Height of the output in pixels, divisible by 16; goes with `width`. None: that of the bucket
                of the last reference.
            width: Width of the output in pixels, divisible by 16; goes with `height`.
            num_inference_steps: Number of denoising steps. Where it is not given, the checkpoint's own: 30 for the
                published one.
            timesteps: Custom timesteps, falling; their number is the number of steps.
            sigmas: Custom noise levels from 1 to 0, falling; their number is the number of steps.
            guidance_scale: Classifier-free guidance; off at 1 and below. Where it is not given, the checkpoint's
                own: 4.0 for the published one.
            negative_prompt: What to stay away from; None is one blank.
            num_images_per_prompt: Outputs per prompt.
            generator: One for all outputs or one each; it covers every draw.
            latents: The target's starting noise, `[outputs, C, 1, H/8, W/8]`.
            prompt_embeds: Made by `encode_prompt` or `encode_prompt_multiple_images`; then without `prompt`.
            prompt_embeds_mask: Mask of `prompt_embeds`, `[prompts, L]`.
            negative_prompt_embeds: Embeddings of the negative prompt; then without `negative_prompt`.
            negative_prompt_embeds_mask: Mask of `negative_prompt_embeds`, `[prompts, L]`.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: Whether to return the output object; else a tuple.
            callback_on_step_end: `f(pipe, step, timestep, tensors) -> tensors`, or a `PipelineCallback`. Setting
                `pipe._interrupt = True` ends the loop after the step; what is there is decoded.
            callback_on_step_end_tensor_inputs: Names of the tensors that it gets; None: the target's latents.
            max_sequence_length: Maximum number of tokens with images.
            enable_denormalization: Whether latents are normalized with the VAE's statistics.
            schedule: "diffusers" or "jd", see `set_schedule`.
            reference_latents: "mode" or "sample" of the VAE's posterior.
            latents_dtype: Precision of latents and guidance between steps; None: that of the embeddings.
            speed: "exact" computes every step; "balanced" and "fast" reuse results of earlier steps for a stated price
                (docs/speed.md), and "turbo" needs a turbo adapter. An active one sets the defaults of this argument, of
                the steps, the guidance scale and the schedule.
            attention_kwargs: As in diffusers: {"scale": 0.5} multiplies the strength of the active adapters in this
                call.

        Returns:
            Images in the order prompt 0 first to last output, prompt 1, and so on.

        Raises:
            InvalidTypeError: An argument is of a wrong type.
            InvalidInputError: An argument is out of range or does not fit another.
            InvalidResultError: The model produced values that are not finite.
        """
        prompts = PromptInputs(
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            prompt_embeds_mask=prompt_embeds_mask,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_prompt_embeds_mask=negative_prompt_embeds_mask,
        )
        sampling = SamplingInputs(
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            timesteps=timesteps,
            sigmas=sigmas,
            schedule=schedule,
            guidance_scale=guidance_scale,
            num_images_per_prompt=num_images_per_prompt,
            generator=generator,
            latents=latents,
            latents_dtype=latents_dtype,
            reference_latents=reference_latents,
            enable_denormalization=enable_denormalization,
            max_sequence_length=max_sequence_length,
            output_type=output_type,
            speed=speed,
            attention_kwargs=attention_kwargs,
        )
        callback = StepCallback.of(callback_on_step_end, callback_on_step_end_tensor_inputs)

        # 1. Check everything before any work, and bring each reference to its own size.
        num_prompts, sampling = self._checked_call(prompts, sampling, callback)
        references = None if images is None else _group_references_by_prompt(images, num_prompts)
        size = self._choose_size(references, sampling.requested_size)
        shape = (num_prompts * sampling.num_images_per_prompt, *self._latent_shape(size))
        check_latents(latents, shape)
        model_images = None if references is None else self._fit_all(references)

        with self._running(sampling) as device:
            # 2. Encode references and prompts.
            conditioning = self._encode_conditioning(prompts, model_images, sampling, num_prompts, device)

            # 3. Set the noise levels; draw each output's noise and its references' latents.
            self._set_schedule(sampling, device)
            noise, items = self._draw_latents(shape, model_images, sampling, device, conditioning.dtype)

            # 4. Denoise, and decode the target.
            groups = group_references(items, device)
            target = denoise(self, noise, groups, conditioning, _target_only(callback))
            result = decode_target(self, target, output_type, enable_denormalization=enable_denormalization)
        return self._output(result, size, return_dict=return_dict)

    def edit_at_size(self, image: Image, prompt: str, **call: Any) -> JoyImageEditPipelineOutput:
        """Edit one image that already has the target size; see `SpatialEditingPipeline.edit_at_size`."""
        size: dict[str, Any] = {"height": image.height, "width": image.width}
        return cast("JoyImageEditPipelineOutput", self(images=[image], prompt=prompt, **{**call, **size}))

    def _choose_size(self, references: list[list[Image]] | None, requested: ImageSize | None) -> ImageSize:
        """Return the requested size, or the bucket of the prompts' last references.

        Raises:
            InvalidInputError: The requested size is not divisible by 16, or the prompts' last references have
                different buckets.
        """
        if requested is not None:
            check_divisible(requested, 2 * self.vae_scale_factor_spatial)
            return requested
        last = [group[-1] for group in references or ()]
        return self.image_processor.choose_size(last, name="images")

    def _fit_all(self, references: list[list[Image]]) -> list[list[ModelImage]]:
        """Scale and crop every reference to its own bucket, each distinct object once."""
        processor = self.image_processor
        fitted: dict[int, ModelImage] = {}
        for image in (image for group in references for image in group):
            if id(image) not in fitted:
                fitted[id(image)] = ModelImage(fit_to_size(image, processor.choose_size([image])))
        return [[fitted[id(image)] for image in group] for group in references]

    def _draw_latents(
        self,
        shape: tuple[int, ...],
        references: list[list[ModelImage]] | None,
        sampling: SamplingInputs,
        device: torch.device,
        default_dtype: torch.dtype,
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """Draw for each output its noise, then the latents of its references.

        Args:
            shape: Shape of the noise of all outputs, `[B, C, 1, H/8, W/8]`.
            references: References of each prompt.
            sampling: Holds generator, given noise and how references are drawn.
            device: Device of the latents.
            default_dtype: Precision of the latents where `sampling.latents_dtype` is None.

        Returns:
            Noise `[B, 1, C, 1, H/8, W/8]`, and for each output the latents of its references, `[C, 1, h/8, w/8]`.
        """
        dtype = resolve_dtype(sampling.latents_dtype, default_dtype)
        distinct = [image for group in references or () for image in group]
        posteriors = self._encode_images(distinct, device)
        noise: list[Tensor] = []
        items: list[list[Tensor]] = []
        for output in range(shape[0]):
            generator = sampling.generator
            own = [generator[output]] if isinstance(generator, list) else generator
            if sampling.latents is None:
                noise.append(draw_noise((1, *shape[1:]), own, device, dtype))
            else:
                noise.append(sampling.latents[output : output + 1].to(device, dtype))
            items.append([])
            for image in references[output // sampling.num_images_per_prompt] if references else ():
                latents = draw_posterior([posteriors[image.digest]], own, sampling.reference_latents)
                if sampling.enable_denormalization:
                    latents = self.normalize_latents(latents)
                items[-1].append(latents[0].to(dtype))
        return torch.stack(noise), items


def _target_only(callback: StepCallback) -> StepCallback:
    """Return the callback, to which the latents are those of the target, `[B, C, 1, H, W]`."""

    def show(latents: Tensor) -> Tensor:
        return latents[:, 0]

    def restore(latents: Tensor) -> Tensor:
        return latents.unsqueeze(1)

    return replace(callback, show=show, restore=restore)


def _group_references_by_prompt(images: Any, num_prompts: int) -> list[list[Image]]:
    """Give every prompt its references.

    Raises:
        InvalidTypeError: An image is of a type that is not accepted.
        InvalidInputError: The number of lists is not that of the prompts, or a list is empty.
    """
    if not is_nested(images):
        return [to_images(images, "images")] * num_prompts
    if len(images) != num_prompts:
        raise InvalidInputError(
            f"`images` holds {len(images)} lists for {num_prompts} prompts; expected one list for each, "
            "or one flat list for all."
        )
    return [to_images(group, "images") for group in images]
