"""Noise and posterior draws, and the standardization of latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.utils.torch_utils import randn_tensor

from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Generators = torch.Generator | list[torch.Generator] | None


def draw_noise(
    shape: tuple[int, ...], generator: Generators, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Draw the target's starting noise, `[B, 1, C, T, H, W]`.

    Raises:
        InvalidInputError: The list of generators has another length than the batch.
    """
    if isinstance(generator, list) and len(generator) != shape[0]:
        raise InvalidInputError(
            f"`generator` is a list of {len(generator)}; expected {shape[0]}, one per output."
        )
    return randn_tensor(shape, generator=generator, device=device, dtype=dtype)


def draw_posterior(
    posteriors: Sequence[Any], owners: Sequence[int], generator: Generators, how: str = "sample"
) -> Tensor:
    """Draw one latent per output.

    Args:
        posteriors: Of the distinct pictures, as the VAE gives them.
        owners: For each output the number of its picture.
        generator: One for all outputs, one each, or None for the global one.
        how: "sample" or "mode".

    Returns:
        Raw latents, `[B, C, 1, H/8, W/8]`.
    """
    draws = []
    for output, picture in enumerate(owners):
        own = generator[output] if isinstance(generator, list) else generator
        draws.append(posteriors[picture].mode() if how == "mode" else posteriors[picture].sample(own))
    return torch.cat(draws)


def resolve_dtype(dtype: str | torch.dtype | None, embeds: Tensor) -> torch.dtype:
    """Return the precision of the latents between steps: the wished one, or that of the embeddings.

    Raises:
        InvalidInputError: It is no floating dtype.
    """
    if dtype is None:
        return embeds.dtype
    resolved = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(resolved, torch.dtype) or not resolved.is_floating_point:
        raise InvalidInputError(
            f"`latents_dtype` is {dtype!r}; expected a floating dtype, such as 'float32'."
        )
    return resolved


def statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel, `[1, C, 1, 1, 1]`, device and dtype of `like`."""
    shape = (1, -1, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(like.device, like.dtype)
    std = torch.tensor(vae.config.latents_std).view(shape).to(like.device, like.dtype)
    return mean, std
