"""The parts of a pipeline, and what they do outside of an edit: encode prompts, answer questions, open sessions."""

# Annotations are real types here: diffusers reads those of the constructor when it loads a checkpoint.

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from types import MappingProxyType
from typing import Any, ClassVar, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from joyimage.acceleration.settings import accelerate_new
from joyimage.compat.diffusers import is_hooked
from joyimage.compat.torch import all_modules
from joyimage.devices import available_devices
from joyimage.errors import DeviceError, InvalidInputError, InvalidTypeError
from joyimage.model.transformer import JoyImageEditTransformer3DModel
from joyimage.pipeline.adapters import AdapterLoadingMixin
from joyimage.pipeline.buckets import bucket_sizes
from joyimage.pipeline.calls import serialized
from joyimage.pipeline.conditioning import repeat_per_output
from joyimage.pipeline.describe import answer_question
from joyimage.pipeline.feature_cache import FeatureCache
from joyimage.pipeline.images import (
    ImageInput,
    JoyImageEditImageProcessor,
    ModelImage,
    group_images,
)
from joyimage.pipeline.latents import statistics
from joyimage.pipeline.loading import CheckpointLoadingMixin
from joyimage.pipeline.processor import JoyImageProcessor
from joyimage.pipeline.prompts import PROMPT_TEMPLATES, prefix_length
from joyimage.pipeline.qwen3_vl import convert_text_encoder
from joyimage.pipeline.session import DEFAULT_SESSION_BYTES, EditSession
from joyimage.pipeline.settings import CheckpointSettings, resolve_settings
from joyimage.pipeline.text_encoder import encode
from joyimage.pipeline.vae import convert_vae


class PipelineParts(AdapterLoadingMixin, CheckpointLoadingMixin):
    """Text encoder, VAE, transformer and what goes with them; `JoyImageEditPipeline` documents the constructor."""

    _published_steps: ClassVar[int] = 40
    model_cpu_offload_seq = "text_encoder->transformer->vae"

    scheduler: FlowMatchEulerDiscreteScheduler
    vae: AutoencoderKLWan
    text_encoder: Qwen3VLForConditionalGeneration
    tokenizer: Qwen2Tokenizer
    transformer: JoyImageEditTransformer3DModel
    processor: JoyImageProcessor
    _feature_cache: FeatureCache | None = None  # set by a session while it runs

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
        _check_networks(vae=vae, text_encoder=text_encoder, transformer=transformer)
        if base_size is not None:
            bucket_sizes(base_size)
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
        # Without a VAE prompts can be encoded; these are the factors of every Wan 2.1 VAE.
        self.vae_scale_factor_spatial: int = (
            8 if self.components["vae"] is None else vae.config["scale_factor_spatial"]
        )
        self.vae_scale_factor_temporal: int = (
            4 if self.components["vae"] is None else vae.config["scale_factor_temporal"]
        )

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
    def vae_image_processor(self) -> JoyImageEditImageProcessor:
        """`image_processor`, by the name that diffusers' pipelines of this model give to it."""
        return self.image_processor

    @property
    def prompt_template_encode(self) -> Mapping[str, str]:
        """The trained template of a prompt with one image and with several. It cannot be changed."""
        return MappingProxyType(PROMPT_TEMPLATES)

    @property
    def prompt_template_encode_start_idx(self) -> Mapping[str, int]:
        """Number of leading tokens of each template whose states are dropped. It cannot be changed."""
        return MappingProxyType(dict.fromkeys(PROMPT_TEMPLATES, prefix_length(self.tokenizer)))

    @property
    def text_token_max_length(self) -> int:
        """Maximum number of tokens of a prompt without an image."""
        return self.config["text_token_max_length"]

    @property
    def compute_device(self) -> torch.device:
        """Device that the parts run on, also while offloading keeps their weights elsewhere."""
        parts = [part for part in self.components.values() if isinstance(part, nn.Module)]
        devices = {parameter.device for part in parts for parameter in islice(part.parameters(), 1)}
        if len(devices) > 1 or any(is_hooked(module) for part in parts for module in all_modules(part)):
            return self._execution_device  # which takes several walks over all modules
        return devices.pop() if devices else self.device

    def enable_sequential_cpu_offload(
        self, gpu_id: int | None = None, device: torch.device | str | None = None
    ) -> None:
        """Keep each layer's weights in host memory and move them to an accelerator while the layer runs.

        Args:
            gpu_id: Number of the accelerator; 0 if None.
            device: The accelerator, such as "cuda:1"; the best one of this machine if None.

        Raises:
            DeviceError: The device is the CPU, where there is nothing to move.
        """
        kind = next(iter(available_devices())) if device is None else torch.device(device).type
        if kind == "cpu":
            raise DeviceError(
                "`enable_sequential_cpu_offload` moves weights to an accelerator, and the device is the CPU. Leave it"
                ' out, or use `load_pipeline(..., offload="disk")` to read blocks from the weight files as they are'
                " needed."
            )
        cast("Any", super()).enable_sequential_cpu_offload(gpu_id, device)

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
    def describe(self, image: ImageInput, question: str | None = None, *, max_new_tokens: int = 256) -> str:
        """Answer a question about images with the text encoder, which is a whole Qwen3-VL, by greedy decoding.

        Args:
            image: One image or several, of any kind that the pipeline takes.
            question: What to ask; control tokens in it are plain text. None asks for a description of one image, and
                for what changed between two.
            max_new_tokens: Maximum length of the answer in tokens.

        Returns:
            The answer.

        Raises:
            InvalidTypeError: An image is of a type that is not accepted.
            InvalidInputError: The question is empty, `max_new_tokens` is not positive, or the text encoder of the
                checkpoint never learned to answer (`has_language` in its config is false).
        """
        return answer_question(self, image, question, max_new_tokens)

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

    def normalize_latents(self, latent: Tensor) -> Tensor:
        """Normalize raw latents `[B, C, T, H, W]` with the VAE's mean and standard deviation per channel."""
        mean, std = statistics(self.vae, latent)
        return (latent - mean) / std

    def denormalize_latents(self, latent: Tensor) -> Tensor:
        """Undo `normalize_latents`."""
        mean, std = statistics(self.vae, latent)
        return latent * std + mean

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
            max_tokens=max_tokens if images else min(max_tokens, self.text_token_max_length),
            placeholders=placeholders,
            cache=self._feature_cache,
        )


def _check_networks(**networks: Any) -> None:
    """Check that parts of a new pipeline can be its networks; None leaves one out.

    Raises:
        InvalidTypeError: One is something else, such as a path.
    """
    for name, network in networks.items():
        if network is None or isinstance(network, torch.nn.Module):
            is_fitting = (
                name != "vae" or network is None or "scale_factor_spatial" in getattr(network, "config", ())
            )
        else:
            is_fitting = False
        if not is_fitting:
            raise InvalidTypeError(
                f"`{name}` is of type {type(network).__name__}; expected the {name} of a JoyImage checkpoint. "
                f"`from_pretrained` takes paths, also as `{name}=`."
            )


def _check_template(given: str, expected: str) -> None:
    """Check a template's name.

    Raises:
        InvalidInputError: It is not the expected one.
    """
    if given != expected:
        raise InvalidInputError(f"`template_type` is {given!r}; expected {expected!r}.")
