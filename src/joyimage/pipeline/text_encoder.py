"""Images and prompts to the text encoder's states before its final norm.

All conversations about one image have the same prefix: system message, then image. The prefix runs once, and the
suffixes of all prompts about the image continue from its keys and values in one forward; for a small image they
run in the same forward.

Dimension key: B prompts, L tokens, D text width.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn.utils.rnn import pad_sequence

from joyimage.acceleration.conditions import encoder_takes_masks
from joyimage.advice import advice_on_prompt
from joyimage.pipeline.feature_cache import FeatureCache
from joyimage.pipeline.prompts import prefix_length, tokenize_conversation
from joyimage.pipeline.qwen3_vl import (
    count_tokens,
    fork_cache,
    image_positions,
    prepare_images,
    run_encoder,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image
    from torch import Tensor
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

    from joyimage.pipeline.images import ModelImage
    from joyimage.pipeline.qwen3_vl import CacheVision

Tokens = tuple[int, ...]

MAX_JOINT_PREFIX_TOKENS = 256
"""Tokens of a prefix up to which suffixes run in its forward, each time anew but for the vision tower.

A forward over a few tokens costs nearly as much as one over a few more. Beyond that the prefix's keys and values
are cached.
"""


@dataclass(frozen=True)
class _Prefix:
    """The encoded prefix of all conversations about the same images.

    Attributes:
        states: `[L, D]`.
        cache: Keys and values; None where the suffixes ran in the same forward.
        position: Position of the next token: an image takes fewer positions than tokens.
    """

    states: Tensor
    cache: Any
    position: int


@dataclass(frozen=True)
class ConversationReader:
    """What encodes conversations about the same images.

    Attributes:
        text_encoder: Qwen3-VL.
        processor: Processor of Qwen3-VL.
        device: Device that it runs on.
        images: RGB images of the conversations.
        key: Names encoder, device and images in the cache.
        cache: The cache.
    """

    text_encoder: Qwen3VLForConditionalGeneration
    processor: Any
    device: torch.device
    images: list[Image]
    key: tuple[Any, ...]
    cache: FeatureCache

    def encode(self, rows: list[Tokens]) -> dict[Tokens, Tensor]:
        """Return the states `[L, D]` of distinct conversations; the images are encoded once.

        Which forwards run depends on the conversations of this call alone, and the cache holds what whole forwards
        gave: a call's numbers do not depend on the calls before.
        """
        image_token = self.text_encoder.config.image_token_id
        by_prefix: dict[Tokens, list[Tokens]] = defaultdict(list)
        for row in rows:
            # Up to and with the token that ends the last image.
            length = min(len(row) - row[::-1].index(image_token) + 1, len(row) - 1)
            by_prefix[row[:length]].append(row)
        states: dict[Tokens, Tensor] = {}
        for tokens, members in by_prefix.items():
            suffixes = [row[len(tokens) :] for row in members]
            key = ("states", *self.key, tokens, *suffixes)
            if len(tokens) <= MAX_JOINT_PREFIX_TOKENS and _can_pack(self.text_encoder, suffixes):
                prefix, encoded = self.cache.get_or_compute(
                    key, partial(self._encode_prefix, tokens, suffixes)
                )
            else:
                prefix, _ = self.cache.get_or_compute(
                    ("prefix", *self.key, tokens), partial(self._encode_prefix, tokens)
                )
                encoded = self.cache.get_or_compute(
                    key, partial(_continue_prefix, self.text_encoder, prefix, suffixes)
                )
            states |= {
                row: torch.cat([prefix.states, own]) for row, own in zip(members, encoded, strict=True)
            }
        return states

    def _encode_prefix(self, tokens: Tokens, suffixes: Sequence[Tokens] = ()) -> tuple[_Prefix, list[Tensor]]:
        """Encode a prefix, images included, and suffixes packed behind it.

        Returns:
            The prefix, without keys and values if there are suffixes; and the states of each suffix, `[L, D]`.
        """
        vision = prepare_images(self.text_encoder, self.processor, self.images, self.device)
        ids = torch.tensor([tokens])
        positions, following = image_positions(self.text_encoder, ids, vision["image_grid_thw"])
        lengths = [len(suffix) for suffix in suffixes]
        mask = _packing_mask(len(tokens), lengths, with_prefix=True) if len(suffixes) > 1 else None
        cache_vision: CacheVision = partial(self.cache.get_or_compute, ("vision", *self.key))
        states, cache = run_encoder(
            self.text_encoder,
            torch.cat([ids, _pack(suffixes)], dim=1).to(self.device),
            torch.cat([positions, _positions_from(following, lengths)], dim=2).to(self.device),
            attention_mask=mask,
            cache_vision=cache_vision,
            use_cache=not suffixes,
            **vision,
        )
        own, *others = torch.split(states[0], [len(tokens), *lengths])
        return _Prefix(own, cache, following), others


def encode(
    text_encoder: Qwen3VLForConditionalGeneration,
    processor: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    images: Sequence[Sequence[ModelImage]] | None,
    *,
    device: torch.device,
    max_tokens: int,
    placeholders: bool = False,
    cache: FeatureCache | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Encode a batch; the states of every prompt are those that it has alone.

    Args:
        text_encoder: Qwen3-VL, after `convert_text_encoder`.
        processor: Processor of the text encoder.
        tokenizer: Tokenizer of the text encoder.
        prompts: `B` prompts.
        images: Images of each prompt; prompts with the same images share the work. None without images.
        device: Where to run.
        max_tokens: Maximum number of tokens per prompt, behind the dropped prefix.
        placeholders: Whether "<image>\\n" in a prompt stands for an image.
        cache: Cache for later calls; None: nothing is cached.

    Returns:
        States `[B, L, D]`, zeros behind the shorter ones, and their mask `[B, L]`, 1 where real.
    """
    groups = [()] * len(prompts) if images is None else [tuple(group) for group in images]
    by_images: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        by_images[tuple(image.digest for image in group)].append(index)

    dropped = prefix_length(tokenizer)
    cache = FeatureCache() if cache is None else cache
    states: dict[int, Tensor] = {}
    for digests, indices in by_images.items():
        shared = [image.rgb for image in groups[indices[0]]]
        counts = count_tokens(processor, shared)
        rows: list[Tokens] = []
        for index in indices:
            with advice_on_prompt(index):
                row = tokenize_conversation(
                    tokenizer, prompts[index], counts, max_tokens=max_tokens, placeholders=placeholders
                )
            rows.append(tuple(row))
        distinct = list(dict.fromkeys(rows))
        if shared:
            key = (text_encoder, device, *digests)
            encoded = ConversationReader(text_encoder, processor, device, shared, key, cache).encode(distinct)
        else:
            encoded = _encode_texts(text_encoder, distinct, device)
        states |= {index: encoded[row][dropped:] for index, row in zip(indices, rows, strict=True)}
    in_order = [states[index] for index in range(len(prompts))]
    mask = pad_sequence([row.new_ones(len(row), dtype=torch.long) for row in in_order], batch_first=True)
    return pad_sequence(in_order, batch_first=True), mask


