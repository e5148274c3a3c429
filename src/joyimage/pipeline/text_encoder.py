"""Pictures and prompt → the text encoder's states before its final norm.

All conversations about one picture begin alike: system message, then picture. That part runs once, and every
prompt goes on from its keys and values.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from joyimage.pipeline.prompts import prefix_length, tokenize_conversation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    r"""Encode a batch; every sample comes out as if it were alone.

    Args:
        text_encoder: Qwen3-VL.
        processor: Its processor.
        tokenizer: Its tokenizer.
        prompts: `B` of them.
        pictures: The pictures of each prompt; prompts with the very same objects share the work. None without
            pictures.
        device: Where to run.
        max_tokens: Most tokens kept per sample.
        placeholders: Whether "<image>\\n" in a prompt stands for a picture.

    Returns:
        States `[B, L, D]`, zeros behind the shorter ones, and their mask `[B, L]`, 1 where real.
    """
    groups = [()] * len(prompts) if pictures is None else [tuple(group) for group in pictures]
    members: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[tuple(id(picture) for picture in group)].append(index)

    dropped = prefix_length(tokenizer)
    rows: list[Any] = [None] * len(prompts)
    for indices in members.values():
        vision, counts = prepare_pictures(text_encoder, processor, groups[indices[0]], device)
        ids = [
            torch.tensor(
                tokenize_conversation(
                    tokenizer, prompts[index], counts, max_tokens=max_tokens, placeholders=placeholders
                ),
                device=device,
            )
            for index in indices
        ]
        for index, states in zip(indices, _encode_group(text_encoder, ids, vision), strict=True):
            rows[index] = states[dropped:]
    mask = pad_sequence([row.new_ones(len(row), dtype=torch.long) for row in rows], batch_first=True)
    return pad_sequence(rows, batch_first=True), mask


def prepare_pictures(
    text_encoder: Any, processor: Any, pictures: Sequence[Image], device: torch.device
) -> tuple[dict[str, Tensor], list[int]]:
    """Return the vision tower's inputs and the number of tokens of each picture."""
    if not pictures:
        return {}, []
    values = processor.image_processor(images=list(pictures), return_tensors="pt")
    grid = values["image_grid_thw"]
    dtype = next(text_encoder.parameters()).dtype
    vision = {
        "pixel_values": values["pixel_values"].to(device, dtype),
        "image_grid_thw": grid.to(device),
    }
    return vision, (grid.prod(dim=1) // processor.image_processor.merge_size**2).tolist()


def _encode_group(text_encoder: Any, ids: list[Tensor], vision: dict[str, Tensor]) -> list[Tensor]:
    """Return the states `[L, D]` of conversations about the same pictures."""
    lengths = [len(row) for row in ids]
    if not vision or len(ids) == 1:
        # Padded on the right whatever the tokenizer's habit: causal attention never sees it there.
        states, _ = _forward(text_encoder, pad_sequence(ids, batch_first=True), lengths, vision)
        return [row[:length] for row, length in zip(states, lengths, strict=True)]

    shared = _common_prefix(ids)
    if any((row[shared:] == text_encoder.config.image_token_id).any() for row in ids):
        # A picture stands behind words that differ.
        return [state for row in ids for state in _encode_group(text_encoder, [row], vision)]
    head, cache = _forward(text_encoder, ids[0][None, :shared], [shared], vision, use_cache=True)
    cache.batch_repeat_interleave(len(ids))
    tails, _ = _forward(
        text_encoder, pad_sequence([row[shared:] for row in ids], batch_first=True), lengths, {}, cache=cache
    )
    return [
        torch.cat([head[0], tail[: length - shared]]) for tail, length in zip(tails, lengths, strict=True)
    ]


def _common_prefix(ids: list[Tensor]) -> int:
    """Count the leading tokens that all conversations share; one at least stays for each."""
    shortest = min(len(row) for row in ids) - 1
    same = torch.stack([row[:shortest] == ids[0][:shortest] for row in ids]).all(dim=0)
    return int(same.long().cumprod(dim=0).sum())


def _forward(
    text_encoder: Any,
    input_ids: Tensor,
    lengths: list[int],
    vision: dict[str, Tensor],
    *,
    cache: Any = None,
    use_cache: bool = False,
) -> tuple[Tensor, Any]:
    """Run the encoder and return the last layer's states `[B, L, D]` and the cache.

    Args:
        text_encoder: Qwen3-VL.
        input_ids: `[B, L]`, padded on the right.
        lengths: Tokens of each conversation, those in the cache included.
        vision: Inputs of the vision tower.
        cache: Keys and values of the tokens before.
        use_cache: Whether to keep keys and values.
    """
    past = 0 if cache is None else cache.get_seq_length()
    steps = torch.arange(past + input_ids.shape[1], device=input_ids.device)
    mask = (steps < torch.tensor(lengths, device=input_ids.device)[:, None]).long()
    arguments: dict[str, Any] = dict(vision)
    if vision:
        arguments["mm_token_type_ids"] = (input_ids == text_encoder.config.image_token_id).int()
    if cache is not None:
        # A picture takes fewer positions than tokens; what follows counts on from there.
        positions = steps[past:] + text_encoder.model.rope_deltas.max()
        arguments["position_ids"] = positions.expand(3, *input_ids.shape)
        arguments["past_key_values"] = cache
    captured: list[Any] = []
    # As trained: states before the final norm (std about 21, not 2), which no output of the library carries.
    layer = text_encoder.model.language_model.layers[-1]
    hook = layer.register_forward_hook(lambda _module, _inputs, output: captured.append(output))
    try:
        with _patches_by_matmul(text_encoder):
            # The whole model, not its inner part: offloading hooks sit there. lm_head wants a token.
            output = text_encoder(
                input_ids=input_ids,
                attention_mask=mask,
                logits_to_keep=1,
                use_cache=use_cache or cache is not None,
                **arguments,
            )
    finally:
        hook.remove()
    states = captured[0][0] if isinstance(captured[0], tuple) else captured[0]
    return states, output.past_key_values


@contextmanager
def _patches_by_matmul(text_encoder: Any) -> Iterator[None]:
    """Run the vision tower's patch embedding as the matmul that it is, while the block lasts.

    It is a Conv3d whose kernel equals its stride; cuDNN takes seconds for it in bf16 on several GPUs.
    """
    projection = text_encoder.model.visual.patch_embed.proj
    if type(projection) is not nn.Conv3d or "forward" in projection.__dict__:  # offloading has its say there
        yield
        return

    def forward(input: Tensor) -> Tensor:
        rows = nn.functional.linear(input.flatten(1), projection.weight.flatten(1), projection.bias)
        return rows[:, :, None, None, None]

    projection.forward = forward
    try:
        yield
    finally:
        del projection.forward
