"""`JoyImageEditPipeline`: edit a picture by instruction, or make one from text."""

# Annotations are real types here: diffusers reads those of the constructor when it loads a checkpoint.

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from PIL.Image import Image
from torch import Tensor
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from joyimage.compat.diffusers import reset_step_caches
from joyimage.errors import InvalidInputError
from joyimage.model.transformer import JoyImageEditTransformer3DModel
from joyimage.pipeline.adapters import AdapterLoadingMixin
from joyimage.pipeline.calls import DefaultGuidance, DefaultSteps, check_finite, serialized
from joyimage.pipeline.conditioning import PromptEncodingMixin
from joyimage.pipeline.denoise import denoise, group_references
from joyimage.pipeline.describe import DescriptionMixin
from joyimage.pipeline.feature_cache import digest
from joyimage.pipeline.framing import Framing
from joyimage.pipeline.images import JoyImageEditImageProcessor, to_pictures, to_pixels
from joyimage.pipeline.inputs import check_call, check_callback, check_latents, check_parts, check_pictures
from joyimage.pipeline.latents import Generators, draw_noise, draw_posterior, resolve_dtype, statistics
from joyimage.pipeline.loading import CheckpointLoadingMixin
from joyimage.pipeline.output import JoyImageEditPipelineOutput
from joyimage.pipeline.processor import JoyImageProcessor
from joyimage.pipeline.schedule import set_schedule
from joyimage.pipeline.session import SessionMixin
from joyimage.pipeline.settings import CheckpointSettings, resolve_settings
from joyimage.pipeline.spatial import SpatialEditingMixin
from joyimage.pipeline.vae import decode_frame, encode_frame


