"""The VAE on single frames: pictures to a posterior and latents to pictures, with the latents' statistics."""

from typing import Any

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor


def encode_pixels(vae: Any, pixels: Tensor) -> DiagonalGaussianDistribution:  # noqa: ANN401
    """Encode pictures.

    Args:
        vae: Such as AutoencoderKLWan.
        pixels: `[B, 3, H, W]` in [-1, 1].

    Returns:
        The posterior of the latents `[B, C, 1, H/8, W/8]`, before normalisation.
    """
    return vae.encode(pixels.to(vae.dtype).unsqueeze(2)).latent_dist  # [B, 3, 1, H, W]


def decode_latents(vae: Any, latents: Tensor) -> Tensor:  # noqa: ANN401
    """Decode latents.

    Args:
        vae: Such as AutoencoderKLWan.
        latents: `[B, C, 1, H/8, W/8]`, without normalisation.

    Returns:
        Pictures `[B, 3, H, W]` in about [-1, 1], fp32.
    """
    return vae.decode(latents.to(vae.dtype), return_dict=False)[0].float().squeeze(2)


def normalize(vae: Any, latents: Tensor) -> Tensor:  # noqa: ANN401
    """Bring latents `[B, C, T, H, W]` to mean 0 and deviation 1 per channel."""
    statistics = _statistics(vae, latents)
    if statistics is None:
        return latents * vae.config.scaling_factor
    mean, std = statistics
    return (latents - mean) / std


def denormalize(vae: Any, latents: Tensor) -> Tensor:  # noqa: ANN401
    """Undo `normalize`."""
    statistics = _statistics(vae, latents)
    if statistics is None:
        return latents / vae.config.scaling_factor
    mean, std = statistics
    return latents * std + mean


def _statistics(vae: Any, latents: Tensor) -> tuple[Tensor, Tensor] | None:  # noqa: ANN401
    mean, std = vae.config.get("latents_mean"), vae.config.get("latents_std")
    if mean is None or std is None:
        return None
    shape = (1, -1, 1, 1, 1)
    return (
        torch.tensor(mean).view(shape).to(latents.device, latents.dtype),
        torch.tensor(std).view(shape).to(latents.device, latents.dtype),
    )
