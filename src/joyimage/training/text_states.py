"""Prompt states with gradients: the text encoder inside of a training step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

PATCH_SIZE_PX = 16
MERGE_SIZE = 2


def encode_prompts(
    text_encoder: Qwen3VLForConditionalGeneration,
    tokens: Sequence[Tensor],
    pixels: Tensor | None,
    prefix_tokens: int,
    pad_token: int,
) -> tuple[Tensor, Tensor | None]:
    """Run the encoder on a right-padded batch and return the states before its final norm.

    Args:
        text_encoder: The text encoder, in training or not.
        tokens: Token ids of each conversation.
        pixels: One image each, `[B, H, W, 3]` 8-bit; None without images.
        prefix_tokens: Number of tokens at the start to drop.
        pad_token: Token id that fills shorter conversations.

    Returns:
        States `[B, L, D]`, and the mask `[B, L]`, None if nothing is padded.
    """
    ids = torch.nn.utils.rnn.pad_sequence(list(tokens), batch_first=True, padding_value=pad_token)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(t) for t in tokens], batch_first=True)
    model: Any = text_encoder.model
    arguments = {}
    positions = torch.arange(ids.shape[1], device=ids.device).expand(3, 1, -1)
    if pixels is not None:
        batch, height, width, _ = pixels.shape
        grid = torch.tensor([[1, height // PATCH_SIZE_PX, width // PATCH_SIZE_PX]], device=ids.device)
        arguments = {"pixel_values": to_patches(pixels), "image_grid_thw": grid.expand(batch, -1)}
        # All conversations have the image in the same place: one set of positions serves the batch.
        longest = max(tokens, key=len)[None]
        kinds = (longest == text_encoder.config.image_token_id).int()
        positions, _ = model.get_rope_index(longest, kinds, image_grid_thw=grid)
    captured = []
    # As trained: the states before the final norm, which no output of the library carries.
    hook = model.language_model.layers[-1].register_forward_hook(lambda *call: captured.append(call[2]))
    try:
        model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions.expand(3, len(tokens), -1),
            use_cache=False,
            **arguments,
        )
    finally:
        hook.remove()
    mask = mask[:, prefix_tokens:]
    return captured[0][:, prefix_tokens:], None if bool(mask.all()) else mask


def to_patches(pixels: Tensor) -> Tensor:
    """Cut images into Qwen3-VL's patch rows, as its image processor does.

    Args:
        pixels: `[B, H, W, 3]` 8-bit, sides divisible by 32.

    Returns:
        `[B * H/16 * W/16, 3 * 2 * 16 * 16]` in [-1, 1]; patches of one merged token stand together, and each
        patch holds the frame twice.
    """
    batch, height, width, channels = pixels.shape
    rows, columns = height // (PATCH_SIZE_PX * MERGE_SIZE), width // (PATCH_SIZE_PX * MERGE_SIZE)
    values = pixels.float() / 127.5 - 1
    cut = values.view(batch, rows, MERGE_SIZE, PATCH_SIZE_PX, columns, MERGE_SIZE, PATCH_SIZE_PX, channels)
    cut = cut.permute(0, 1, 4, 2, 5, 7, 3, 6)  # [B, rows, columns, merge, merge, C, patch, patch]
    return torch.stack([cut, cut], dim=6).reshape(-1, channels * 2 * PATCH_SIZE_PX * PATCH_SIZE_PX)