class JoyImageEditPipeline(
    CheckpointLoadingMixin,
    PromptEncodingMixin,
    DescriptionMixin,
    SpatialEditingMixin,
    SessionMixin,
    AdapterLoadingMixin,
    DiffusionPipeline,
):
    """Edit pictures by instruction with JoyAI-Image-Edit.

    Args:
        scheduler: Flow-matching Euler scheduler.
        vae: Wan 2.1 VAE.
        text_encoder: Qwen3-VL, which reads picture and prompt.
        tokenizer: Its tokenizer.
        transformer: Predicts the velocity.
        processor: Prepares pictures for the text encoder.
        text_token_max_length: Most prompt tokens without an image.
        base_size: Side in pixels of the square bucket; the other buckets have about its area.
        default_num_inference_steps: Denoising steps that suit the checkpoint.
        default_guidance_scale: Guidance scale that suits the checkpoint.

    The last four are the checkpoint's settings. None takes those that the given components were loaded with,
    and the published checkpoint's (2048, 1024, 40, 4.0) where they have none.
    """

    _published_steps = 40
    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]  # noqa: RUF012 - diffusers' name

    def __init__(
        self,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae: AutoencoderKLWan,
        text_encoder: Qwen3VLForConditionalGeneration,
        tokenizer: Qwen2Tokenizer,
        transformer: JoyImageEditTransformer3DModel,
        processor: JoyImageProcessor,
        text_token_max_length: int | None = None,
        base_size: int | None = None,
        default_num_inference_steps: int | None = None,
        default_guidance_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            scheduler=scheduler,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            transformer=transformer,
            processor=processor,
        )
        settings = resolve_settings(
            (transformer, vae, text_encoder),
            published=CheckpointSettings(default_num_inference_steps=self._published_steps),
            text_token_max_length=text_token_max_length,
            base_size=base_size,
            default_num_inference_steps=default_num_inference_steps,
            default_guidance_scale=default_guidance_scale,
        )
        self.register_to_config(**asdict(settings))
        # Without a VAE prompts can be encoded; 8 is the factor of every Wan 2.1 VAE.
        self.vae_scale_factor_spatial = 8 if vae is None else vae.config["scale_factor_spatial"]
        self._interrupt = False
        self._guidance_scale = 1.0
        self._num_timesteps = 0
        self._current_timestep: Tensor | None = None

    @property
    def image_processor(self) -> JoyImageEditImageProcessor:
        """What brings pictures to a size of this pipeline's base and turns pixels into pictures."""
        return JoyImageEditImageProcessor(
            vae_scale_factor=self.vae_scale_factor_spatial, base_size=self.config["base_size"]
        )

    @property
    def guidance_scale(self) -> float:
        """Guidance of the call that is running."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the call that is running has a negative branch."""
        return self._guidance_scale > 1

    @property
    def interrupt(self) -> bool:
        """Whether the loop shall end; set `_interrupt` to ask for it."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """Number of steps of the call that is running, or of the last one."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """Timestep of the step that is running; step caches ask for it."""
        return self._current_timestep

    @serialized
    @torch.no_grad()
    def __call__(
        self,
        image: Any = None,
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
        callback_on_step_end: Callable[..., dict[str, Any]] | PipelineCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        max_sequence_length: int = 4096,
        enable_denormalization: bool = True,
        schedule: str = "diffusers",
        reference_latents: str = "sample",
        latents_dtype: str | torch.dtype | None = None,
        fit: str = "crop",
        restore: bool = False,
        preserve: bool = False,
        region: Any = None,
    ) -> JoyImageEditPipelineOutput | tuple[Any]:
        """Edit `image` as `prompt` says; without an image, make one.

        Args:
            image: PIL image, numpy array, tensor, or a list of these: one for all prompts, or one each.
            prompt: What to do.
            height: Wished height in pixels; with `width` it chooses the nearest trained size.
            width: Wished width in pixels.
            num_inference_steps: Number of denoising steps. Where it is not given, the checkpoint's own: 40 for the
                published one.
            timesteps: Custom timesteps; their number is the number of steps.
            sigmas: Custom noise levels, likewise.
            guidance_scale: Classifier-free guidance; off at 1 and below. Where it is not given, the checkpoint's
                own: 4.0 for the published one.
            negative_prompt: What to stay away from; None is the empty prompt.
            num_images_per_prompt: Outputs per prompt.
            generator: One for all outputs or one each; it covers every draw.
            latents: The target's starting noise, `[outputs, 1, C, 1, H/8, W/8]`.
            prompt_embeds: Made by `encode_prompt` or `encode_prompt_multiple_images`; then without `prompt`.
            prompt_embeds_mask: Goes with it.
            negative_prompt_embeds: Likewise for the negative prompt.
            negative_prompt_embeds_mask: Goes with it.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: Whether to return the output object; else a tuple.
            callback_on_step_end: `f(pipe, step, timestep, tensors) -> tensors`, or a `PipelineCallback`.
            callback_on_step_end_tensor_inputs: Tensors it is given; None: the latents.
            max_sequence_length: Most tokens kept with a picture.
            enable_denormalization: Whether latents are standardized with the VAE's statistics.
            schedule: "diffusers" or "jd", see `set_schedule`.
            reference_latents: "sample" or "mode" of the VAE's posterior.
            latents_dtype: Precision of latents and guidance between steps; None: that of the embeddings.
            fit: "crop" to a trained size, as published; "pad" to one, the padding is cut off the result;
                "exact": the picture's own aspect ratio in multiples of 16, or `height` and `width` as given.
            restore: Map the result back onto the picture at its own size, cropped borders from the picture.
            preserve: Keep the picture's own pixels where the edit touched nothing; the masks are returned.
            region: A box on the picture (pixels or fractions) or a mask: nothing changes outside.

        Returns:
            Pictures in the order prompt 0 first to last output, prompt 1, and so on.

        Raises:
            TypeError: An argument is of a wrong type.
            InvalidInputError: An argument is out of range or doesn't fit another.
        """
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        callback_tensors = callback_on_step_end_tensor_inputs or ["latents"]
        num_inference_steps, guidance_scale = self._own_defaults(num_inference_steps, guidance_scale)

        # 1. Refuse what can't work.
        pictures = None if image is None else to_pictures(image)
        num_prompts = self.check_inputs(
            prompt,
            height,
            width,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            prompt_embeds_mask,
            negative_prompt_embeds_mask,
            callback_tensors,
            num_inference_steps=num_inference_steps,
            timesteps=timesteps,
            sigmas=sigmas,
            guidance_scale=guidance_scale,
            num_images_per_prompt=num_images_per_prompt,
            generator=generator,
            output_type=output_type,
            schedule=schedule,
            reference_latents=reference_latents,
        )
        num_inference_steps, num_images_per_prompt = int(num_inference_steps), int(num_images_per_prompt)
        height, width = (None if side is None else int(side) for side in (height, width))
        check_pictures(pictures, num_prompts)
        framing = Framing(fit=fit, restore=restore, preserve=preserve, region=region)
        framing.check(has_image=pictures is not None, output_type=output_type)
        for picture in pictures if pictures and region is not None else ():
            framing.check_region(picture.size)
        num_outputs = num_prompts * num_images_per_prompt
        if pictures is None:
            size = self.image_processor.choose_size(None, height, width)
        else:
            size = framing.choose_size(self.image_processor, pictures, height, width)
        check_latents(latents, (num_outputs, 1, *self._latent_shape(size)))

        # 2. Bring the pictures to the size.
        groups, originals, placements = None, pictures, []
        if pictures is not None:
            pictures, placements = map(
                list, zip(*(framing.place(one, size) for one in pictures), strict=True)
            )
            groups = [[picture] for picture in pictures] * (num_prompts // len(pictures))
        self._guidance_scale = guidance_scale
        self._interrupt = False
        device = self._execution_device

        try:
            # 3. Read pictures and prompts.
            embeds, text_masks = self._encode_branches(
                num_prompts,
                {"prompt_embeds": prompt, "negative_prompt_embeds": negative_prompt or ""},
                {
                    "prompt_embeds": (prompt_embeds, prompt_embeds_mask),
                    "negative_prompt_embeds": (negative_prompt_embeds, negative_prompt_embeds_mask),
                },
                groups,
                device,
                max_sequence_length,
                num_images_per_prompt,
                has_negative=self.do_classifier_free_guidance,
            )

            # 4. Set the noise levels.
            set_schedule(
                self.scheduler,
                num_inference_steps,
                device,
                timesteps=timesteps,
                sigmas=sigmas,
                schedule=schedule,
            )
            self._num_timesteps = len(self.scheduler.timesteps)

            # 5. Draw the noise, then the references' latents.
            noise, references = self.prepare_latents(
                num_outputs,
                self.transformer.config.in_channels,
                *size,
                1,
                resolve_dtype(latents_dtype, embeds["prompt_embeds"]),
                device,
                generator,
                latents,
                image=pictures,
                enable_denormalization=enable_denormalization,
                reference_latents=reference_latents,
            )

            # 6. Denoise. Callbacks know references and target as one tensor, the target last.
            target = denoise(
                self,
                noise,
                group_references(
                    [list(items) for items in references] if references is not None else [()] * num_outputs,
                    noise.device,
                ),
                embeds,
                text_masks,
                callback=callback_on_step_end,
                callback_tensors=callback_tensors,
                show=lambda latents: (
                    latents if references is None else torch.cat([references, latents], dim=1)
                ),
                unshow=lambda latents: latents[:, -1:],
            )

            # 7. Decode the target.
            images: Any = self._decode(target, output_type, enable_denormalization)
            masks = None
            if originals is not None and not framing.is_plain:
                images, masks = framing.finish_all(images, originals, placements, image)
        finally:
            self._finish()
        if not return_dict:
            return (images,)
        return JoyImageEditPipelineOutput(
            images=images, height=size[0], width=size[1], interrupted=self._interrupt, masks=masks
        )

    def check_inputs(
        self,
        prompt: str | list[str] | None,
        height: int | None,
        width: int | None,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        prompt_embeds_mask: Tensor | None = None,
        negative_prompt_embeds_mask: Tensor | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        **settings: Any,
    ) -> int:
        """Refuse what a call couldn't work with; arguments as in `__call__`.

        Returns:
            Number of prompts.

        Raises:
            TypeError: A prompt is no string.
            InvalidInputError: An argument is out of range or doesn't fit another.
        """
        check_callback(callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        check_parts(self)
        return check_call(
            prompt=prompt,
            height=height,
            width=width,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            prompt_embeds_mask=prompt_embeds_mask,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_prompt_embeds_mask=negative_prompt_embeds_mask,
            text_dim=self.transformer.config.text_dim,
            **settings,
        )

    def normalize_latents(self, latent: Tensor) -> Tensor:
        """Standardize raw latents `[B, C, T, H, W]` with the VAE's statistics."""
        mean, std = statistics(self.vae, latent)
        return (latent - mean) / std

    def denormalize_latents(self, latent: Tensor) -> Tensor:
        """Undo `normalize_latents`."""
        mean, std = statistics(self.vae, latent)
        return latent * std + mean

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
        image: Any = None,
        enable_denormalization: bool = True,
        reference_latents: str = "sample",
    ) -> tuple[Tensor, Tensor | None]:
        """Draw the noise first and the references' latents second.

        Args:
            batch_size: Number of outputs, B.
            num_channels_latents: C.
            height: In pixels.
            width: In pixels.
            video_length: Frames; 1 for pictures.
            dtype: Of both results.
            device: Of both results.
            generator: One, or one per output.
            latents: Given noise.
            image: Pictures of the size; a divisor of B of them, outputs of one picture adjacent.
            enable_denormalization: Whether the references are standardized.
            reference_latents: "sample" or "mode".

        Returns:
            Noise `[B, 1, C, T, H/8, W/8]` and references `[B, 1, C, T, H/8, W/8]`, None without pictures.

        Raises:
            InvalidInputError: A list of generators or the pictures don't match B.
        """
        scale = self.vae_scale_factor_spatial
        frames = (video_length - 1) // self.vae.config.scale_factor_temporal + 1
        shape = (batch_size, 1, num_channels_latents, frames, height // scale, width // scale)
        if latents is None:
            noise = draw_noise(shape, generator, device, dtype)
        else:
            check_latents(latents, shape)
            noise = latents.to(device, dtype)
        if image is None:
            return noise, None
        pictures = to_pictures(image)
        if batch_size % len(pictures):
            raise InvalidInputError(
                f"`image` holds {len(pictures)} pictures; expected a divisor of {batch_size} outputs."
            )
        each = batch_size // len(pictures)
        owners = [output // each for output in range(batch_size)]
        distinct: dict[str, Any] = {}
        posteriors = [self._encode_picture(picture, device, distinct) for picture in pictures]
        references = draw_posterior(posteriors, owners, generator, reference_latents).to(dtype)
        if enable_denormalization:
            references = self.normalize_latents(references)
        return noise, references.unsqueeze(1)

    def _latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        scale = self.vae_scale_factor_spatial
        return self.transformer.config.in_channels, 1, size[0] // scale, size[1] // scale

    def _own_defaults(self, num_inference_steps: int, guidance_scale: float) -> tuple[int, float]:
        """Return steps and guidance, the checkpoint's own where the caller gave none."""
        if isinstance(num_inference_steps, DefaultSteps):
            num_inference_steps = self.config["default_num_inference_steps"]
        if isinstance(guidance_scale, DefaultGuidance):
            guidance_scale = self.config["default_guidance_scale"]
        return num_inference_steps, guidance_scale

    def _finish(self) -> None:
        """Forget what belongs to the call that ends."""
        reset_step_caches(self.transformer)
        self.maybe_free_model_hooks()

    def _encode_picture(self, picture: Image, device: torch.device, distinct: dict[str, Any]) -> Any:
        """Return a picture's posterior; `distinct` keeps those of the call by their pictures' pixels."""
        name = digest(picture)
        if name not in distinct:
            dtype = next(self.vae.parameters()).dtype
            distinct[name] = self._once(
                ("posterior", self.vae, dtype, device, name),
                lambda: encode_frame(self.vae, to_pixels([picture], device, dtype)),
            )
        return distinct[name]

    def _decode(self, target: Tensor, output_type: str, enable_denormalization: bool) -> Any:
        latents = target[:, 0]
        check_finite(latents, "latents")
        if output_type == "latent":
            return latents.squeeze(2).float()
        if enable_denormalization:
            latents = self.denormalize_latents(latents)
        pixels = decode_frame(self.vae, latents.to(next(self.vae.parameters()).dtype))
        check_finite(pixels, "pixels")
        return self.image_processor.postprocess(pixels[:, :, 0].float(), output_type=output_type)
