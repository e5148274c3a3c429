"""The arguments of a call as values: its prompts, and how to sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from joyimage.types import ImageSize

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from torch import Tensor

    from joyimage.pipeline.latents import Generators


@dataclass(frozen=True, kw_only=True)
class PromptInputs:
    """The prompts of a call: for each guidance branch either text, or embeddings with their mask.

    Attributes:
        prompt: One prompt or several; None with `prompt_embeds`.
        negative_prompt: One for all prompts, or one each; None takes the pipeline's default.
        prompt_embeds: States `[prompts, L, D]`.
        prompt_embeds_mask: Mask `[prompts, L]` of `prompt_embeds`, 1 where real.
        negative_prompt_embeds: States `[prompts, L, D]`.
        negative_prompt_embeds_mask: Mask `[prompts, L]` of `negative_prompt_embeds`, 1 where real.
    """

    prompt: str | list[str] | None
    negative_prompt: str | list[str] | None = None
    prompt_embeds: Tensor | None = None
    prompt_embeds_mask: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    negative_prompt_embeds_mask: Tensor | None = None

    @property
    def has_negative(self) -> bool:
        """Whether the caller gave a negative prompt that is not empty."""
        texts = (
            [self.negative_prompt] if isinstance(self.negative_prompt, str) else self.negative_prompt or []
        )
        return self.negative_prompt_embeds is not None or any(text.strip() for text in texts)


@dataclass(frozen=True, kw_only=True)
class SamplingInputs:
    """The arguments of a call that say how to sample, named as in `JoyImageEditPipeline.__call__`."""

    height: int | None = None
    width: int | None = None
    num_inference_steps: int = 1
    timesteps: Sequence[float] | None = None
    sigmas: Sequence[float] | None = None
    schedule: str = "diffusers"
    guidance_scale: float = 1.0
    num_images_per_prompt: int = 1
    generator: Generators = None
    latents: Tensor | None = None
    latents_dtype: str | torch.dtype | None = None
    reference_latents: str = "sample"
    enable_denormalization: bool = True
    max_sequence_length: int = 4096
    output_type: str = "pil"
    speed: str = "exact"
    attention_kwargs: Mapping[str, Any] | None = None

    @property
    def requested_size(self) -> ImageSize | None:
        """Size that the caller asks for; None where none was given."""
        if self.height is None or self.width is None:
            return None
        return ImageSize(self.width, self.height)

    def as_plain_numbers(self) -> SamplingInputs:
        """Return the same arguments with checked numbers, such as 20.0 or numpy's, as Python's own."""
        return replace(
            self,
            height=None if self.height is None else int(self.height),
            width=None if self.width is None else int(self.width),
            num_inference_steps=int(self.num_inference_steps),
            num_images_per_prompt=int(self.num_images_per_prompt),
            max_sequence_length=int(self.max_sequence_length),
            guidance_scale=float(self.guidance_scale),
        )
