"""The Wan VAE's encoder and decoder for one frame on a CPU, in oneDNN and with the channels last in memory.

It computes what the modules compute on a single frame, with fewer reads and writes of the feature maps:

- A norm over the channels and SiLU run on rows that lie in memory one after the other, in fp32.
- A convolution adds its result to the shortcut where it computes it.
- Enlarging and the convolution after it are one transposed convolution of the small map, at 4/9 of the
  multiplications: five of the nine pixels under a kernel are copies of its other four.

Dimension key: B batch, C channels, H and W height and width, N pixels of all images (B * H * W).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanDecoder3d,
    WanEncoder3d,
    WanMidBlock,
    WanResample,
    WanResidualBlock,
    WanUpBlock,
    WanUpsample,
)
from torch import Tensor, nn
from torch.nn import functional

from joyimage.acceleration.cpu_attention import attend_on_cpu
from joyimage.acceleration.weight_layouts import find_layout, weight_layouts
from joyimage.compat.diffusers import causal_padding
from joyimage.compat.torch import onednn_conv, reorder_conv_weight, scaled_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

KINDS: frozenset[type] = frozenset(
    {
        *(WanEncoder3d, WanDecoder3d, WanMidBlock, WanUpBlock, WanResidualBlock, WanAttentionBlock),
        *(WanResample, WanUpsample, nn.ModuleList, nn.Sequential, nn.Conv2d, nn.ZeroPad2d),
        *(nn.SiLU, nn.Dropout, nn.Identity),
    }
)
"""Classes whose work is done here without calling them, beside those of convolutions and norms."""

_MOST_VALUES = 2**18
"""Values that are normalized in fp32 at a time: 1 MB, which stays in a core's cache."""


@torch.inference_mode()
def run_encoder(encoder: Any, quant_conv: Any, pixels: Tensor) -> Tensor | None:
    """Return mean and logarithm of the variance of latents; None if they are not finite here.

    Args:
        encoder: The VAE's encoder.
        quant_conv: The convolution after it.
        pixels: `[B, 3, 1, H, W]`.

    Returns:
        `[B, 2 * C, 1, H/8, W/8]`, of torch's inference mode.
    """
    with weight_layouts(encoder):
        hidden = _convolve(encoder.conv_in, _channels_last(pixels.squeeze(2)))
        hidden = _run_all([*encoder.down_blocks, *_middle(encoder)], hidden)
        hidden = _convolve(encoder.conv_out, _normalize(hidden, encoder.norm_out, silu=True))
        return _if_finite(_convolve(quant_conv, hidden))


@torch.inference_mode()
def run_decoder(post_quant_conv: Any, decoder: Any, latents: Tensor) -> Tensor | None:
    """Return pixels before they are clipped; None if they are not finite here.

    Args:
        post_quant_conv: The convolution before the decoder.
        decoder: The VAE's decoder.
        latents: `[B, C, 1, H/8, W/8]`.

    Returns:
        `[B, 3, 1, H, W]`, of torch's inference mode.
    """
    blocks = [part for block in decoder.up_blocks for part in (*block.resnets, *(block.upsamplers or ()))]
    with weight_layouts(decoder):
        hidden = _convolve(decoder.conv_in, _convolve(post_quant_conv, _channels_last(latents.squeeze(2))))
        hidden = _run_all([*_middle(decoder), *blocks], hidden)
        return _if_finite(_convolve(decoder.conv_out, _normalize(hidden, decoder.norm_out, silu=True)))


def _if_finite(values: Tensor) -> Tensor | None:
    """Return images `[B, C, H, W]` as frames `[B, C, 1, H, W]`, or None if a value is not finite.

    A pixel whose channels are all 0 has no direction: its norm here is NaN, which reaches the result. The modules
    know what to do with it.
    """
    return values.unsqueeze(2) if math.isfinite(float(values.sum(dtype=torch.float32))) else None


def _middle(part: Any) -> list[nn.Module]:
    """Return the modules of the middle block in the order in which they run."""
    first, *rest = part.mid_block.resnets
    pairs = zip(part.mid_block.attentions, rest, strict=True)
    return [first, *(module for pair in pairs for module in pair)]


