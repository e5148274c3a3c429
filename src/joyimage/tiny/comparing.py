"""A text layer that compares two images: tokens of the second one look at the same place of the first.

Between the layers that the edit model needs and those that answer, one more layer begins with heads that attend by
position alone, as far back as two images of one size are apart, and writes nothing until it is trained. Without it
training has to find this pattern first, in which nothing is right before everything is. A loss on each token of the
second image, "did this part of the image change?", then teaches the layer what to do with both.

Dimension key: B rows, L tokens, D text width.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from joyimage.tiny.checkpoint import EDIT_TEXT_LAYERS, SIZE
from joyimage.training.text_states import MERGE_SIZE, PATCH_SIZE_PX

COMPARING_LAYER = EDIT_TEXT_LAYERS
"""Number of the layer that compares, among the text layers."""
_READING_TEXT_LAYERS = 6  # without it
_MATCHING_HEADS = 3
_TOKENS = (SIZE // (PATCH_SIZE_PX * MERGE_SIZE)) ** 2  # of an image, for which the heads are aimed
# How sharply a head looks at one place, and how much each axis of the position (image, row, column) counts.
_SHARPNESS = 4.0
_AXIS_SHARES = (0.15, 0.25, 0.6)
# Share of the pixels of a part of the image that have to differ by more than 24 of 255, for it to have changed.
_CHANGED_SHARE = 0.03
_DIFFERENT = 24


def can_compare(text_encoder: Any) -> bool:
    """Tell whether a text encoder has the layer."""
    return text_encoder.config.text_config.num_hidden_layers > _READING_TEXT_LAYERS


def add_comparing_layer(
    text_encoder: Qwen3VLForConditionalGeneration,
) -> Qwen3VLForConditionalGeneration:
    """Return a copy with the layer, which changes no state yet, in fp32; `aim_comparing_layer` tells it where to look.

    Args:
        text_encoder: One that `grow_text_encoder` has made, trained or not.
    """
    config: Any = copy.deepcopy(text_encoder.config)
    config.text_config.num_hidden_layers += 1
    config.update({"judges_edits": True, "compared_tokens": _TOKENS})
    grown: Any = Qwen3VLForConditionalGeneration(config).float()
    grown.load_state_dict(_renumbered(text_encoder.state_dict()), strict=False)
    layer = grown.model.language_model.layers[COMPARING_LAYER]
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    return cast("Qwen3VLForConditionalGeneration", grown)


@torch.no_grad()
def aim_comparing_layer(text_encoder: Any, states: Tensor, is_image: Tensor, distance: int) -> None:
    """Let heads of the layer look from a token of an image at the same place of the image before, in place.

    Args:
        text_encoder: From `add_comparing_layer`.
        states: What goes into the layer's attention, of tokens of two images and of text, `[N, D]`.
        is_image: Which of them are of images, `[N]`.
        distance: How far in position the tokens of one place are apart, in two images that follow each other.
    """
    config = text_encoder.config.text_config
    attention = text_encoder.model.language_model.layers[COMPARING_LAYER].self_attn
    direction = _direction(states.float(), is_image)
    query, key = _matching_vectors(distance, config.head_dim, config.rope_parameters)
    for project, vector in ((attention.q_proj, query), (attention.k_proj, key)):
        for head in range(_MATCHING_HEADS):
            rows = slice(head * config.head_dim, (head + 1) * config.head_dim)
            project.weight[rows] = vector[:, None] * direction
    nn.init.orthogonal_(attention.v_proj.weight)
    for norm in (attention.q_norm, attention.k_norm):
        norm.weight.fill_(_SHARPNESS)


def changed_parts(before: Tensor, after: Tensor, parts: int) -> Tensor:
    """Tell which parts of an image changed.

    Args:
        before: Images, `[B, H, W, 3]` 8-bit.
        after: Images, as many.
        parts: Number of parts along each side.

    Returns:
        1 or 0, `[B, parts * parts]`, by rows.
    """
    differs = ((before.int() - after.int()).abs().amax(-1) > _DIFFERENT).float()
    batch, height, width = differs.shape
    cut = differs.view(batch, parts, height // parts, parts, width // parts)
    return (cut.mean((2, 4)) > _CHANGED_SHARE).float().flatten(1)


def _renumbered(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Make room for one more text layer."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        head, layers, rest = name.partition("language_model.layers.")
        if layers:
            number, _, rest = rest.partition(".")
            rest = f"{int(number) + (int(number) >= COMPARING_LAYER)}.{rest}"
        found[head + layers + rest] = tensor.float()
    return found


def _direction(samples: Tensor, is_image: Tensor) -> Tensor:
    """Return the direction `[D]` along which tokens of images are positive, and others negative."""
    own, others = samples[is_image], samples[~is_image]
    centered = torch.cat([own - own.mean(0), others - others.mean(0)])
    spread = centered.T @ centered / len(centered)
    spread += 0.1 * spread.diagonal().mean() * torch.eye(len(spread))
    direction = torch.linalg.solve(spread, own.mean(0) - others.mean(0))
    # There is no bias: the middle between both has to be at zero.
    middle = (own.mean(0) + others.mean(0)) / 2
    direction -= middle * (direction @ middle) / (middle @ middle)
    return direction / direction.norm()


def _matching_vectors(distance: int, head_dim: int, rope: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return a query and a key `[head_dim]` whose product is largest for tokens `distance` apart on all axes."""
    half = head_dim // 2
    frequencies = rope["rope_theta"] ** -(torch.arange(half) / half)
    query, key = torch.zeros(head_dim), torch.zeros(head_dim)
    for axis, share in enumerate(_AXIS_SHARES):
        # Axes take turns; the first frequency of an axis tells neighbors apart best.
        size, angle = share**0.5, -float(frequencies[axis]) * distance
        key[axis] = size
        query[axis], query[axis + half] = size * _cos(angle), size * _sin(angle)
    return query, key


def _cos(angle: float) -> float:
    return float(torch.tensor(angle).cos())


def _sin(angle: float) -> float:
    return float(torch.tensor(angle).sin())
