"""Write the tiny parts as JD's original code stores them, independently of how we convert them."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors.torch import save_file

from tests import random_models

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

_RESIDUAL = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"}
_ENDS = {"norm_out": "head.0", "conv_out": "head.2", "conv_in": "conv1"}

WIDE_TRANSFORMER = {
    "hidden_size": 256,
    "num_attention_heads": 2,
    "rope_dim_list": [16, 56, 56],
    "num_layers": 1,
}
"""Heads of the published width: the settings that can be told from the weights alone."""


def make_original_vae() -> AutoencoderKLWan:
    """Build a Wan VAE with as many layers as the published one, which the original names presuppose."""
    vae = AutoencoderKLWan(base_dim=4).float().eval()
    random_models.fill(vae, seed=5)
    return vae.requires_grad_(False)


def transformer_weights(transformer: torch.nn.Module) -> dict[str, Tensor]:
    """Name a transformer's weights as the original code does: without `.attn.`."""
    return {key.replace(".attn.", "."): value for key, value in transformer.state_dict().items()}


def vae_weights(vae: torch.nn.Module) -> dict[str, Tensor]:
    """Name a Wan VAE's weights as the original Wan code does."""
    return {_original_vae_key(key): value for key, value in vae.state_dict().items()}


def _original_vae_key(key: str) -> str:
    if key.startswith("quant_conv"):
        return key.replace("quant_conv", "conv1")
    if key.startswith("post_quant_conv"):
        return key.replace("post_quant_conv", "conv2")
    half, rest = key.split(".", 1)
    middle = re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", rest)
    up = re.match(r"up_blocks\.(\d)\.(resnets|upsamplers)\.(\d)\.(.+)", rest)
    if middle:
        place = "1" if middle[1] == "attentions" else str(2 * int(middle[2]))
        rest = f"middle.{place}.{_residual(middle[3])}"
    elif up:
        place = 4 * int(up[1]) + (3 if up[2] == "upsamplers" else int(up[3]))
        rest = f"upsamples.{place}.{_residual(up[4])}"
    elif rest.startswith("down_blocks."):
        _, place, name = rest.split(".", 2)
        rest = f"downsamples.{place}.{_residual(name)}"
    else:
        name, end = rest.split(".", 1)
        rest = f"{_ENDS[name]}.{end}"
    return f"{half}.{rest}"


def _residual(name: str) -> str:
    layer, _, end = name.partition(".")
    return f"{_RESIDUAL.get(layer, layer).replace('conv_shortcut', 'shortcut')}.{end}"


def write_original(
    folder: Path,
    checkpoint: Path,
    *,
    transformer: Mapping[str, Any],
    suffix: str = ".safetensors",
    wrapped: bool = False,
) -> Path:
    """Write a folder that looks like JD's own checkpoint.

    Args:
        folder: Created.
        checkpoint: Tiny checkpoint in the published layout, whose text encoder is taken.
        transformer: The transformer's weights under the original names.
        suffix: ".safetensors" or ".pth".
        wrapped: Put the transformer's weights into {"model": ...}; for ".pth" only.

    Returns:
        `folder`.
    """
    und = folder / "JoyAI-Image-Und"
    und.mkdir(parents=True)
    for part in ("processor", "text_encoder"):
        shutil.copytree(checkpoint / part, und, dirs_exist_ok=True)
    (folder / "transformer").mkdir()
    (folder / "vae").mkdir()
    vae = {key: value.contiguous() for key, value in vae_weights(make_original_vae()).items()}
    if suffix == ".safetensors":
        save_file(dict(transformer), folder / "transformer" / "transformer.safetensors")
        save_file(vae, folder / "vae" / "Wan2.1_VAE.safetensors")
    else:
        content = {"model": dict(transformer), "step": 7} if wrapped else dict(transformer)
        torch.save(content, folder / "transformer" / f"transformer{suffix}")
        torch.save(vae, folder / "vae" / f"Wan2.1_VAE{suffix}")
    return folder
