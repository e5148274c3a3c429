"""The loss of an adapter: velocity of the target's rows, the reference clean and without loss.

Dimension key: B batch, C channels, H and W latent rows and columns, L tokens, D width of text states.
"""

from __future__ import annotations

import math
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from joyimage.training.objective import velocity_loss, weigh_changes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from joyimage.training.features import Features

_BELL_SHARPNESS = 8.0
# Mean of exp(-8 (sigma - 1/2)^2) over sigma in [0, 1]: the weights have a mean of 1.
_BELL_MEAN = math.sqrt(math.pi / _BELL_SHARPNESS) * math.erf(math.sqrt(_BELL_SHARPNESS) / 2)
_CHANGED_THRESHOLD = 0.2


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pairs of one shape, on the training device.

    Attributes:
        target: Standardized latents, `[B, C, 1, H, W]`, fp32.
        references: Standardized latents of each reference, `[B, C, 1, H, W]`, fp32.
        prompt: Text states, `[B, L, D]`, zeros behind shorter ones.
        mask: `[B, L]`, true where real; None where nothing is padded.
    """

    target: Tensor
    references: tuple[Tensor, ...]
    prompt: Tensor
    mask: Tensor | None

    @classmethod
    def collate(cls, features: Sequence[Features], drops: Sequence[bool], device: torch.device) -> Batch:
        """Join the features of pairs.

        Args:
            features: Features of each pair.
            drops: Whether each pair is seen with the empty prompt.
            device: Where the batch goes.
        """
        states = [one.empty if drop else one.prompt for one, drop in zip(features, drops, strict=True)]
        longest = max(len(one) for one in states)
        is_real = torch.tensor([[place < len(one) for place in range(longest)] for one in states])
        return cls(
            target=torch.stack([one.target for one in features]).to(device),
            references=tuple(
                torch.stack(parts).to(device)
                for parts in zip(*(one.references for one in features), strict=True)
            ),
            prompt=torch.nn.utils.rnn.pad_sequence(states, batch_first=True).to(device),
            mask=None if bool(is_real.all()) else is_real.to(device),
        )


def draw_sigma(how: str, shift: float, generator: torch.Generator) -> float:
    """Draw a noise level.

    Args:
        how: "shift" follows the schedule that sampling uses; "uniform"; "logit_normal".
        shift: Shift of that schedule.
        generator: Source of the draw.
    """
    if how == "logit_normal":
        return float(torch.randn((), generator=generator).sigmoid())
    uniform = float(torch.rand((), generator=generator))
    return uniform if how == "uniform" else shift * uniform / (1 + (shift - 1) * uniform)


def bell_weight(sigma: Tensor) -> Tensor:
    """Return weights that favor middle noise levels, with a mean of 1 over all levels."""
    return torch.exp(-_BELL_SHARPNESS * (sigma - 0.5).square()) / _BELL_MEAN


def predict_loss(
    transformer: Any,
    batch: Batch,
    noise: Tensor,
    sigma: Tensor,
    *,
    precision: torch.dtype,
    loss_weight: str = "none",
    changed_region_weight: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return the loss of a batch, and its plain mean squared error without gradient.

    Args:
        transformer: The transformer with its adapter.
        batch: Pairs.
        noise: `[B, C, 1, H, W]`, fp32.
        sigma: Noise level of each pair, `[B]`, fp32.
        precision: bfloat16 computes under autocast, float32 as it is.
        loss_weight: "none" or "bell".
        changed_region_weight: Extra weight of cells that differ from the last reference.
    """
    noisy = torch.lerp(batch.target, noise, sigma.view(-1, 1, 1, 1, 1))
    velocity = predict_velocity(transformer, batch, noisy, sigma, precision)
    weight = torch.ones_like(batch.target[:, :1, 0])
    if changed_region_weight and batch.references and batch.references[-1].shape == batch.target.shape:
        weight = weigh_changes(
            batch.references[-1][:, :, 0],
            batch.target[:, :, 0],
            threshold=_CHANGED_THRESHOLD,
            extra=changed_region_weight,
        )
    total, mse = velocity_loss(velocity[:, :, 0], (noise - batch.target)[:, :, 0], weight)
    if loss_weight == "bell":
        levels = bell_weight(sigma)
        total, _ = velocity_loss(
            velocity[:, :, 0], (noise - batch.target)[:, :, 0], weight * levels.view(-1, 1, 1, 1)
        )
        total = total * levels.mean()  # the weight of a level is not normalized away
    return total, mse


def predict_velocity(
    transformer: Any, batch: Batch, latents: Tensor, sigma: Tensor, precision: torch.dtype
) -> Tensor:
    """Return the velocity of the target's rows, `[B, C, 1, H, W]`.

    Args:
        transformer: The transformer.
        batch: References and prompts.
        latents: The noisy target, `[B, C, 1, H, W]`, fp32.
        sigma: Noise level of each pair, `[B]`, fp32.
        precision: bfloat16 computes under autocast, float32 as it is.
    """
    with autocast(latents.device, precision):
        return transformer(
            hidden_states=[*batch.references, latents],
            timestep=1000 * sigma,
            encoder_hidden_states=batch.prompt.to(precision),
            encoder_hidden_states_mask=batch.mask,
            return_dict=False,
            target_only=True,
        )[0]


def autocast(device: torch.device, precision: torch.dtype) -> Any:
    """Return the context in which matrices are multiplied in `precision`."""
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, precision)


@contextmanager
def explicit_attention(device: torch.device) -> Iterator[None]:
    """Compute attention step by step on a CPU, where the backward of the fused kernel takes twice as long.

    The block has to hold the backward too: what is recomputed there must be computed alike.
    """
    if device.type != "cpu":
        yield
        return
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)
