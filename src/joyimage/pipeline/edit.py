"""`JoyImageEditPipeline`: edit an image by instruction, or generate one from text."""

# Annotations are real types here, as in `base.py`.

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from diffusers.callbacks import PipelineCallback
from PIL.Image import Image
from torch import Tensor

from joyimage.acceleration.presets import EXACT
from joyimage.errors import InvalidInputError
from joyimage.pipeline.callbacks import StepCallback, StepFunction
from joyimage.pipeline.calls import DefaultGuidance, DefaultSchedule, DefaultSpeed, DefaultSteps, serialized
from joyimage.pipeline.candidates import choosing
from joyimage.pipeline.checks import check_image_count, check_latents
from joyimage.pipeline.decode import decode_target
from joyimage.pipeline.denoise import denoise
from joyimage.pipeline.framing import FramedImage, Framing
from joyimage.pipeline.images import ImageInput, ModelImage, to_images
from joyimage.pipeline.inputs import PromptInputs, SamplingInputs
from joyimage.pipeline.latents import Generators, draw_noise, draw_posterior, group_references, resolve_dtype
from joyimage.pipeline.output import JoyImageEditPipelineOutput
from joyimage.pipeline.spatial import SpatialEditingPipeline
from joyimage.types import ImageSize, LatentSize


