"""The steps that all pipelines share: check, encode, draw, denoise, decode."""

# Annotations are real types here: diffusers reads those of the constructor when it loads a checkpoint.

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, ClassVar, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from joyimage.acceleration.settings import accelerate_new
from joyimage.compat.diffusers import reset_step_caches
from joyimage.errors import InvalidInputError
from joyimage.model.transformer import JoyImageEditTransformer3DModel
from joyimage.pipeline.adapters import AdapterLoadingMixin
from joyimage.pipeline.callbacks import TENSOR_NAMES, StepCallback
from joyimage.pipeline.calls import DefaultGuidance, DefaultSteps, serialized
from joyimage.pipeline.conditioning import Conditioning, encode_conditioning, repeat_per_output
from joyimage.pipeline.describe import QUESTION, answer_question
from joyimage.pipeline.feature_cache import EditMemory
from joyimage.pipeline.images import (
    ImageInput,
    JoyImageEditImageProcessor,
    ModelImage,
    group_images,
    to_pixels,
)
from joyimage.pipeline.inputs import (
    PromptInputs,
    SamplingInputs,
    check_call,
    check_callback,
    check_parts,
)
from joyimage.pipeline.latents import statistics
from joyimage.pipeline.loading import CheckpointLoadingMixin
from joyimage.pipeline.output import JoyImageEditPipelineOutput
from joyimage.pipeline.processor import JoyImageProcessor
from joyimage.pipeline.qwen3_vl import convert_text_encoder
from joyimage.pipeline.schedule import Scheduler, set_schedule
from joyimage.pipeline.session import DEFAULT_SESSION_BYTES, EditSession
from joyimage.pipeline.settings import CheckpointSettings, resolve_settings
from joyimage.pipeline.text_encoder import encode
from joyimage.pipeline.vae import convert_vae, encode_frame
from joyimage.types import ImageSize, LatentSize