def _run_all(modules: Iterable[nn.Module], hidden: Tensor) -> Tensor:
    """Run modules one after the other; each may overwrite what the one before returned."""
    for module in modules:
        if isinstance(module, WanResidualBlock):
            hidden = _add_residual(module, hidden)
        elif isinstance(module, WanAttentionBlock):
            hidden = _add_attention(module, hidden)
        else:
            hidden = _resample(module, hidden)
    return hidden


def _add_residual(block: Any, hidden: Tensor) -> Tensor:
    has_same_width = isinstance(block.conv_shortcut, nn.Identity)
    shortcut = hidden if has_same_width else _convolve(block.conv_shortcut, hidden)
    inner = _convolve(block.conv1, _normalize(hidden, block.norm1, silu=True))
    return _convolve(block.conv2, _normalize(inner, block.norm2, silu=True, out=inner), add_to=shortcut)


def _add_attention(block: Any, hidden: Tensor) -> Tensor:
    batch, channels, height, width = hidden.shape
    qkv = _rows(_convolve(block.to_qkv, _normalize(hidden, block.norm, silu=False)))
    query, key, value = qkv.view(batch, height * width, 1, 3 * channels).chunk(3, dim=-1)  # one head
    attended = attend_on_cpu(query, key, value).reshape(batch, height, width, channels).permute(0, 3, 1, 2)
    return _convolve(block.proj, attended, add_to=hidden)


def _resample(module: Any, hidden: Tensor) -> Tensor:
    before, conv = module.resample
    if isinstance(before, WanUpsample):
        return _enlarge_and_convolve(conv, hidden)
    return _convolve(conv, before(hidden))  # one column and one row of zeros, on one side each


def _convolve(conv: Any, hidden: Tensor, add_to: Tensor | None = None) -> Tensor:
    stride, padding = conv.stride[-2:], causal_padding(conv) if conv.weight.ndim == 5 else conv.padding
    weight = find_layout(
        conv.weight, lambda plain: reorder_conv_weight(_last_tap(plain), stride, padding, hidden.shape)
    )
    if weight is None:
        weight = _last_tap(conv.weight)
    return onednn_conv(hidden, weight, conv.bias, stride, padding, add_to=add_to)


def _last_tap(weight: Tensor) -> Tensor:
    """Return what of a weight meets a single frame: the causal padding is zeros, so no other tap sees data."""
    return weight[:, :, -1] if weight.ndim == 5 else weight


def _enlarge_and_convolve(conv: Any, hidden: Tensor) -> Tensor:
    """Convolve a map that is enlarged to twice its size, each pixel to four, by a kernel of 3 x 3.

    Each pixel of the small map adds to 4 x 4 pixels of the result, which is a transposed convolution.
    """
    weight = find_layout(conv.weight, _spread)
    if weight is None:
        weight = _spread(conv.weight)
    large = functional.conv_transpose2d(hidden, weight, conv.bias, stride=2, padding=1)
    return _channels_last(large)  # as it is already, unless the small map is a single pixel


def _spread(weight: Tensor) -> Tensor:
    """Return what a pixel of the small map adds to each of 4 x 4 pixels, `[C, O, 4, 4]` from `[O, C, 3, 3]`."""
    side = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], device="cpu")
    return (side @ weight.float() @ side.t()).to(weight.dtype).transpose(0, 1).contiguous()


def _normalize(hidden: Tensor, norm: Any, *, silu: bool, out: Tensor | None = None) -> Tensor:
    """Return the norm of `[B, C, H, W]` over the channels, or its SiLU, in `out` or in a new tensor."""
    normed = torch.empty_like(hidden) if out is None else out
    gamma, rows = norm.gamma.flatten().float(), _rows(hidden)
    num_pieces = -(-rows.numel() // _MOST_VALUES)
    for piece, target in zip(rows.chunk(num_pieces), _rows(normed).chunk(num_pieces), strict=True):
        values = scaled_rows(piece.float(), norm.scale).mul_(gamma)
        if silu and values.dtype == target.dtype:
            torch.ops.aten.silu.out(values, out=target)
        else:
            target.copy_(functional.silu(values, inplace=True) if silu else values)
    return normed


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _nhwc(images: Tensor) -> Tensor:
    return images.permute(0, 2, 3, 1)


def _rows(images: Tensor) -> Tensor:
    """Return images `[B, C, H, W]` as a view of `[N, C]`."""
    return _nhwc(images).view(-1, images.shape[1])