class JoyImageEditPipeline(SpatialEditingPipeline):
    """Edit images by instruction with JoyAI-Image-Edit.

    Args:
        scheduler: Flow-matching Euler scheduler.
        vae: Wan 2.1 VAE.
        text_encoder: Qwen3-VL, which reads image and prompt.
        tokenizer: Tokenizer of the text encoder.
        transformer: Predicts the velocity.
        processor: Prepares images for the text encoder.
        text_token_max_length: Maximum number of prompt tokens without an image.
        base_size: Side in pixels of the square bucket; the other buckets have about its area.
        default_num_inference_steps: Denoising steps that suit the checkpoint.
        default_guidance_scale: Guidance scale that suits the checkpoint.

    The last four are the checkpoint's settings. None takes those that the given components were loaded with,
    and the published checkpoint's (2048, 1024, 40, 4.0) where they have none.
    """

    @choosing
    @serialized
    @torch.no_grad()
    def __call__(
        self,
        image: ImageInput | None = None,
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = DefaultSteps(40),
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
        reference_latents: str = "sample",
        latents_dtype: str | torch.dtype | None = None,
        fit: str = "crop",
        restore: bool = False,
        preserve: bool = False,
        region: Any = None,
        feather: float | None = None,
        close_up: bool = False,
        speed: str = DefaultSpeed(EXACT),
        check_object: bool = False,
        attention_kwargs: Mapping[str, Any] | None = None,
    ) -> JoyImageEditPipelineOutput | tuple[Any]:
        """Edit `image` as `prompt` says; without an image, generate one.

        Args:
            image: PIL image, numpy array, tensor, or a list of these: one for all prompts, or one each.
            prompt: What to do.
            height: Requested height in pixels; with `width` it chooses the nearest bucket.
            width: Requested width in pixels; goes with `height`.
            num_inference_steps: Number of denoising steps. Where it is not given, the checkpoint's own: 40 for the
                published one.
            timesteps: Custom timesteps, falling; their number is the number of steps.
            sigmas: Custom noise levels from 1 to 0, falling; their number is the number of steps.
            guidance_scale: Classifier-free guidance; off at 1 and below. Where it is not given, the checkpoint's
                own: 4.0 for the published one.
            negative_prompt: What to stay away from; None is the empty prompt.
            num_images_per_prompt: Outputs per prompt.
            generator: One for all outputs or one each; it covers every draw.
            latents: The target's starting noise, `[outputs, 1, C, 1, H/8, W/8]`.
            prompt_embeds: Made by `encode_prompt` or `encode_prompt_multiple_images`; then without `prompt`.
            prompt_embeds_mask: Mask of `prompt_embeds`, `[prompts, L]`.
            negative_prompt_embeds: Embeddings of the negative prompt; then without `negative_prompt`.
            negative_prompt_embeds_mask: Mask of `negative_prompt_embeds`, `[prompts, L]`.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: Whether to return the output object; else a tuple.
            callback_on_step_end: `f(pipe, step, timestep, tensors) -> tensors`, or a `PipelineCallback`. Setting
                `pipe._interrupt = True` ends the loop after the step; what is there is decoded.
            callback_on_step_end_tensor_inputs: Names of the tensors that it gets; None: the latents.
            max_sequence_length: Maximum number of tokens with an image.
            enable_denormalization: Whether latents are normalized with the VAE's statistics.
            schedule: "diffusers" or "jd", see `set_schedule`.
            reference_latents: "sample" or "mode" of the VAE's posterior.
            latents_dtype: Precision of latents and guidance between steps; None: that of the embeddings.
            fit: "crop" to a bucket, as published; "pad" to one, the padding is cut off the result; "exact": the
                image's own aspect ratio in multiples of 16, or `height` and `width` as given.
            restore: Map the result back onto the image at its own size, cropped borders from the image.
            preserve: Keep the image's own pixels where the edit changed nothing; the masks are returned.
            region: A box on the image (pixels or fractions) or a mask: nothing changes outside.
            feather: Pixels over which the edge of `region` is blended inward; None: 12 per 1024 of the longer side.
            close_up: Show the model only the region and what is around it, so that it is edited at full
                resolution; needs `region` and `restore`.
            speed: "exact" computes every step; "balanced" and "fast" reuse results of earlier steps for a stated price
                (docs/speed.md), and "turbo" needs a turbo adapter. An active one sets the defaults of this argument, of
                the steps, the guidance scale and the schedule.
            check_object: Whether to ask the model first if the object to remove, recolor or replace is in the image,
                and to reject the edit if not.
            attention_kwargs: As in diffusers: {"scale": 0.5} multiplies the strength of the active adapters in this
                call.

        Returns:
            Images in the order prompt 0 first to last output, prompt 1, and so on.

        Raises:
            InvalidTypeError: An argument is of a wrong type.
            InvalidInputError: An argument is out of range or does not fit another, or there is no such object.
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
        framing = Framing(
            fit=fit, restore=restore, preserve=preserve, region=region, feather=feather, close_up=close_up
        )
        callback = StepCallback.of(callback_on_step_end, callback_on_step_end_tensor_inputs)

        # 1. Check everything before any work, and bring the images to the target size.
        num_prompts, sampling = self._checked_call(prompts, sampling, callback)
        size, shape, framed = self._place_images(image, num_prompts, framing, sampling)
        model_images = [ModelImage(one.image) for one in framed]
        self._check_named_objects(prompt, framed, wanted=check_object)
        with self._running(sampling) as device:
            # 2. Encode images and prompts.
            by_prompt = _group_by_prompt(model_images, num_prompts)
            conditioning = self._encode_conditioning(prompts, by_prompt, sampling, num_prompts, device)

            # 3. Set the noise levels; draw the noise, then the references' latents.
            self._set_schedule(sampling, device)
            noise, references = self._draw_latents(shape, model_images, sampling, device, conditioning.dtype)

            # 4. Denoise, decode the target, and map it back where asked.
            groups = group_references([()] * shape[0] if references is None else references, device)
            target = denoise(self, noise, groups, conditioning, _with_references(callback, references))
            return self._finish(target, size, sampling, framing, framed, return_dict=return_dict)

    def prepare_latents(
        self,
        batch_size: int,
        num_channels_latents: int,
        height: int,
        width: int,
        video_length: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: Generators,
        latents: Tensor | None = None,
        image: ImageInput | None = None,
        enable_denormalization: bool = True,
        reference_latents: str = "sample",
    ) -> tuple[Tensor, Tensor | None]:
        """Draw the noise first and the references' latents second.

        Args:
            batch_size: Number of outputs, B.
            num_channels_latents: Channels of the latents, C.
            height: Height of the output in pixels.
            width: Width of the output in pixels.
            video_length: Number of frames; 1 for images.
            dtype: Precision of noise and references.
            device: Device of noise and references.
            generator: One for all outputs, or one per output.
            latents: Noise to use instead of a draw, `[B, 1, C, T, H/8, W/8]`.
            image: Images of the output's size, as many as divide B; the outputs of one image are adjacent.
            enable_denormalization: Whether the references are normalized with the VAE's statistics.
            reference_latents: "sample" or "mode" of the VAE's posterior.

        Returns:
            Noise `[B, 1, C, T, H/8, W/8]` and references `[B, 1, C, T, H/8, W/8]`, None without images.

        Raises:
            InvalidInputError: The generators or the images do not match B.
        """
        latent = LatentSize.of(ImageSize(width, height), self.vae_scale_factor_spatial)
        frames = (video_length - 1) // self.vae.config["scale_factor_temporal"] + 1
        shape = (batch_size, 1, num_channels_latents, frames, latent.height, latent.width)
        check_latents(latents, shape)
        sampling = SamplingInputs(
            generator=generator,
            latents=latents,
            reference_latents=reference_latents,
            enable_denormalization=enable_denormalization,
        )
        images = [] if image is None else [ModelImage(one) for one in to_images(image)]
        return self._draw_latents(shape, images, sampling, device, dtype)

    def edit_at_size(self, image: Image, prompt: str, **call: Any) -> JoyImageEditPipelineOutput:
        """Edit one image that already has the target size; see `SpatialEditingPipeline.edit_at_size`."""
        size: dict[str, Any] = {"height": image.height, "width": image.width, "fit": "exact"}
        return cast("JoyImageEditPipelineOutput", self(image=[image], prompt=prompt, **{**call, **size}))

    def _place_images(
        self, given: ImageInput | None, num_prompts: int, framing: Framing, sampling: SamplingInputs
    ) -> tuple[ImageSize, tuple[int, ...], list[FramedImage]]:
        """Check images, framing and given noise, and bring the images to the target size.

        Args:
            given: The call's `image` argument.
            num_prompts: Number of prompts.
            framing: How the images are brought to the target size.
            sampling: Holds the requested size, the number of outputs and the given noise.

        Returns:
            The target size; the shape of the noise of all outputs, `[B, 1, C, 1, H/8, W/8]`; the images.

        Raises:
            InvalidTypeError: The images are of a type that is not accepted.
            InvalidInputError: The number of images, their shapes, the framing or the noise are not accepted.
        """
        images = [] if given is None else to_images(given)
        if images:
            check_image_count(len(images), num_prompts)
        framing.check(has_image=bool(images), output_type=sampling.output_type)
        if images:
            size = framing.choose_size(self.image_processor, images, sampling.requested_size)
        else:
            size = self.image_processor.choose_size(requested=sampling.requested_size)
        shape = (num_prompts * sampling.num_images_per_prompt, 1, *self._latent_shape(size))
        check_latents(sampling.latents, shape)
        return size, shape, framing.place_all(images, size, given)

    def _finish(
        self,
        target: Tensor,
        size: ImageSize,
        sampling: SamplingInputs,
        framing: Framing,
        framed: list[FramedImage],
        *,
        return_dict: bool,
    ) -> JoyImageEditPipelineOutput | tuple[Any]:
        """Decode the target, and map it back onto the caller's images where the framing asks for it.

        Args:
            target: Denoised latents, `[B, 1, C, 1, H/8, W/8]`.
            size: Target size.
            sampling: Holds the output type and whether latents are normalized.
            framing: What is mapped back.
            framed: The caller's images.
            return_dict: Whether to return the output object; else a tuple.
        """
        result = decode_target(
            self, target, sampling.output_type, enable_denormalization=sampling.enable_denormalization
        )
        result, masks = (result, None) if framing.is_plain else framing.finish_all(result, framed)
        return self._output(result, size, return_dict=return_dict, masks=masks)

    def _draw_latents(
        self,
        shape: tuple[int, ...],
        images: list[ModelImage],
        sampling: SamplingInputs,
        device: torch.device,
        default_dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor | None]:
        """Draw the noise of a shape `[B, 1, C, T, H/8, W/8]`, then the references; see `prepare_latents`.

        Their precision is `sampling.latents_dtype`, or else `default_dtype`.

        Raises:
            InvalidInputError: The generators or the images do not match B.
        """
        dtype = resolve_dtype(sampling.latents_dtype, default_dtype)
        if sampling.latents is None:
            noise = draw_noise(shape, sampling.generator, device, dtype)
        else:
            noise = sampling.latents.to(device, dtype)
        if not images:
            return noise, None
        num_outputs = shape[0]
        if num_outputs % len(images):
            raise InvalidInputError(
                f"`image` holds {len(images)} images; expected a divisor of {num_outputs} outputs."
            )
        posteriors = self._encode_images(images, device)
        owners = [images[output * len(images) // num_outputs] for output in range(num_outputs)]
        references = draw_posterior(
            [posteriors[owner.digest] for owner in owners], sampling.generator, sampling.reference_latents
        ).to(dtype)
        if sampling.enable_denormalization:
            references = self.normalize_latents(references)
        return noise, references.unsqueeze(1)


def _group_by_prompt(images: list[ModelImage], num_prompts: int) -> list[list[ModelImage]] | None:
    """Return the image of each prompt as a list; None without images."""
    if not images:
        return None
    return [[image] for image in images] * (num_prompts // len(images))


def _with_references(callback: StepCallback, references: Tensor | None) -> StepCallback:
    """Return the callback, to which references and target are one tensor, the target last."""
    if references is None:
        return replace(callback, restore=_last_item)

    def show(latents: Tensor) -> Tensor:
        return torch.cat([references[: len(latents)], latents], dim=1)  # dropped candidates are gone

    return replace(callback, show=show, restore=_last_item)


def _last_item(latents: Tensor) -> Tensor:
    return latents[:, -1:]
