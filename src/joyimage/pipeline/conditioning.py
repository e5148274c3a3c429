"""The half of a pipeline that reads: prompts and pictures → embeddings for both guidance branches."""

# Annotations are real types here, as in `edit.py`.

from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL.Image import Image
from torch import Tensor

from joyimage.errors import InvalidInputError
from joyimage.pipeline.feature_cache import EditMemory
from joyimage.pipeline.images import group_pictures, is_nested, to_pictures
from joyimage.pipeline.text_encoder import encode


class PromptEncodingMixin(DiffusionPipeline):
    """Give a pipeline `encode_prompt` and `encode_prompt_multiple_images`."""

    text_encoder: Any
    tokenizer: Any
    processor: Any
    _memory: EditMemory | None

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
        """Encode prompts without a picture.

        Args:
            prompt: One or several.
            device: Where to run; None: the pipeline's device.
            num_images_per_prompt: Copies of each.
            prompt_embeds: Given ones are only repeated.
            prompt_embeds_mask: Goes with them.
            max_sequence_length: Most tokens kept.
            template_type: "image", the name of the text-only template.

        Returns:
            Embeddings `[outputs, L, D]` and mask `[outputs, L]`, 1 where real.

        Raises:
            InvalidInputError: `template_type` is another.
        """
        _check_template(template_type, "image")
        if prompt_embeds is None or prompt_embeds_mask is None:
            texts = [prompt] if isinstance(prompt, str) else prompt
            prompt_embeds, prompt_embeds_mask = self._encode(
                texts, None, device or self._execution_device, max_sequence_length
            )
        return _per_output(prompt_embeds, prompt_embeds_mask, num_images_per_prompt)

    @torch.no_grad()
    def encode_prompt_multiple_images(
        self,
        prompt: str | list[str],
        device: torch.device | None = None,
        num_images_per_prompt: int = 1,
        images: Any = None,
        prompt_embeds: Tensor | None = None,
        prompt_embeds_mask: Tensor | None = None,
        template_type: str = "multiple_images",
        max_sequence_length: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        r"""Encode prompts with pictures, at the size that they have.

        Args:
            prompt: One or several; each "<image>\\n" in it stands for a picture beyond the first.
            device: Where to run; None: the pipeline's device.
            num_images_per_prompt: Copies of each.
            images: One picture for all prompts, the same number for each in turn, or one list per prompt.
            prompt_embeds: Given ones are only repeated.
            prompt_embeds_mask: Goes with them.
            template_type: "multiple_images".
            max_sequence_length: Most tokens kept; None: 4,096.

        Returns:
            Embeddings `[outputs, L, D]` and mask `[outputs, L]`, 1 where real.

        Raises:
            InvalidInputError: `template_type` is another, or pictures and prompts don't match.
        """
        _check_template(template_type, "multiple_images")
        if prompt_embeds is None or prompt_embeds_mask is None:
            texts = [prompt] if isinstance(prompt, str) else prompt
            groups = None
            if is_nested(images):
                groups = [to_pictures(group, "images") for group in images]
            elif images is not None:
                groups = group_pictures(to_pictures(images, "images"), len(texts))
            prompt_embeds, prompt_embeds_mask = self._encode(
                texts,
                groups,
                device or self._execution_device,
                max_sequence_length or 4096,
                placeholders=True,
            )
        return _per_output(prompt_embeds, prompt_embeds_mask, num_images_per_prompt)

    def _encode_branches(
        self,
        num_prompts: int,
        texts: dict[str, Any],
        given: dict[str, tuple[Tensor | None, Tensor | None]],
        pictures: list[list[Image]] | None,
        device: torch.device,
        max_tokens: int,
        num_images_per_prompt: int,
        *,
        has_negative: bool,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Encode both guidance branches in one go, or take what is given.

        Args:
            num_prompts: Of each branch.
            texts: By branch, a string for all or a list.
            given: By branch, embeddings and mask.
            pictures: Of each prompt.
            device: Where to run.
            max_tokens: Most tokens kept per prompt.
            num_images_per_prompt: Outputs per prompt.
            has_negative: Whether the negative branch is wanted.

        Returns:
            Embeddings `[outputs, L, D]` by branch, None for the negative one without guidance; and masks
            `[outputs, L]`, None where nothing is padded.
        """
        wanted = tuple(texts) if has_negative else ("prompt_embeds",)
        missing = [name for name in wanted if given[name][0] is None]
        if missing:
            prompts = [
                prompt
                for name in missing
                for prompt in ([texts[name]] * num_prompts if isinstance(texts[name], str) else texts[name])
            ]
            groups = None if pictures is None else pictures * len(missing)
            states, mask = self._encode(prompts, groups, device, max_tokens)
            encoded = zip(states.split(num_prompts), mask.split(num_prompts), strict=True)
            given = {**given, **dict(zip(missing, encoded, strict=True))}
        embeds: dict[str, Any] = dict.fromkeys(texts)
        masks: dict[str, Any] = dict.fromkeys(texts)
        for name in wanted:
            states, mask = given[name]
            assert states is not None
            assert mask is not None
            states, mask = states.to(device), mask.to(device)
            is_used = mask.bool().any(dim=0)  # the other branch may be longer
            states, mask = _per_output(states[:, is_used], mask[:, is_used], num_images_per_prompt)
            embeds[name], masks[name] = states, None if bool(mask.bool().all()) else mask
        return embeds, masks

    def _encode(
        self,
        prompts: list[str],
        pictures: list[list[Image]] | None,
        device: torch.device,
        max_tokens: int,
        *,
        placeholders: bool = False,
    ) -> tuple[Tensor, Tensor]:
        return encode(
            self.text_encoder,
            self.processor,
            self.tokenizer,
            prompts,
            pictures,
            device=device,
            max_tokens=max_tokens if pictures else min(max_tokens, self.config["text_token_max_length"]),
            placeholders=placeholders,
            memory=self._memory,
        )


def _per_output(embeds: Tensor, mask: Tensor, num_images_per_prompt: int) -> tuple[Tensor, Tensor]:
    """Repeat each prompt for its outputs, which stay together."""
    return (
        embeds.repeat_interleave(num_images_per_prompt, dim=0),
        mask.repeat_interleave(num_images_per_prompt, dim=0),
    )


def _check_template(came: str, expected: str) -> None:
    if came != expected:
        raise InvalidInputError(f"`template_type` is {came!r}; expected {expected!r}.")
