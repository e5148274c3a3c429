"""The flow-matching objective: predict the velocity along straight paths from data to noise.

Source: x = (1 - sigma) x0 + sigma noise, velocity noise - x0 (arXiv 2210.02747); noise levels after arXiv
2403.03206.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoisyBatch:
    """A batch on its way from data to noise.

    Attributes:
        latents: What the transformer sees as its target item, `[B, C, H, W]`.
        velocity: What it should return, `[B, C, H, W]`.
        sigma: Noise level of each item, `[B]` in [0, 1].
    """

    latents: Tensor
    velocity: Tensor
    sigma: Tensor


def add_noise(target: Tensor, *, shift: float, shifted_share: float) -> NoisyBatch:
    """Draw noise and noise levels for a batch of clean latents, from the global generator.

    Args:
        target: Clean latents, `[B, C, H, W]`.
        shift: Shift of the schedule that sampling uses.
        shifted_share: Share of the noise levels that follow that schedule; the rest are uniform.

    Returns:
        The noisy batch.
    """
    noise = torch.randn_like(target)
    sigma = draw_sigmas(len(target), shift=shift, shifted_share=shifted_share, device=target.device)
    noisy = torch.lerp(target, noise, sigma.view(-1, 1, 1, 1))
    return NoisyBatch(noisy, noise - target, sigma)


def draw_sigmas(num: int, *, shift: float, shifted_share: float, device: torch.device) -> Tensor:
    """Draw noise levels, `[num]` in [0, 1].

    Args:
        num: How many.
        shift: Shift of the schedule that sampling uses; 1 shifts nothing.
        shifted_share: Share of the levels that follow that schedule; the rest are uniform.
        device: Device of the result.

    Returns:
        The noise levels.
    """
    uniform = torch.rand(num, device=device)
    shifted = shift * uniform / (1 + (shift - 1) * uniform)
    return torch.where(torch.rand(num, device=device) < shifted_share, shifted, torch.rand_like(uniform))


def weigh_changes(source: Tensor, target: Tensor, *, threshold: float, extra: float) -> Tensor:
    """Weigh the cells that an edit changes more than those that it copies.

    Args:
        source: Clean latents of the source, `[B, C, H, W]`.
        target: Clean latents of the target, `[B, C, H, W]`.
        threshold: Mean absolute difference over the channels from which a cell counts as changed.
        extra: Weight of a changed cell beyond the 1 that every cell has.

    Returns:
        Weights, `[B, 1, H, W]`.
    """
    changed = (target - source).abs().mean(dim=1, keepdim=True) > threshold
    return torch.ones_like(target[:, :1]) + extra * changed


def velocity_loss(velocity: Tensor, expected: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted mean squared error of a velocity, and the plain one without gradient.

    Args:
        velocity: What the transformer returned, `[B, C, H, W]`; the error is computed in fp32.
        expected: `NoisyBatch.velocity`.
        weight: Weight of each cell, `[B, 1, H, W]`.

    Returns:
        The loss, and the mean squared error for the log.
    """
    squared = (velocity.float() - expected).square()
    return (weight * squared).mean() / weight.mean(), squared.detach().mean()
