"""Run the Wan VAE, which is made for video, on single frames: a third of the work with the same result.

`convert_vae` gives its convolutions and norms classes that have a second way to run. It happens once, when a VAE
becomes part of a pipeline. They use that way only inside `encode_frame` and `decode_frame`, in the thread that
calls these: videos, other threads and other programs get the library's own arithmetic.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d, WanRMS_norm
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch.nn import functional

from joyimage.acceleration.conditions import can_run_in_onednn, runs_whole
from joyimage.compat.accelerate import offload_hook
from joyimage.compat.diffusers import causal_padding, is_padded_before
from joyimage.pipeline import frame_network

if TYPE_CHECKING:
    from collections.abc import Generator

    from torch import Tensor

_LEAST_NORM = 1e-12  # that of `torch.nn.functional.normalize`

_is_single_frame: ContextVar[bool] = ContextVar("joyimage_is_single_frame", default=False)


class FrameConv3d(WanCausalConv3d):
    """A causal convolution that runs on a single frame as a 2-D one with its last temporal tap.

    Exact for one frame: the causal padding is zeros, so no other tap sees data.
    """

    def forward(self, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        """Convolve `[B, C, T, H, W]`; `cache_x` holds the frames before."""
        if not self._sees_single_frame(x, cache_x):
            return cast("Any", super()).forward(x, cache_x)
        return functional.conv2d(
            x[:, :, 0], self.weight[:, :, -1], self.bias, self.stride[1:], causal_padding(self)
        ).unsqueeze(2)

    def _sees_single_frame(self, x: Tensor, cache_x: Tensor | None) -> bool:
        """Tell whether the last temporal tap is enough.

        A compiler cannot trace the thread's own variable. What it compiles is not compared bit for bit, so any single
        frame without earlier ones counts.
        """
        if torch.compiler.is_compiling():
            return x.shape[2] == 1 and cache_x is None and is_padded_before(self)
        return _is_single_frame.get()


class FrameRMSNorm(WanRMS_norm):
    """A norm over the channels that reads the features of a single frame twice, where the library's does five times."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `[B, C, T, H, W]` or, in the attention blocks, `[B * T, C, H, W]`."""
        # A compiler fuses the library's five reads itself, and cannot trace the thread's own variable.
        if torch.compiler.is_compiling() or not _is_single_frame.get() or not self.channel_first:
            return cast("Any", super()).forward(x)
        wide = x.float()
        if x.device.type == "cpu":
            # vector_norm over an outer axis took 40 % of a decode on a CPU; this takes a tenth of that.
            norm = wide.square().sum(dim=1, keepdim=True).sqrt_()
        else:
            norm = cast("Any", torch.linalg).vector_norm(wide, dim=1, keepdim=True)
        normed: Tensor = (wide / norm.clamp_min(_LEAST_NORM)).to(x.dtype) * (self.gamma * self.scale)
        return normed + self.bias if isinstance(self.bias, torch.Tensor) else normed


_CONVERTED: dict[type, type] = {WanCausalConv3d: FrameConv3d, WanRMS_norm: FrameRMSNorm}
_KINDS_IN_ONEDNN = frame_network.KINDS | set(_CONVERTED.values())


def convert_vae(vae: AutoencoderKLWan) -> None:
    """Give a VAE's modules their second way to run, in place; weights and saved files stay as they are.

    Args:
        vae: The VAE; converting it again changes nothing.
    """
    for module in vae.modules():
        module.__class__ = _CONVERTED.get(type(module), type(module))


def revert_vae(vae: AutoencoderKLWan) -> None:
    """Undo `convert_vae`, in place."""
    originals = {converted: original for original, converted in _CONVERTED.items()}
    for module in vae.modules():
        module.__class__ = originals.get(type(module), type(module))


def encode_frame(vae: AutoencoderKLWan, pixels: Tensor) -> DiagonalGaussianDistribution:
    """Return the posterior of single frames.

    Args:
        vae: The VAE; without `convert_vae` the result takes about three times the work.
        pixels: `[B, 3, 1, H, W]` in [-1, 1].

    Returns:
        Distribution over `[B, C, 1, H/8, W/8]`.
    """
    model: Any = vae
    if not runs_whole(vae, pixels.shape[-2:]):
        return model.encode(pixels).latent_dist
    with single_frames(vae):
        parameters = None
        if can_run_in_onednn((model.encoder, model.quant_conv), pixels, _KINDS_IN_ONEDNN):
            parameters = frame_network.run_encoder(model.encoder, model.quant_conv, pixels)
        if parameters is None:
            parameters = model.quant_conv(model.encoder(_channels_last(pixels)))
        parameters = parameters.clone() if parameters.is_inference() else parameters
        return DiagonalGaussianDistribution(parameters.contiguous())


def decode_frame(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Return the pixels of single frames.

    Args:
        vae: The VAE; without `convert_vae` the result takes about three times the work.
        latents: Raw latents, `[B, C, 1, H/8, W/8]`.

    Returns:
        `[B, 3, 1, H, W]` in [-1, 1].
    """
    model: Any = vae
    if not runs_whole(vae, latents.shape[-2:], vae.config["scale_factor_spatial"]):
        return model.decode(latents, return_dict=False)[0]
    with single_frames(vae):
        pixels = None
        if can_run_in_onednn((model.post_quant_conv, model.decoder), latents, _KINDS_IN_ONEDNN):
            pixels = frame_network.run_decoder(model.post_quant_conv, model.decoder, latents)
        if pixels is None:
            pixels = model.decoder(model.post_quant_conv(_channels_last(latents)))
        return pixels.clamp(-1, 1).contiguous()


@contextmanager
def single_frames(vae: AutoencoderKLWan) -> Generator[None]:
    """Run a converted VAE's modules as for single frames inside the `with`, in this thread only.

    Where encoder and decoder are called directly, the library's frame cache, a copy of every feature map, is not
    made either.

    Args:
        vae: The VAE.

    Yields:
        Nothing.
    """
    if (hook := offload_hook(vae)) is not None:
        hook.pre_forward(vae)  # brings an offloaded VAE to its device, as `encode` and `decode` do
    token = _is_single_frame.set(True)
    try:
        yield
    finally:
        _is_single_frame.reset(token)


def _channels_last(frames: Tensor) -> Tensor:
    """Lay out `[B, C, 1, H, W]` with the channels fastest, which suits convolutions of one frame."""
    return frames.squeeze(2).contiguous(memory_format=torch.channels_last).unsqueeze(2)
