"""Qwen3-VL as a text encoder: its states before the final norm, without the work that nothing reads.

`convert_text_encoder` gives some modules classes that have a second way to run. It happens once, when a text
encoder becomes part of a pipeline. They use that way only inside `run_encoder`, in the thread that calls it:
answers to questions, other threads and other programs get the library's own arithmetic.

Dimension key: B conversations, L tokens, D text width, P image patches.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLForConditionalGeneration,
    Qwen3VLTextRMSNorm,
    Qwen3VLVisionModel,
)

from joyimage.acceleration.conditions import can_infer, suits_onednn
from joyimage.compat.torch import onednn_linear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from PIL.Image import Image
    from torch import Tensor
    from torch.utils.hooks import RemovableHandle

    ComputeVision = Callable[[], Any]
    CacheVision = Callable[[ComputeVision], Any]


@dataclass
class _Run:
    """State of one run of the encoder.

    Attributes:
        cache_vision: Given what computes the vision tower's features, returns them, computed or cached.
        states: States of the last layer, `[B, L, D]`; None before it has run.
    """

    cache_vision: CacheVision | None = None
    states: Tensor | None = None


_run: ContextVar[_Run | None] = ContextVar("joyimage_encoder_run", default=None)
_handles: WeakKeyDictionary[nn.Module, RemovableHandle] = WeakKeyDictionary()
"""Hook on the last layer of each converted text encoder."""


def is_encoding() -> bool:
    """Return whether this thread is inside `run_encoder`, which needs no logits."""
    return _run.get() is not None


class SkippableRMSNorm(Qwen3VLTextRMSNorm):
    """The final norm, which the encoder's states do not pass through."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalize `[B, L, D]`."""
        return super().forward(hidden_states) if _run.get() is None else hidden_states


class SkippableLinear(nn.Linear):
    """The language head, whose logits the encoder does not need."""

    @property
    def is_skipped(self) -> bool:
        """Whether `forward` would return its input: a streamed head need not be read then."""
        return is_encoding()

    def forward(self, input: Tensor) -> Tensor:
        """Project `[B, L, D]`."""
        return super().forward(input) if _run.get() is None else input


class EncoderLinear(nn.Linear):
    """A layer that multiplies in oneDNN on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Project `[..., D]`."""
        weight: Any = self.weight
        is_plain = type(weight) is nn.Parameter and weight.dtype == input.dtype
        if _run.get() is None or not (is_plain and suits_onednn(input)):
            return super().forward(input)
        return onednn_linear(input, weight, self.bias)


class PatchConv3d(nn.Conv3d):
    """The patch embedding as a matmul: its kernel equals its stride and its input.

    cuDNN takes seconds for the convolution in bf16 on several GPUs.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Embed patches `[P, C, T, H, W]`, whose T, H and W are the kernel's."""
        if _run.get() is None:
            return super().forward(input)
        rows = nn.functional.linear(input.flatten(1), self.weight.flatten(1), self.bias)
        return rows[:, :, None, None, None]


class CachedVisionModel(Qwen3VLVisionModel):
    """The vision tower, whose features the encoder may have cached."""

    def forward(self, *inputs: Any, **arguments: Any) -> Any:
        """Return the features of images; see `Qwen3VLVisionModel.forward`."""
        forward = cast("Callable[..., Any]", super().forward)
        run = _run.get()
        if run is None or run.cache_vision is None:
            return forward(*inputs, **arguments)
        features = run.cache_vision(partial(forward, *inputs, **arguments))
        return copy.copy(features)  # the library writes other features into what it is given


def convert_text_encoder(text_encoder: Qwen3VLForConditionalGeneration) -> None:
    """Give a text encoder's modules their second way to run, in place; weights and saved files stay as they are.

    Args:
        text_encoder: The text encoder; converting it again changes nothing.
    """
    for module, original, converted in _conversions(text_encoder):
        if type(module) is original:
            module.__class__ = converted
    layer = _last_layer(text_encoder)
    if layer not in _handles:
        # As trained: states before the final norm (std about 21, not 2), which no output of the library carries.
        _handles[layer] = layer.register_forward_hook(_take_states)


def revert_text_encoder(text_encoder: Qwen3VLForConditionalGeneration) -> None:
    """Undo `convert_text_encoder`, in place."""
    for module, original, converted in _conversions(text_encoder):
        if type(module) is converted:
            module.__class__ = original
    handle = _handles.pop(_last_layer(text_encoder), None)
    if handle is not None:
        handle.remove()


