"""Classifier-free guidance: how its two branches are combined, and whether they share a forward."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from joyimage.acceleration.conditions import can_share_forward, streams_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from joyimage.acceleration.presets import SpeedPreset
    from joyimage.model.transformer import JoyImageEditTransformer3DModel
    from joyimage.pipeline.conditioning import TextStates
    from joyimage.pipeline.latents import References

MAX_BATCHED_TOKENS = 1024
"""Image tokens of a forward up to which both branches share it, although the shorter text is padded and masked.

On two CPU cores that takes 25 % off the loop at 64 tokens, 12 % at 512 and nothing from 1,024 on.
"""


def combine(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Push `cond` away from `uncond`, keeping its norm over the channels.

    Args:
        cond: Velocity under the prompt, `[B, items, C, T, H, W]`.
        uncond: Velocity under the negative prompt, same shape and dtype.
        scale: Guidance scale.

    Returns:
        Velocity, shape and dtype of `cond`.

    Source: classifier-free guidance, arXiv 2207.12598; the norm rule is JoyAI-Image's (arXiv 2605.04128).
    """
    combined = uncond + scale * (cond - uncond)
    norm = _channel_norm(combined).clamp_min(1e-6)
    return combined * (_channel_norm(cond) / norm)


class Guidance:
    """Guidance of one edit: in which steps the unconditional branch runs, and what guides those between.

    Args:
        preset: Says at which noise levels there is guidance, and how often the branch runs.
    """

    def __init__(self, preset: SpeedPreset) -> None:
        self._preset = preset
        self._age: int | None = None  # steps since the branch ran; None without guidance
        self._difference: Tensor | None = None  # between the branches when it ran

    def begin(self, sigma: float, *, is_on: bool) -> bool:
        """Begin a step, and return whether the unconditional branch runs in it.

        Args:
            sigma: Noise level of the step.
            is_on: Whether the guidance scale asks for guidance.
        """
        if not (is_on and self._preset.has_guidance_at(sigma)):
            self._age, self._difference = None, None
            return False
        self._age = 0 if self._age is None else (self._age + 1) % self._preset.guidance_period
        return self._age == 0

    def select(self, rows: list[int]) -> None:
        """Continue with some outputs."""
        if self._difference is not None:
            self._difference = self._difference[rows]

    def combine(self, velocities: Sequence[Tensor], scale: float) -> Tensor:
        """Return the guided velocity of the step.

        Args:
            velocities: Velocity `[B, items, C, T, H, W]` of each branch that ran, the conditional one first.
            scale: Guidance scale.
        """
        cond = velocities[0]
        if len(velocities) > 1:
            if self._preset.guidance_period > 1:
                self._difference = cond - velocities[1]
            return combine(cond, velocities[1], scale)
        return cond if self._difference is None else combine(cond, cond - self._difference, scale)


def can_batch_branches(
    transformer: JoyImageEditTransformer3DModel, target: Tensor, references: Sequence[References]
) -> bool:
    """Tell whether both guidance branches go through the transformer in one forward.

    One forward pays where it is short, and where its weights are streamed to the device block by block.

    Args:
        transformer: The transformer.
        target: Latents of the target, `[B, C, 1, H, W]`.
        references: From `group_references`.
    """
    if not can_share_forward(transformer):
        return False
    patch = math.prod(transformer.settings.patch_size)
    num_tokens = max(
        len(group.rows) * sum(item[0, 0].numel() for item in [target, *group.items]) // patch
        for group in references
    )
    return num_tokens <= MAX_BATCHED_TOKENS or streams_weights(transformer)


def pad_texts(texts: Sequence[TextStates]) -> tuple[Tensor, Tensor | None]:
    """Batch texts `[B, L, D]` whose lengths L may differ.

    Args:
        texts: Texts of the branches that share a forward.

    Returns:
        States `[branches * B, L, D]`, and their mask, None where nothing is padded.
    """
    length = max(text.states.shape[1] for text in texts)
    states = torch.cat(
        [nn.functional.pad(text.states, (0, 0, 0, length - text.states.shape[1])) for text in texts]
    )
    if all(text.mask is None and text.states.shape[1] == length for text in texts):
        return states, None
    masks = [
        text.states.new_ones(text.states.shape[:2], dtype=torch.long) if text.mask is None else text.mask
        for text in texts
    ]
    return states, torch.cat([nn.functional.pad(mask, (0, length - mask.shape[1])) for mask in masks])


def _channel_norm(velocity: Tensor) -> Tensor:
    """Return the norm over the channels of `[B, items, C, T, H, W]`."""
    return cast("Any", torch.linalg).vector_norm(velocity, dim=2, keepdim=True)
