"""Train the tiny Wan VAE on single frames."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from joyimage.pipeline.vae import convert_vae, single_frames

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    from torch import Tensor, nn

# Small: the latents are standardized afterwards, so the prior's shape matters little.
KL_WEIGHT = 1e-6
EDGE_WEIGHT, CONTRAST_WEIGHT = 0.5, 0.5
_LEAST_ENERGY = 1e-4
_QUIETED = 20.0


def encode_moments(vae: AutoencoderKLWan, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Encode `[B, 3, H, W]` in [-1, 1] to mean and log variance, `[B, 16, 1, H/8, W/8]`."""
    with single_frames(vae):
        moments = vae.quant_conv(vae.encoder(pixels.unsqueeze(2)))
    mean, log_variance = moments.float().chunk(2, dim=1)
    return mean, log_variance.clamp(-30, 20)


def decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Decode raw latents `[B, 16, 1, H/8, W/8]` to pixels `[B, 3, H, W]`."""
    with single_frames(vae):
        return vae.decoder(vae.post_quant_conv(latents))[:, :, 0].float()


def loss(vae: AutoencoderKLWan, pixels: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Reconstruct through a posterior sample.

    Args:
        vae: In training.
        pixels: `[B, 3, H, W]` in [-1, 1].

    Returns:
        The loss, and PSNR in dB for the log.
    """
    mean, log_variance = encode_moments(vae, pixels)
    latents = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    difference = decode(vae, latents) - pixels
    squared = difference.square().mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=(1, 2, 3, 4)).mean()
    total = difference.abs().mean() + 2 * squared + KL_WEIGHT * kl
    return total, {"psnr": float(10 * torch.log10(4 / squared.detach()))}


def decoder_loss(vae: AutoencoderKLWan, pixels: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Reconstruct from latents with some noise; edges and their contrast count, too, which keeps images sharp.

    Args:
        vae: In training, from `trainable_decoder`.
        pixels: `[B, 3, H, W]` in [-1, 1].

    Returns:
        The loss, and PSNR in dB for the log.
    """
    with torch.no_grad():
        mean, log_variance = encode_moments(vae, pixels)
        # An editor's latents are less exact than an encoder's: up to the noise that the first training had.
        amount = _QUIETED * torch.rand(len(mean), 1, 1, 1, 1, device=mean.device)
        latents = mean + amount * torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    difference = decode(vae, latents) - pixels
    squared = difference.square().mean()
    edges = sum(difference.diff(dim=axis).abs().mean() for axis in (-2, -1))
    contrast = (_contrast(difference + pixels) - _contrast(pixels)).abs().mean()
    total = difference.abs().mean() + 2 * squared + EDGE_WEIGHT * edges + CONTRAST_WEIGHT * contrast
    return total, {"psnr": float(10 * torch.log10(4 / squared.detach()))}


def _contrast(pixels: Tensor) -> Tensor:
    """Return how much neighbors differ in each cell of 4 x 4 pixels, `[B, 3, H/4, W/4]`.

    Where an outline is uncertain, the least error is a soft one; the contrast tells it from a sharp one.
    """
    padded = torch.nn.functional.pad(pixels, (0, 1, 0, 1), mode="replicate")
    energy = padded[..., :-1].diff(dim=-2).square() + padded[..., :-1, :].diff(dim=-1).square()
    return (torch.nn.functional.avg_pool2d(energy, 4) + _LEAST_ENERGY).sqrt()


@torch.no_grad()
def measure_latents(vae: AutoencoderKLWan, pixels: Tensor, batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """Give mean and standard deviation per channel of the latents of `pixels` `[B, 3, H, W]`."""
    means = torch.cat([encode_moments(vae, part)[0] for part in pixels.split(batch_size)])
    return means.mean(dim=(0, 2, 3, 4)), means.std(dim=(0, 2, 3, 4))


@torch.no_grad()
def quiet_posterior(vae: AutoencoderKLWan) -> None:
    """Make the posterior's noise a twentieth of what training left.

    Training needs it for a decoder that bears errors. A pipeline that samples the posterior would hide a
    reference behind it: it is as large as the latents themselves in the channels that say least.
    """
    bias: Any = vae.quant_conv.bias
    bias[vae.config["z_dim"] :] -= 2 * math.log(_QUIETED)


def trainable(vae: AutoencoderKLWan) -> nn.Module:
    """Prepare a VAE for training on single frames, which never reach its temporal convolutions."""
    convert_vae(vae)
    for name, parameter in vae.named_parameters():
        parameter.requires_grad_("time_conv" not in name)
    return vae


def trainable_decoder(vae: AutoencoderKLWan) -> nn.Module:
    """Prepare only the decoder for training: what the encoder makes of an image stays."""
    trainable(vae)
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(False)
    return vae.train()
