"""Pictures and prompt → the text encoder's states before its final norm.

All conversations about one picture begin alike: system message, then picture. That part runs once, and all
prompts about the picture go on from its keys and values, in one pass.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from joyimage.pipeline.memory import EditMemory, digest
from joyimage.pipeline.prompts import prefix_length, tokenize_conversation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from PIL.Image import Image
    from torch import Tensor

Tokens = tuple[int, ...]

_TAKE_MASKS = {"sdpa", "eager"}
"""Attention of transformers that takes any mask, such as one that keeps conversations in a row apart."""


@dataclass(frozen=True)
class _Prefix:
    """What all conversations about the same pictures begin with, read.

    Attributes:
        states: `[L, D]`.
        cache: Keys and values.
        position: Of the next token: a picture takes fewer positions than tokens.
    """

    states: Tensor
    cache: Any
    position: int


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
        pictures: The pictures of each prompt; prompts with the same pictures share the work. None without
            pictures.
        device: Where to run.
        max_tokens: Most tokens kept per sample.
        placeholders: Whether "<image>\\n" in a prompt stands for a picture.
        memory: Keeps what was read about a picture for later calls; None: nothing is kept.

    Returns:
        States `[B, L, D]`, zeros behind the shorter ones, and their mask `[B, L]`, 1 where real.
    """
    groups = [()] * len(prompts) if pictures is None else [tuple(group) for group in pictures]
    names = {id(picture): digest(picture) for picture in chain.from_iterable(groups)}
    members: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[tuple(names[id(picture)] for picture in group)].append(index)

    dropped = prefix_length(tokenizer)
    memory = EditMemory() if memory is None else memory
    rows: list[Any] = [None] * len(prompts)
    for about, indices in members.items():
        group = groups[indices[0]]
        counts = count_tokens(processor, group)
        ids: list[Tokens] = [
            tuple(
                tokenize_conversation(
                    tokenizer, prompts[index], counts, max_tokens=max_tokens, placeholders=placeholders
                )
            )
            for index in indices
        ]
        distinct = list(dict.fromkeys(ids))
        if group:
            states = _encode_about(text_encoder, processor, distinct, group, about, memory, device)
        else:
            states = _encode_texts(text_encoder, distinct, device)
        for index, row in zip(indices, ids, strict=True):
            rows[index] = states[row][dropped:]
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


def _encode_texts(text_encoder: Any, ids: list[Tokens], device: torch.device) -> dict[Tokens, Tensor]:
    """Return the states `[L, D]` of conversations without pictures, from one pass."""
    # Padded on the right whatever the tokenizer's habit, without a mask: causal attention never looks there.
    padded = pad_sequence([torch.tensor(row) for row in ids], batch_first=True)
    states, _ = _forward(text_encoder, padded.to(device))
    return {row: own[: len(row)] for row, own in zip(ids, states, strict=True)}


def _encode_about(
    text_encoder: Any,
    processor: Any,
    ids: list[Tokens],
    pictures: Sequence[Image],
    names: tuple[str, ...],
    memory: EditMemory,
    device: torch.device,
) -> dict[Tokens, Tensor]:
    """Return the states `[L, D]` of conversations about the same pictures, which are read once.

    What comes behind the pictures runs in one pass for all conversations of a call. The memory holds what
    such a pass gave, never a part of it, so that a call's numbers don't depend on the calls before.
    """
    about = (text_encoder, device, *names)
    image_token = text_encoder.config.image_token_id
    together: dict[Tokens, list[Tokens]] = defaultdict(list)
    for row in ids:
        # Up to and with the mark behind the last picture.
        length = min(len(row) - row[::-1].index(image_token) + 1, len(row) - 1)
        together[row[:length]].append(row)

    states: dict[Tokens, Tensor] = {}
    for beginning, rows in together.items():
        prefix = memory.once(
            ("prefix", *about, beginning),
            lambda beginning=beginning: _read(text_encoder, processor, beginning, pictures, device),
        )
        endings = [row[len(beginning) :] for row in rows]
        own = memory.once(
            ("states", *about, beginning, *endings),
            lambda prefix=prefix, endings=endings: _go_on(text_encoder, prefix, endings),
        )
        states |= {row: torch.cat([prefix.states, ending]) for row, ending in zip(rows, own, strict=True)}
    return states


