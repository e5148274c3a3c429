"""When a fast path may run: every condition, in one place.

A fast path goes past a module or an operator that something else may have replaced: an adapter, a hook, a
compiler, a quantized weight. Each function here answers one question about the state it is asked in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn

from joyimage.compat.accelerate import offload_hook
from joyimage.compat.diffusers import attention_backend, hook_registry, is_hooked, is_parallel
from joyimage.compat.torch import (
    all_modules,
    has_compiled_call,
    has_onednn,
    is_compiled,
    num_forward_hooks,
    own_parameters,
)
from joyimage.compat.transformers import attention_implementation

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from joyimage.model.attention import JointAttention
    from joyimage.model.transformer import JoyImageEditTransformer3DModel

_ATTENTION_WITH_MASKS = {"sdpa", "eager"}
"""Attention of transformers that takes any mask, such as one that keeps prompts in one row apart."""
_FEWEST_ROWS = 16
"""Tokens from which on oneDNN's products are the faster ones."""


def can_write_in_place() -> bool:
    """Return whether operators may write in place: no gradient, compiler or autocast is active."""
    return not (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cuda")
        or torch.is_autocast_enabled("cpu")
    )


def is_plain_linear(layer: nn.Module, hidden_states: Tensor) -> bool:
    """Return whether a layer's weight may be used without calling the layer.

    That is so without an adapter, a hook, a cast and a quantized weight.
    """
    weight: Any = layer.weight if type(layer) is nn.Linear else None
    return (
        type(weight) is nn.Parameter
        and weight.dtype == hidden_states.dtype
        and weight.device == hidden_states.device
        and isinstance(layer.bias, Tensor)
        and runs_itself(layer)
    )


def runs_itself(module: nn.Module) -> bool:
    """Return whether nothing but a module's own `forward` runs when it is called: no hook, and no other forward."""
    return "forward" not in module.__dict__ and num_forward_hooks(module) == 0


def can_infer(network: nn.Module, our_hooks: int = 0) -> bool:
    """Return whether a network may run in torch's inference mode, which takes a twentieth off small operators.

    What is computed there can never have a gradient, so nothing that somebody has put into the network may see it.

    Args:
        network: The network; on a device other than a CPU operators are queued, and nothing is gained.
        our_hooks: Forward hooks that are known to be harmless.
    """
    if is_compiled(network):
        return False
    num_hooks = 0
    for module in all_modules(network):
        weights = own_parameters(module).values()
        if is_hooked(module) or "forward" in vars(module) or has_compiled_call(module):
            return False
        if any(weight is not None and weight.device.type != "cpu" for weight in weights):
            return False
        num_hooks += num_forward_hooks(module)
    return num_hooks == our_hooks


def suits_onednn(hidden_states: Tensor) -> bool:
    """Return whether products of `onednn_linear` with tokens `[..., D]` run here and are the faster ones."""
    return (
        can_write_in_place()
        and hidden_states.device.type == "cpu"
        and hidden_states.shape[:-1].numel() >= _FEWEST_ROWS
        and has_onednn(hidden_states.dtype)
    )


def can_use_onednn(layer: nn.Module, hidden_states: Tensor) -> bool:
    """Return whether a layer's weight may go to `onednn_linear` with tokens `[..., D]`."""
    return suits_onednn(hidden_states) and is_plain_linear(layer, hidden_states)


def can_shorten_last_block(transformer: JoyImageEditTransformer3DModel) -> bool:
    """Return whether the last block may compute the target alone: nothing else counts on all tokens."""
    last = transformer.blocks[-1]
    has_hooks = any(hook_registry(module) is not None for module in (last, last.attn))
    return not (has_hooks or transformer.is_cache_enabled or is_parallel(transformer))


def takes_masks(attn: JointAttention) -> bool:
    """Return whether attention runs on torch's own choice of kernel, which takes any mask."""
    return attention_backend(attn.processor) == AttentionBackendName.NATIVE


def can_share_forward(transformer: JoyImageEditTransformer3DModel) -> bool:
    """Return whether guidance branches may go through the transformer in one forward.

    Step caches hold a state for each branch, and not every attention kernel takes the mask that texts of different
    lengths need.
    """
    if transformer.is_cache_enabled or is_parallel(transformer):
        return False
    return all(takes_masks(block.attn) for block in transformer.blocks)


def streams_weights(transformer: JoyImageEditTransformer3DModel) -> bool:
    """Return whether blocks come to the device one by one and leave it again."""
    return any(offload_kind(module) is not None for module in transformer.blocks[0].modules())


def offload_kind(module: nn.Module) -> str | None:
    """Return how a module's weights come to the device when it runs: "sequential", "group", or None."""
    if bool(getattr(offload_hook(module), "offload", False)):
        return "sequential"
    hooks = hook_registry(module)
    return "group" if hooks is not None and hooks.get_hook("group_offloading") is not None else None


def encoder_takes_masks(text_encoder: Any) -> bool:
    """Return whether a text encoder's attention takes any mask, so that prompts can share a row."""
    return attention_implementation(text_encoder.config.text_config) in _ATTENTION_WITH_MASKS


def runs_whole(vae: Any, sides: Sequence[int], scale: int = 1) -> bool:
    """Return whether a VAE's encoder and decoder may be called directly on a frame; see `reason_to_call_vae`.

    Args:
        vae: The VAE.
        sides: Height and width of the frame, in pixels or latents.
        scale: Pixels to a side of one of them.
    """
    if reason_to_call_vae(vae) is not None:
        return False
    limits = (vae.tile_sample_min_height, vae.tile_sample_min_width)
    return not vae.use_tiling or all(side * scale <= limit for side, limit in zip(sides, limits, strict=True))


def can_run_in_onednn(parts: Iterable[nn.Module], images: Tensor, kinds: Collection[type]) -> bool:
    """Return whether the work of all modules in some parts of a VAE may be done in oneDNN without calling them.

    Args:
        parts: The parts, such as the decoder.
        images: What they are called with.
        kinds: Classes whose work is known.
    """
    if not (can_write_in_place() and images.device.type == "cpu" and has_onednn(images.dtype)):
        return False
    return all(_is_plain(module, images, kinds) for part in parts for module in all_modules(part))


def _is_plain(module: nn.Module, images: Tensor, kinds: Collection[type]) -> bool:
    """Return whether a module is of a known class, called by no one else, and has plain weights like the images."""
    if type(module) not in kinds or not runs_itself(module) or has_compiled_call(module):
        return False
    if isinstance(module, nn.Dropout) and module.training and module.p > 0:
        return False
    return all(
        type(weight) is nn.Parameter and weight.dtype == images.dtype and weight.device == images.device
        for weight in own_parameters(module).values()
    )


def reason_to_call_vae(vae: Any) -> str | None:
    """Return why frames of every size go through the VAE's own methods; None if none have to."""
    if not isinstance(vae, AutoencoderKLWan) or vae.config["patch_size"] is not None:
        return "it is not a Wan 2.1 VAE"
    parts = [module for module in vae.modules() if module is not vae]
    if any("forward" in module.__dict__ or offload_hook(module) is not None for module in parts):
        return "its parts are offloaded or replaced one by one"
    return None
