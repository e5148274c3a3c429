"""Pictures and prompt → the text encoder's states before its final norm.

All conversations about one picture begin alike: system message, then picture. That part runs once, and every
prompt goes on from its keys and values.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from joyimage.pipeline.memory import EditMemory, digest
from joyimage.pipeline.prompts import prefix_length, tokenize_conversation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class _Prefix:
    """What all conversations about the same pictures begin with, read.

    Attributes:
        states: `[L, D]`.
        cache: Keys and values.
        position_shift: From the number of a later token to its position: a picture takes fewer positions than
            tokens.
    """

    states: Tensor
    cache: Any
    position_shift: int


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
    memory: EditMemory | None = None,
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
        memory: Keeps what was read about a picture for later calls; None: nothing is kept.

    Returns:
        States `[B, L, D]`, zeros behind the shorter ones, and their mask `[B, L]`, 1 where real.
    """
    groups = [()] * len(prompts) if pictures is None else [tuple(group) for group in pictures]
    members: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[tuple(id(picture) for picture in group)].append(index)

    dropped = prefix_length(tokenizer)
    memory = EditMemory() if memory is None else memory
    rows: list[Any] = [None] * len(prompts)
    for indices in members.values():
        group = groups[indices[0]]
        counts = count_tokens(processor, group)
        ids = [
            torch.tensor(
                tokenize_conversation(
                    tokenizer, prompts[index], counts, max_tokens=max_tokens, placeholders=placeholders
                ),
                device=device,
            )
            for index in indices
        ]
        if group:
            states = _encode_about(text_encoder, processor, ids, group, memory, device)
        else:
            states = _encode_texts(text_encoder, ids)
        for index, row in zip(indices, states, strict=True):
            rows[index] = row[dropped:]
    mask = pad_sequence([row.new_ones(len(row), dtype=torch.long) for row in rows], batch_first=True)
    return pad_sequence(rows, batch_first=True), mask


def prepare_pictures(
    text_encoder: Any, processor: Any, pictures: Sequence[Image], device: torch.device
) -> dict[str, Tensor]:
    """Return the vision tower's inputs."""
    if not pictures:
        return {}
    values = processor.image_processor(images=list(pictures), return_tensors="pt")
    dtype = next(text_encoder.parameters()).dtype
    return {
        "pixel_values": values["pixel_values"].to(device, dtype),
        "image_grid_thw": values["image_grid_thw"].to(device),
    }


def count_tokens(processor: Any, pictures: Sequence[Image]) -> list[int]:
    """Return the number of tokens of each picture."""
    reader = processor.image_processor
    patches = (reader.get_number_of_image_patches(picture.height, picture.width, {}) for picture in pictures)
    return [number // reader.merge_size**2 for number in patches]


def _encode_texts(text_encoder: Any, ids: list[Tensor]) -> list[Tensor]:
    """Return the states `[L, D]` of conversations without pictures, from one pass."""
    lengths = [len(row) for row in ids]
    # Padded on the right whatever the tokenizer's habit: causal attention never sees it there.
    states, _ = _forward(text_encoder, pad_sequence(ids, batch_first=True), lengths, {})
    return [row[:length] for row, length in zip(states, lengths, strict=True)]


def _encode_about(
    text_encoder: Any,
    processor: Any,
    ids: list[Tensor],
    pictures: Sequence[Image],
    memory: EditMemory,
    device: torch.device,
) -> list[Tensor]:
    """Return the states `[L, D]` of conversations about the same pictures, which are read once.

    Each conversation goes on from there alone, so its numbers don't depend on what else is in the batch or in
    the memory.
    """
    about = (text_encoder, device, *(digest(picture) for picture in pictures))

    def read(row: Tensor, length: int) -> _Prefix:
        vision = prepare_pictures(text_encoder, processor, pictures, device)
        states, cache = _forward(text_encoder, row[None, :length], [length], vision, use_cache=True)
        return _Prefix(states[0], cache, int(text_encoder.model.rope_deltas.max()))

    def go_on(row: Tensor) -> Tensor:
        # Up to and with the mark behind the last picture.
        length = min(int((row == text_encoder.config.image_token_id).nonzero()[-1]) + 2, len(row) - 1)
        beginning = tuple(row[:length].tolist())
        prefix = memory.once(("prefix", *about, beginning), lambda: read(row, length))
        states, _ = _forward(text_encoder, row[None, length:], [len(row)], {}, prefix=prefix)
        return torch.cat([prefix.states, states[0]])

    return [memory.once(("states", *about, tuple(row.tolist())), lambda row=row: go_on(row)) for row in ids]


def _forward(
    text_encoder: Any,
    input_ids: Tensor,
    lengths: list[int],
    vision: dict[str, Tensor],
    *,
    prefix: _Prefix | None = None,
    use_cache: bool = False,
) -> tuple[Tensor, Any]:
    """Run the encoder and return the last layer's states `[B, L, D]` and the cache.

    Args:
        text_encoder: Qwen3-VL.
        input_ids: `[B, L]`, padded on the right.
        lengths: Tokens of each conversation, those of the prefix included.
        vision: Inputs of the vision tower.
        prefix: What stands before, read already.
        use_cache: Whether to keep keys and values.
    """
    past = 0 if prefix is None else len(prefix.states)
    steps = torch.arange(past + input_ids.shape[1], device=input_ids.device)
    mask = (steps < torch.tensor(lengths, device=input_ids.device)[:, None]).long()
    arguments: dict[str, Any] = dict(vision)
    if vision:
        arguments["mm_token_type_ids"] = (input_ids == text_encoder.config.image_token_id).int()
    if prefix is not None:
        positions = steps[past:] + prefix.position_shift
        arguments["position_ids"] = positions.expand(3, *input_ids.shape)
        arguments["past_key_values"] = _fork(prefix.cache)
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
                use_cache=use_cache or prefix is not None,
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


def _fork(cache: Any) -> Any:
    """Return a cache to go on from, whose own growth the original never sees."""
    fork = copy.copy(cache)
    fork.layers = [copy.copy(layer) for layer in cache.layers]
    return fork