class JoyImagePipeline(AdapterLoadingMixin, CheckpointLoadingMixin):
    """Base of the JoyAI-Image-Edit pipelines; `JoyImageEditPipeline` has the arguments of the constructor."""

    takes_several_images: ClassVar[bool] = False
    """Whether the call's argument is `images`, a list of references, rather than `image`."""

    _published_steps: ClassVar[int] = 40
    _default_negative_prompt: ClassVar[str] = ""
    _callback_tensor_inputs: ClassVar[list[str]] = list(TENSOR_NAMES)  # diffusers' name
    model_cpu_offload_seq = "text_encoder->transformer->vae"

    scheduler: FlowMatchEulerDiscreteScheduler
    vae: AutoencoderKLWan
    text_encoder: Qwen3VLForConditionalGeneration
    tokenizer: Qwen2Tokenizer
    transformer: JoyImageEditTransformer3DModel
    processor: JoyImageProcessor
    _memory: EditMemory | None = None  # set by a session while it runs

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
        untyped: Any = self  # diffusers' methods have no types
        untyped.register_modules(
            scheduler=scheduler,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            transformer=transformer,
            processor=processor,
        )
        accelerate_new(transformer)
        settings = resolve_settings(
            (transformer, vae, text_encoder),
            published=CheckpointSettings(default_num_inference_steps=self._published_steps),
            text_token_max_length=text_token_max_length,
            base_size=base_size,
            default_num_inference_steps=default_num_inference_steps,
            default_guidance_scale=default_guidance_scale,
        )
        untyped.register_to_config(**asdict(settings))
        # Without a VAE prompts can be encoded; 8 is the factor of every Wan 2.1 VAE.
        self.vae_scale_factor_spatial: int = (
            8 if self.components["vae"] is None else vae.config["scale_factor_spatial"]
        )
        self._interrupt = False
        self._guidance_scale = 1.0
        self._num_timesteps = 0
        self._current_timestep: Tensor | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a VAE or text encoder is converted once, when it becomes part of the pipeline."""
        if isinstance(value, AutoencoderKLWan):
            convert_vae(value)
        elif isinstance(value, Qwen3VLForConditionalGeneration):
            convert_text_encoder(value)
        super().__setattr__(name, value)

    @property
    def image_processor(self) -> JoyImageEditImageProcessor:
        """Brings images to a bucket of this pipeline's base size, and turns pixels into images."""
        return JoyImageEditImageProcessor(
            vae_scale_factor=self.vae_scale_factor_spatial, base_size=self.config["base_size"]
        )

    @property
    def compute_device(self) -> torch.device:
        """Device that the parts run on, also while offloading keeps their weights elsewhere."""
        return self._execution_device

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of the running call, or of the last one."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the running call has an unconditional branch."""
        return self._guidance_scale > 1

    @property
    def interrupt(self) -> bool:
        """Whether the loop ends after the current step; set `_interrupt` to ask for it."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """Number of steps of the running call, or of the last one."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """Timestep of the running step, which step caches ask for; None outside of the loop."""
        return self._current_timestep

    @current_timestep.setter
    def current_timestep(self, timestep: Tensor | None) -> None:
        self._current_timestep = timestep

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
        """Reject arguments that a call cannot work with; they are named as in `JoyImageEditPipeline.__call__`.

        Returns:
            Number of prompts.

        Raises:
            InvalidTypeError: An argument is of a wrong type.
            InvalidInputError: An argument is out of range or does not fit another.
        """
        prompts = PromptInputs(
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            prompt_embeds_mask=prompt_embeds_mask,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_prompt_embeds_mask=negative_prompt_embeds_mask,
        )
        callback = StepCallback.of(None, callback_on_step_end_tensor_inputs)
        return self._check_call(prompts, SamplingInputs(height=height, width=width, **settings), callback)[0]

    @serialized
    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: str | list[str],
        device: torch.device | None = None,
        num_images_per_prompt: int = 1,
        prompt_embeds: Tensor | None = None,
        prompt_embeds_mask: Tensor | None = None,
        max_sequence_length: int = 1024,
        template_type: str = "image",
    ) -> tuple[Tensor, Tensor]:
        """Encode prompts without an image.

        Args:
            prompt: One prompt or several.
            device: Where to run; None: the pipeline's device.
            num_images_per_prompt: Copies of each prompt's states.
            prompt_embeds: States that are only repeated, `[prompts, L, D]`; with `prompt_embeds_mask`.
            prompt_embeds_mask: Mask of `prompt_embeds`, `[prompts, L]`.
            max_sequence_length: Maximum number of tokens.
            template_type: "image", the name of the text-only template.

        Returns:
            Embeddings `[outputs, L, D]` and mask `[outputs, L]`, 1 where real.

        Raises:
            InvalidInputError: `template_type` is not "image".
        """
        _check_template(template_type, "image")
        if prompt_embeds is None or prompt_embeds_mask is None:
            texts = [prompt] if isinstance(prompt, str) else prompt
            prompt_embeds, prompt_embeds_mask = self._encode_texts(texts, None, device, max_sequence_length)
        return repeat_per_output(prompt_embeds, prompt_embeds_mask, num_images_per_prompt)

    @serialized
    @torch.no_grad()
    def encode_prompt_multiple_images(
        self,
        prompt: str | list[str],
        device: torch.device | None = None,
        num_images_per_prompt: int = 1,
        images: ImageInput | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_embeds_mask: Tensor | None = None,
        template_type: str = "multiple_images",
        max_sequence_length: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        r"""Encode prompts with images, at the size that they have.

        Args:
            prompt: One prompt or several; each "<image>\\n" in it stands for an image beyond the first.
            device: Where to run; None: the pipeline's device.
            num_images_per_prompt: Copies of each prompt's states.
            images: One image for all prompts, the same number for each in turn, or one list per prompt.
            prompt_embeds: States that are only repeated, `[prompts, L, D]`; with `prompt_embeds_mask`.
            prompt_embeds_mask: Mask of `prompt_embeds`, `[prompts, L]`.
            template_type: "multiple_images".
            max_sequence_length: Maximum number of tokens; None: 4,096.

        Returns:
            Embeddings `[outputs, L, D]` and mask `[outputs, L]`, 1 where real.

        Raises:
            InvalidInputError: `template_type` is not "multiple_images", or images and prompts do not match.
        """
        _check_template(template_type, "multiple_images")
        if prompt_embeds is None or prompt_embeds_mask is None:
            texts = [prompt] if isinstance(prompt, str) else prompt
            groups = None
            if images is not None:
                groups = [[ModelImage(one) for one in group] for group in group_images(images, len(texts))]
            prompt_embeds, prompt_embeds_mask = self._encode_texts(
                texts, groups, device, max_sequence_length or 4096, placeholders=True
            )
        return repeat_per_output(prompt_embeds, prompt_embeds_mask, num_images_per_prompt)

    @serialized
    @torch.no_grad()
    def describe(self, image: ImageInput, question: str = QUESTION, *, max_new_tokens: int = 256) -> str:
        """Answer a question about images with the text encoder, which is a whole Qwen3-VL, by greedy decoding.

        Args:
            image: One image or several, of any kind that the pipeline takes.
            question: What to ask; control tokens in it are plain text.
            max_new_tokens: Maximum length of the answer in tokens.

        Returns:
            The answer.

        Raises:
            InvalidTypeError: An image is of a type that is not accepted.
            InvalidInputError: The question is empty, `max_new_tokens` is not positive, or the text encoder of the
                checkpoint never learned to answer (`has_language` in its config is false).
        """
        return answer_question(self, image, question, max_new_tokens)

    def normalize_latents(self, latent: Tensor) -> Tensor:
        """Normalize raw latents `[B, C, T, H, W]` with the VAE's mean and standard deviation per channel."""
        mean, std = statistics(self.vae, latent)
        return (latent - mean) / std

    def denormalize_latents(self, latent: Tensor) -> Tensor:
        """Undo `normalize_latents`."""
        mean, std = statistics(self.vae, latent)
        return latent * std + mean

    def session(
        self, image: ImageInput | None = None, *, max_bytes: int = DEFAULT_SESSION_BYTES
    ) -> EditSession:
        """Return a session in which the second edit of an image only pays for denoising.

        Args:
            image: The image, of any kind that the pipeline takes.
            max_bytes: Maximum size of what is cached between edits.

        Returns:
            The session: call it, or its `move`, `rotate` and `camera`, as the pipeline's.

        Raises:
            InvalidInputError: `max_bytes` is negative.
        """
        return EditSession(self, image, max_bytes)

    def _check_call(
        self, prompts: PromptInputs, sampling: SamplingInputs, callback: StepCallback
    ) -> tuple[int, SamplingInputs]:
        """Check what does not depend on images.

        Returns:
            Number of prompts; and `sampling` with the checkpoint's own defaults where the caller gave none.

        Raises:
            InvalidTypeError: An argument is of a wrong type.
            InvalidInputError: An argument is out of range or does not fit another.
        """
        if isinstance(sampling.num_inference_steps, DefaultSteps):
            sampling = replace(sampling, num_inference_steps=self.config["default_num_inference_steps"])
        if isinstance(sampling.guidance_scale, DefaultGuidance):
            sampling = replace(sampling, guidance_scale=self.config["default_guidance_scale"])
        check_callback(callback.tensor_names, self._callback_tensor_inputs)
        check_parts(self)
        num_prompts = check_call(prompts, sampling, text_dim=self.transformer.config["text_dim"])
        return num_prompts, sampling.as_integers()

    def _latent_shape(self, size: ImageSize) -> tuple[int, ...]:
        """Return the shape of one output's latents, `[C, 1, H/8, W/8]`."""
        latent = LatentSize.of(size, self.vae_scale_factor_spatial)
        return self.transformer.config["in_channels"], 1, latent.height, latent.width

    @contextmanager
    def _running(self, guidance_scale: float) -> Generator[torch.device]:
        """Hold the state of a call, and free what belongs to it at the end.

        Args:
            guidance_scale: Guidance scale of the call.

        Yields:
            The device that the call runs on.
        """
        self._guidance_scale = guidance_scale
        self._interrupt = False
        try:
            yield self.compute_device
        finally:
            reset_step_caches(self.transformer)
            self.maybe_free_model_hooks()

    def _encode_conditioning(
        self,
        prompts: PromptInputs,
        images: list[list[ModelImage]] | None,
        sampling: SamplingInputs,
        num_prompts: int,
    ) -> Conditioning:
        """Encode the prompts of both guidance branches about the images of each prompt."""

        def encode_batch(texts: list[str], num_branches: int) -> tuple[Tensor, Tensor]:
            groups = None if images is None else images * num_branches
            return self._encode_texts(texts, groups, None, sampling.max_sequence_length)

        return encode_conditioning(
            prompts,
            encode_batch,
            self.compute_device,
            num_prompts=num_prompts,
            num_images_per_prompt=sampling.num_images_per_prompt,
            default_negative_prompt=self._default_negative_prompt,
            guided=self.do_classifier_free_guidance,
        )

    def _encode_texts(
        self,
        prompts: list[str],
        images: Sequence[Sequence[ModelImage]] | None,
        device: torch.device | None,
        max_tokens: int,
        *,
        placeholders: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Encode prompts; see `text_encoder.encode`."""
        return encode(
            self.text_encoder,
            self.processor,
            self.tokenizer,
            prompts,
            images,
            device=device or self.compute_device,
            max_tokens=max_tokens if images else min(max_tokens, self.config["text_token_max_length"]),
            placeholders=placeholders,
            memory=self._memory,
        )

    def _set_schedule(self, sampling: SamplingInputs, device: torch.device) -> None:
        """Set the noise levels of a call."""
        scheduler = cast("Scheduler", self.scheduler)
        set_schedule(
            scheduler,
            sampling.num_inference_steps,
            device,
            timesteps=sampling.timesteps,
            sigmas=sampling.sigmas,
            schedule=sampling.schedule,
        )
        self._num_timesteps = len(scheduler.timesteps)

    def _encode_images(
        self, images: Sequence[ModelImage], device: torch.device
    ) -> dict[str, DiagonalGaussianDistribution]:
        """Return the VAE's posterior of each distinct image, by its digest."""
        dtype = next(self.vae.parameters()).dtype
        posteriors: dict[str, DiagonalGaussianDistribution] = {}
        for image in images:
            if image.digest in posteriors:
                continue

            def compute(image: ModelImage = image) -> DiagonalGaussianDistribution:
                return encode_frame(self.vae, to_pixels([image.rgb], device, dtype))

            key = ("posterior", self.vae, dtype, device, image.digest)
            posteriors[image.digest] = compute() if self._memory is None else self._memory.once(key, compute)
        return posteriors

    def _output(
        self,
        images: Any,
        size: ImageSize,
        *,
        return_dict: bool,
        masks: Any = None,
    ) -> JoyImageEditPipelineOutput | tuple[Any]:
        """Return the result of a call, as an object or as a tuple."""
        if not return_dict:
            return (images,)
        return JoyImageEditPipelineOutput(
            images=images, height=size.height, width=size.width, interrupted=self._interrupt, masks=masks
        )


def _check_template(given: str, expected: str) -> None:
    """Check a template's name.

    Raises:
        InvalidInputError: It is not the expected one.
    """
    if given != expected:
        raise InvalidInputError(f"`template_type` is {given!r}; expected {expected!r}.")