def _read(
    text_encoder: Any, processor: Any, tokens: Tokens, pictures: Sequence[Image], device: torch.device
) -> _Prefix:
    """Read the beginning of conversations, pictures included."""
    vision = prepare_pictures(text_encoder, processor, pictures, device)
    ids = torch.tensor([tokens])
    # Worked out on the host: on a device it would take a wait for each of many small steps.
    positions, _ = text_encoder.model.get_rope_index(
        ids, (ids == text_encoder.config.image_token_id).int(), vision["image_grid_thw"].cpu()
    )
    states, cache = _forward(text_encoder, ids.to(device), positions.to(device), use_cache=True, **vision)
    return _Prefix(states[0], cache, int(positions.max()) + 1)


def _go_on(text_encoder: Any, prefix: _Prefix, endings: Sequence[Tokens]) -> list[Tensor]:
    """Return the states `[L, D]` of conversations' endings, one behind the other in one row.

    A row takes no padding, keeps the prefix's keys and values once; each ending sees the prefix and itself.
    """
    if text_encoder.config.text_config._attn_implementation not in _TAKE_MASKS and len(endings) > 1:
        return [states for ending in endings for states in _go_on(text_encoder, prefix, [ending])]
    like = prefix.states
    lengths = [len(ending) for ending in endings]
    positions = torch.cat([torch.arange(length) for length in lengths]) + prefix.position
    mask = None
    if len(endings) > 1:
        sees = torch.block_diag(*(torch.ones(length, length).tril() for length in lengths))
        sees = torch.cat([torch.ones(len(sees), len(like)), sees], dim=1)  # [L, prefix + L]
        mask = torch.zeros_like(sees).masked_fill_(sees == 0, float("-inf")).to(like.device, like.dtype)
    states, _ = _forward(
        text_encoder,
        torch.tensor([[token for ending in endings for token in ending]], device=like.device),
        positions.expand(3, 1, -1).to(like.device),
        attention_mask=None if mask is None else mask[None, None],
        past_key_values=_fork(prefix.cache),
    )
    return list(states[0].split(lengths))


def _forward(
    text_encoder: Any, input_ids: Tensor, position_ids: Tensor | None = None, **arguments: Any
) -> tuple[Tensor, Any]:
    """Run the encoder.

    Args:
        text_encoder: Qwen3-VL.
        input_ids: `[B, L]`.
        position_ids: `[3, B, L]`; None counts from zero.
        **arguments: What else it is given.

    Returns:
        States of the last layer before the final norm, `[B, L, D]`, and the keys and values.
    """
    captured: list[Any] = []
    # As trained: states before the final norm (std about 21, not 2), which no output of the library carries.
    layer = text_encoder.model.language_model.layers[-1]
    hook = layer.register_forward_hook(lambda _module, _inputs, output: captured.append(output))
    try:
        with _short_cuts(text_encoder):
            # The whole model, not its inner part: offloading hooks sit there.
            output = text_encoder(
                input_ids=input_ids, position_ids=position_ids, logits_to_keep=1, **arguments
            )
    finally:
        hook.remove()
    states = captured[0][0] if isinstance(captured[0], tuple) else captured[0]
    return states, output.past_key_values


@contextmanager
def _short_cuts(text_encoder: Any) -> Iterator[None]:
    """Leave out the final norm and lm_head, and run the patch embedding as a matmul, while the block lasts.

    The patch embedding is a Conv3d whose kernel equals its stride; cuDNN takes seconds for it in bf16 on
    several GPUs.
    """
    model = text_encoder.model
    patches = model.visual.patch_embed.proj

    def project(input: Tensor) -> Tensor:
        rows = nn.functional.linear(input.flatten(1), patches.weight.flatten(1), patches.bias)
        return rows[:, :, None, None, None]

    short_cuts: list[tuple[Any, Callable[[Tensor], Tensor]]] = [
        (model.language_model.norm, _pass_on),
        (text_encoder.lm_head, _pass_on),
    ]
    if type(patches) is nn.Conv3d:
        short_cuts.append((patches, project))
    # Where offloading has replaced a module's forward, it has its say.
    short_cuts = [(module, forward) for module, forward in short_cuts if "forward" not in module.__dict__]
    for module, forward in short_cuts:
        module.forward = forward
    try:
        yield
    finally:
        for module, _ in short_cuts:
            del module.forward


def _pass_on(hidden_states: Tensor) -> Tensor:
    return hidden_states


def _fork(cache: Any) -> Any:
    """Return a cache to go on from, whose own growth the original never sees."""
    fork = copy.copy(cache)
    fork.layers = [copy.copy(layer) for layer in cache.layers]
    return fork