def _encode_texts(
    text_encoder: Qwen3VLForConditionalGeneration, rows: list[Tokens], device: torch.device
) -> dict[Tokens, Tensor]:
    """Return the states `[L, D]` of conversations without images, from one forward."""
    # Padded on the right whatever the tokenizer's side, without a mask: causal attention never looks there.
    padded = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    states, _ = run_encoder(text_encoder, padded.to(device))
    return {row: own[: len(row)] for row, own in zip(rows, states, strict=True)}


def _continue_prefix(
    text_encoder: Qwen3VLForConditionalGeneration, prefix: _Prefix, suffixes: Sequence[Tokens]
) -> list[Tensor]:
    """Return the states `[L, D]` of suffixes, packed into one row.

    A row needs no padding and holds the prefix's keys and values once; each suffix sees the prefix and itself.
    """
    if not _can_pack(text_encoder, suffixes):
        return [states for suffix in suffixes for states in _continue_prefix(text_encoder, prefix, [suffix])]
    lengths = [len(suffix) for suffix in suffixes]
    device = prefix.states.device
    mask = _packing_mask(len(prefix.states), lengths) if len(suffixes) > 1 else None
    states, _ = run_encoder(
        text_encoder,
        _pack(suffixes).to(device),
        _positions_from(prefix.position, lengths).to(device),
        attention_mask=mask,
        past_key_values=fork_cache(prefix.cache),
    )
    return list(torch.split(states[0], lengths))


def _can_pack(text_encoder: Qwen3VLForConditionalGeneration, suffixes: Sequence[Tokens]) -> bool:
    """Tell whether suffixes can be packed into one row: a mask separates them, which not all attention takes."""
    return len(suffixes) == 1 or encoder_takes_masks(text_encoder)


def _pack(suffixes: Sequence[Tokens]) -> Tensor:
    """Return suffixes as one row of tokens, `[1, L]`."""
    return torch.tensor([[token for suffix in suffixes for token in suffix]], dtype=torch.long)


def _positions_from(position: int, lengths: list[int]) -> Tensor:
    """Return the positions of packed suffixes, `[3, 1, L]`, each counted from `position`."""
    counted = [torch.arange(position, position + length) for length in lengths]
    return torch.cat([torch.empty(0, dtype=torch.long), *counted]).expand(3, 1, -1)


def _packing_mask(num_before: int, lengths: list[int], *, with_prefix: bool = False) -> Tensor:
    """Return which tokens see which, bool `[1, 1, L, num_before + suffixes]`.

    Args:
        num_before: Tokens of the prefix, which all suffixes see.
        lengths: Tokens of each suffix.
        with_prefix: Whether the prefix's own tokens are among the `L` that look.
    """
    blocks: Tensor = cast("Any", torch).block_diag(*(torch.ones(length, length).tril() for length in lengths))
    sees = torch.cat([torch.ones(len(blocks), num_before), blocks], dim=1)
    if with_prefix:
        sees = torch.cat([torch.ones(num_before, sees.shape[1]).tril(), sees])
    return sees.bool()[None, None]
