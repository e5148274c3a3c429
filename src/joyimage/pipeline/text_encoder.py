"""Pictures and prompt → the text encoder's states before its final norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from joyimage.pipeline.prompts import prefix_length, tokenize_conversation

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


def encode(
    text_encoder: Any,
    processor: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    pictures: Sequence[Sequence[Image]] | None,
    *,
    device: torch.device,
    max_tokens: int,
    placeholders: bool = False,
) -> tuple[Tensor, Tensor]:
    """Encode a batch; every sample comes out as if it were alone.

    Args:
        text_encoder: Qwen3-VL.
        processor: Its processor.
        tokenizer: Its tokenizer.
        prompts: `B` of them.
        pictures: The pictures of each prompt; None without pictures.
        device: Where to run.
        max_tokens: Most tokens kept per sample.
        placeholders: Whether "<image>\\n" in a prompt stands for a picture.

    Returns:
        States `[B, L, D]`, zeros behind the shorter ones, and their mask `[B, L]`, 1 where real.
    """
    arguments: dict[str, Any] = {}
    counts: list[list[int]] = [[] for _ in prompts]
    if pictures is not None:
        flat = [picture for group in pictures for picture in group]
        values = processor.image_processor(images=flat, return_tensors="pt")
        sizes = iter((values["image_grid_thw"].prod(dim=1) // processor.image_processor.merge_size**2).tolist())
        counts = [[next(sizes) for _ in group] for group in pictures]
        dtype = next(text_encoder.parameters()).dtype
        arguments["pixel_values"] = values["pixel_values"].to(device, dtype)
        arguments["image_grid_thw"] = values["image_grid_thw"].to(device)
    ids = [
        torch.tensor(
            tokenize_conversation(tokenizer, prompt, count, max_tokens=max_tokens, placeholders=placeholders)
        )
        for prompt, count in zip(prompts, counts, strict=True)
    ]
    # Padded on the right whatever the tokenizer's habit: causal attention never sees it there.
    input_ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    input_ids, mask = input_ids.to(device), mask.to(device)
    if pictures is not None:
        arguments["mm_token_type_ids"] = (input_ids == text_encoder.config.image_token_id).int()
    captured: list[Any] = []
    # As trained: states before the final norm (std about 21, not 2), which no output of the library carries.
    layer = text_encoder.model.language_model.layers[-1]
    hook = layer.register_forward_hook(lambda _module, _inputs, output: captured.append(output))
    try:
        # The whole model, not its inner part: offloading hooks sit there. One token is the least of lm_head.
        text_encoder(input_ids=input_ids, attention_mask=mask, logits_to_keep=1, use_cache=False, **arguments)
    finally:
        hook.remove()
    states = captured[0][0] if isinstance(captured[0], tuple) else captured[0]
    dropped = prefix_length(tokenizer)
    mask = mask[:, dropped:]
    return states[:, dropped:] * mask.unsqueeze(-1).to(states.dtype), mask
