"""Pictures and prompt → the text encoder's states before its final norm.

All conversations about one picture begin alike: system message, then picture. That part runs once, and all
prompts about the picture go on from its keys and values in one pass, about a small picture in the same pass.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from joyimage.compat.transformers import attention_implementation
from joyimage.pipeline.feature_cache import EditMemory
from joyimage.pipeline.prompts import prefix_length, tokenize_conversation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from PIL.Image import Image
    from torch import Tensor

    from joyimage.pipeline.images import ModelImage

Tokens = tuple[int, ...]

_TAKE_MASKS = {"sdpa", "eager"}
"""Attention of transformers that takes any mask, such as one that keeps conversations in a row apart."""

_ONE_PASS_UP_TO = 256
"""Tokens of a beginning up to which endings are read along with it, each time anew but for the vision tower.

A pass over a few tokens costs nearly as much as one over a few more. Beyond that the beginning's keys and
values are kept.
"""


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
    images: Sequence[Sequence[ModelImage]] | None,
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
        images: Images of each prompt; prompts with the same images share the work. None without images.
        device: Where to run.
        max_tokens: Most tokens kept per sample.
        placeholders: Whether "<image>\\n" in a prompt stands for a picture.
        memory: Keeps what was read about a picture for later calls; None: nothing is kept.

    Returns:
        States `[B, L, D]`, zeros behind the shorter ones, and their mask `[B, L]`, 1 where real.
    """
    groups = [()] * len(prompts) if images is None else [tuple(group) for group in images]
    members: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[tuple(image.digest for image in group)].append(index)

    dropped = prefix_length(tokenizer)
    memory = EditMemory() if memory is None else memory
    rows: list[Any] = [None] * len(prompts)
    for about, indices in members.items():
        group = [image.rgb for image in groups[indices[0]]]
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