def run_encoder(
    text_encoder: Qwen3VLForConditionalGeneration,
    input_ids: Tensor,
    position_ids: Tensor | None = None,
    *,
    attention_mask: Tensor | None = None,
    cache_vision: CacheVision | None = None,
    **arguments: Any,
) -> tuple[Tensor, Any]:
    """Run a converted text encoder.

    Args:
        text_encoder: Qwen3-VL, after `convert_text_encoder`.
        input_ids: `[B, L]`.
        position_ids: `[3, B, L]`; None counts from zero.
        attention_mask: Bool `[1, 1, L, keys]`, which tokens see which; None: all that come before.
        cache_vision: Given what computes the vision tower's features, returns them, computed or cached; None
            computes them.
        **arguments: Further arguments of the model.

    Returns:
        States of the last layer before the final norm, `[B, L, D]`, and the keys and values.
    """
    model: Any = text_encoder
    if attention_mask is not None:
        like: Tensor = model.get_input_embeddings().weight
        bias = torch.zeros(attention_mask.shape, dtype=like.dtype)
        arguments["attention_mask"] = bias.masked_fill_(~attention_mask, float("-inf")).to(input_ids.device)
    run = _Run(cache_vision)
    token = _run.set(run)
    try:
        with torch.inference_mode() if can_infer(text_encoder, our_hooks=1) else nullcontext():
            # The whole model, not its inner part: offloading hooks sit there.
            output = model(input_ids=input_ids, position_ids=position_ids, logits_to_keep=1, **arguments)
    finally:
        _run.reset(token)
    assert run.states is not None
    # States are given to callers, who may want gradients from there on.
    states = run.states.clone() if run.states.is_inference() else run.states
    return states, output.past_key_values


def prepare_images(
    text_encoder: Qwen3VLForConditionalGeneration,
    processor: Any,
    images: Sequence[Image],
    device: torch.device,
) -> dict[str, Tensor]:
    """Return the vision tower's inputs, `pixel_values` and `image_grid_thw`; none without images."""
    if not images:
        return {}
    values = processor.image_processor(images=list(images), return_tensors="pt")
    dtype = next(text_encoder.parameters()).dtype
    return {
        "pixel_values": values["pixel_values"].to(device, dtype),
        "image_grid_thw": values["image_grid_thw"].to(device),
    }


def count_tokens(processor: Any, images: Sequence[Image]) -> list[int]:
    """Return the number of tokens of each image."""
    reader = processor.image_processor
    patches = (reader.get_number_of_image_patches(image.height, image.width, {}) for image in images)
    return [number // reader.merge_size**2 for number in patches]


def image_positions(
    text_encoder: Qwen3VLForConditionalGeneration, ids: Tensor, grid: Tensor
) -> tuple[Tensor, int]:
    """Return the positions of a conversation with images.

    Args:
        text_encoder: Qwen3-VL.
        ids: Tokens `[1, L]`, on the host: on a device it would wait for each of many small steps.
        grid: `image_grid_thw` of the images.

    Returns:
        Positions `[3, 1, L]`, and the position of the next token: an image takes fewer positions than tokens.
    """
    model: Any = text_encoder
    is_image = (ids == model.config.image_token_id).int()
    positions: Tensor = model.model.get_rope_index(ids, is_image, grid.cpu())[0]
    return positions, int(positions.max()) + 1


def fork_cache(cache: Any) -> Any:
    """Return keys and values to continue from, whose growth the original never sees."""
    fork = copy.copy(cache)
    fork.layers = [copy.copy(layer) for layer in cache.layers]
    return fork


def _conversions(text_encoder: Any) -> Iterator[tuple[nn.Module, type, type]]:
    """Return the modules that have a second way to run, each with the library's class and ours."""
    model = text_encoder.model
    yield model.language_model.norm, Qwen3VLTextRMSNorm, SkippableRMSNorm
    yield text_encoder.lm_head, nn.Linear, SkippableLinear
    yield model.visual.patch_embed.proj, nn.Conv3d, PatchConv3d
    yield model.visual, Qwen3VLVisionModel, CachedVisionModel
    for module in model.modules():
        yield module, nn.Linear, EncoderLinear


def _last_layer(text_encoder: Any) -> nn.Module:
    return text_encoder.model.language_model.layers[-1]


def _take_states(_module: nn.Module, _inputs: Any, output: Any) -> None:
    """Hand the last layer's states to the run of this thread, if there is one."""
    run = _run.get()
    if run is not None:
        run.states = output[0] if isinstance(output, tuple) else output
