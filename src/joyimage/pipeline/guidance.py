"""Classifier-free guidance with the norm kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


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
    norm = torch.linalg.vector_norm(combined, dim=2, keepdim=True).clamp_min(1e-6)
    return combined * (torch.linalg.vector_norm(cond, dim=2, keepdim=True) / norm)