def prepare_images(
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

    How they run depends on the conversations of this call alone, and the memory holds what whole passes gave:
    a call's numbers don't depend on the calls before.
    """
    about = (text_encoder, device, *names)
    image_token = text_encoder.config.image_token_id
    together: dict[Tokens, list[Tokens]] = defaultdict(list)
    for row in ids:
        # Up to and with the mark behind the last picture.
        length = min(len(row) - row[::-1].index(image_token) + 1, len(row) - 1)
        together[row[:length]].append(row)

    def see(forward: Callable[..., Any]) -> Callable[..., Any]:
        def seen(*inputs: Any, **arguments: Any) -> Any:
            features = memory.once(("vision", *about), lambda: forward(*inputs, **arguments))
            return copy.copy(features)  # the library writes other features into what it is given

        return seen

    states: dict[Tokens, Tensor] = {}
    for beginning, rows in together.items():
        endings = [row[len(beginning) :] for row in rows]
        read = partial(_read, text_encoder, processor, pictures, device, beginning)
        if len(beginning) <= _ONE_PASS_UP_TO and _may_join(text_encoder, endings):
            prefix, own = memory.once(
                ("states", *about, beginning, *endings), lambda read=read, own=endings: read(own, see=see)
            )
        else:
            prefix, _ = memory.once(("prefix", *about, beginning), read)
            own = memory.once(
                ("states", *about, beginning, *endings),
                lambda prefix=prefix, endings=endings: _go_on(text_encoder, prefix, endings),
            )
        states |= {row: torch.cat([prefix.states, ending]) for row, ending in zip(rows, own, strict=True)}
    return states


def _read(
    text_encoder: Any,
    processor: Any,
    pictures: Sequence[Image],
    device: torch.device,
    beginning: Tokens,
    endings: Sequence[Tokens] = (),
    *,
    see: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None,
) -> tuple[_Prefix, list[Tensor]]:
    """Read the beginning of conversations, pictures included, and endings in the same row.

    Args:
        text_encoder: Qwen3-VL.
        processor: Its processor.
        pictures: Those of the beginning.
        device: Where to run.
        beginning: What all have in common.
        endings: What stands behind it in each.
        see: Given the vision tower's forward, returns what to call instead.

    Returns:
        The beginning, without keys and values if there are endings; and the states of each ending, `[L, D]`.
    """
    vision = prepare_images(text_encoder, processor, pictures, device)
    ids = torch.tensor([beginning])
    # Worked out on the host: on a device it would take a wait for each of many small steps.
    positions, _ = text_encoder.model.get_rope_index(
        ids, (ids == text_encoder.config.image_token_id).int(), vision["image_grid_thw"].cpu()
    )
    following = int(positions.max()) + 1
    lengths = [len(ending) for ending in endings]
    mask = _keep_apart(len(beginning), lengths, is_beginning_read=True) if len(endings) > 1 else None
    states, cache = _forward(
        text_encoder,
        torch.cat([ids, _in_a_row(endings)], dim=1).to(device),
        torch.cat([positions, _count_on(following, lengths)], dim=2).to(device),
        see=see,
        attention_mask=mask,
        use_cache=not endings,
        **vision,
    )
    own, *others = states[0].split([len(beginning), *lengths])
    return _Prefix(own, cache, following), others


def _go_on(text_encoder: Any, prefix: _Prefix, endings: Sequence[Tokens]) -> list[Tensor]:
    """Return the states `[L, D]` of conversations' endings, one behind the other in one row.

    A row takes no padding, keeps the prefix's keys and values once; each ending sees the prefix and itself.
    """
    if not _may_join(text_encoder, endings):
        return [states for ending in endings for states in _go_on(text_encoder, prefix, [ending])]
    lengths = [len(ending) for ending in endings]
    device = prefix.states.device
    mask = _keep_apart(len(prefix.states), lengths) if len(endings) > 1 else None
    states, _ = _forward(
        text_encoder,
        _in_a_row(endings).to(device),
        _count_on(prefix.position, lengths).to(device),
        attention_mask=mask,
        past_key_values=_fork(prefix.cache),
    )
    return list(states[0].split(lengths))


def _may_join(text_encoder: Any, endings: Sequence[Tokens]) -> bool:
    """Tell whether endings may stand in one row: a mask keeps them apart, which not all attention takes."""
    return len(endings) == 1 or attention_implementation(text_encoder.config.text_config) in _TAKE_MASKS


def _in_a_row(endings: Sequence[Tokens]) -> Tensor:
    return torch.tensor([[token for ending in endings for token in ending]], dtype=torch.long)


def _count_on(position: int, lengths: list[int]) -> Tensor:
    """Return the positions of endings in a row, `[3, 1, L]`, each counted from `position` on."""
    counted = [torch.arange(position, position + length) for length in lengths]
    return torch.cat([torch.empty(0, dtype=torch.long), *counted]).expand(3, 1, -1)


def _keep_apart(num_before: int, lengths: list[int], *, is_beginning_read: bool = False) -> Tensor:
    """Return which tokens see which, bool `[1, 1, L, num_before + endings]`.

    Args:
        num_before: Tokens of the beginning, which all endings see.
        lengths: Tokens of each ending.
        is_beginning_read: Whether the beginning's own tokens are among the `L` that look.
    """
    sees = torch.block_diag(*(torch.ones(length, length).tril() for length in lengths))
    sees = torch.cat([torch.ones(len(sees), num_before), sees], dim=1)
    if is_beginning_read:
        sees = torch.cat([torch.ones(num_before, sees.shape[1]).tril(), sees])
    return sees.bool()[None, None]


def _forward(
    text_encoder: Any,
    input_ids: Tensor,
    position_ids: Tensor | None = None,
    *,
    see: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None,
    attention_mask: Tensor | None = None,
    **arguments: Any,
) -> tuple[Tensor, Any]:
    """Run the encoder.

    Args:
        text_encoder: Qwen3-VL.
        input_ids: `[B, L]`.
        position_ids: `[3, B, L]`; None counts from zero.
        see: Given the vision tower's forward, returns what to call instead.
        attention_mask: Bool, which tokens see which, `[1, 1, L, keys]`; None: all that come before.
        **arguments: What else it is given.

    Returns:
        States of the last layer before the final norm, `[B, L, D]`, and the keys and values.
    """
    if attention_mask is not None:
        like: Tensor = text_encoder.get_input_embeddings().weight
        bias = torch.zeros(attention_mask.shape, dtype=like.dtype)
        arguments["attention_mask"] = bias.masked_fill_(~attention_mask, float("-inf")).to(input_ids.device)
    captured: list[Any] = []
    # As trained: states before the final norm (std about 21, not 2), which no output of the library carries.
    layer = text_encoder.model.language_model.layers[-1]
    hook = layer.register_forward_hook(lambda _module, _inputs, output: captured.append(output))
    try:
        with _short_cuts(text_encoder, see):
            # The whole model, not its inner part: offloading hooks sit there.
            output = text_encoder(
                input_ids=input_ids, position_ids=position_ids, logits_to_keep=1, **arguments
            )
    finally:
        hook.remove()
    states = captured[0][0] if isinstance(captured[0], tuple) else captured[0]
    return states, output.past_key_values


@contextmanager
def _short_cuts(
    text_encoder: Any, see: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None
) -> Iterator[None]:
    """Leave out the final norm and lm_head, and run the patch embedding as a matmul, while the block lasts.

    The patch embedding is a Conv3d whose kernel equals its stride; cuDNN takes seconds for it in bf16 on
    several GPUs.
    """
    model = text_encoder.model
    patches = model.visual.patch_embed.proj

    def project(input: Tensor) -> Tensor:
        rows = nn.functional.linear(input.flatten(1), patches.weight.flatten(1), patches.bias)
        return rows[:, :, None, None, None]

    short_cuts: list[tuple[Any, Callable[..., Any]]] = [
        (model.language_model.norm, _pass_on),
        (text_encoder.lm_head, _pass_on),
    ]
    if see is not None:
        short_cuts.append((model.visual, see(model.visual.forward)))
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
