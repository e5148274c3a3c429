"""Classifier-free guidance that keeps the norm of the prompt's own prediction."""

import torch
from torch import Tensor

_SMALLEST_NORM = 1e-6


def combine(cond: Tensor, uncond: Tensor, scale: float, channel_dim: int = 2) -> Tensor:
    """Push `cond` away from `uncond`, keeping its norm over the channels.

    Args:
        cond: Velocity under the prompt, any float dtype.
        uncond: Velocity under the negative prompt, same shape and dtype.
        scale: Guidance scale.
        channel_dim: The axis of the channels.

    Returns:
        Velocity, shape and dtype of `cond`.

    Source: classifier-free guidance, arXiv 2207.12598; the norm rule is JoyAI-Image's (arXiv 2605.04128).
    """
    guided = uncond + scale * (cond - uncond)
    wanted = torch.linalg.vector_norm(cond, dim=channel_dim, keepdim=True)
    got = torch.linalg.vector_norm(guided, dim=channel_dim, keepdim=True)
    return guided * (wanted / got.clamp_min(_SMALLEST_NORM))
