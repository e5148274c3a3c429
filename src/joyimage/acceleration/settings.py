"""Choose the fast paths of a pipeline or a transformer, once, and keep the choice on the transformer."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from diffusers.utils import logging

from joyimage.acceleration.attention import JointBufferAttnProcessor
from joyimage.acceleration.conditions import can_infer
from joyimage.acceleration.ops import TorchOps, TritonOps
from joyimage.compat.diffusers import keep_attention_settings
from joyimage.compat.torch import without_compiler
from joyimage.errors import InvalidInputError, InvalidTypeError
from joyimage.model.attention import JointAttnProcessor
from joyimage.model.ops import PLAIN_OPS, TransformerOps
from joyimage.model.transformer import JoyImageEditTransformer3DModel

if TYPE_CHECKING:
    from collections.abc import Mapping

KERNELS_VARIABLE = "JOYIMAGE_KERNELS"
OPS = ("auto", "plain", "torch", "triton")
ATTENTIONS = ("auto", "plain", "joint_buffer")

_PROCESSORS = (JointAttnProcessor, JointBufferAttnProcessor)

logger = logging.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Acceleration:
    """What `accelerate` chose for a transformer.

    Attributes:
        ops: Operations between the matmuls: "plain", "torch" or "triton".
        attention: Attention processor: "plain", "joint_buffer" or "custom".
        forward_cache: Whether the forwards of an edit share what they have in common.
        skipped: What was not chosen, and the reason.
    """

    ops: str
    attention: str
    forward_cache: bool
    skipped: Mapping[str, str]


def accelerate(
    target: Any, *, ops: str = "auto", attention: str = "auto", forward_cache: bool = True
) -> Acceleration:
    """Choose the fast paths of a pipeline or a transformer.

    Pipelines call this with its defaults when they are built. Call it again at any time: the last call counts,
    and `accelerate(pipe, ops="plain", attention="plain", forward_cache=False)` runs the plain network.
    Results agree with the plain ones as docs/numerics.md says.

    Args:
        target: A pipeline, or its transformer.
        ops: Operations between the matmuls. "plain": the network's own. "torch": torch's short cuts. "triton":
            fused kernels on any device. "auto": kernels on a GPU, torch's short cuts elsewhere, unless the
            environment variable JOYIMAGE_KERNELS says "torch" or "triton".
        attention: "plain": the network's own processor. "joint_buffer": both streams write into one buffer.
            "auto": "joint_buffer", except where the caller has set a processor of another class.
        forward_cache: Whether steps and guidance branches share what they have in common.

    Returns:
        What was chosen.

    Raises:
        InvalidInputError: A name is not accepted, or "triton" is asked for and Triton is not installed.
        InvalidTypeError: The target has no JoyImage transformer.
    """
    transformer = find_transformer(target)
    _check("attention", attention, ATTENTIONS)
    skipped: dict[str, str] = {}
    chosen_ops = _choose_ops(ops, skipped)
    transformer.set_ops(chosen_ops)
    name = _set_processors(transformer, attention, skipped)
    settings = Acceleration(
        ops=name_of(chosen_ops), attention=name, forward_cache=forward_cache, skipped=skipped
    )
    transformer.acceleration = settings
    return settings


def accelerate_new(transformer: Any) -> None:
    """Accelerate the transformer of a new pipeline, unless that has been chosen for it before."""
    if isinstance(transformer, JoyImageEditTransformer3DModel) and settings_of(transformer) is None:
        accelerate(transformer)


def settings_of(transformer: Any) -> Acceleration | None:
    """Return what `accelerate` chose for a transformer; None if it was never called."""
    settings = getattr(transformer, "acceleration", None)
    return settings if isinstance(settings, Acceleration) else None


def caches_forwards(transformer: Any) -> bool:
    """Return whether the denoising loop gives a transformer a `ForwardCache`."""
    settings = settings_of(transformer)
    return settings is None or settings.forward_cache


def runs_in_inference(transformer: Any) -> bool:
    """Return whether the steps of an edit run a transformer in torch's inference mode; see `can_infer`."""
    return (
        isinstance(transformer, JoyImageEditTransformer3DModel)  # and not in the wrapper of `torch.compile`
        and can_infer(transformer)
        and all(type(block.attn.processor) in _PROCESSORS for block in transformer.blocks)
    )


def name_of(ops: TransformerOps) -> str:
    """Return the name that `accelerate` knows operations by."""
    if isinstance(ops, TritonOps):
        return "triton"
    return "torch" if isinstance(ops, TorchOps) else "plain"


def find_transformer(target: Any) -> JoyImageEditTransformer3DModel:
    """Return the transformer of a pipeline, or a transformer itself, without `torch.compile`'s wrapper.

    Raises:
        InvalidTypeError: The target has none.
    """
    transformer = without_compiler(getattr(target, "transformer", target))
    if not isinstance(transformer, JoyImageEditTransformer3DModel):
        raise InvalidTypeError(
            f"`target` is a {type(target).__name__}; expected a JoyImage pipeline or its transformer."
        )
    return transformer


def _choose_ops(name: str, skipped: dict[str, str]) -> TransformerOps:
    _check("ops", name, OPS)
    has_triton = importlib.util.find_spec("triton") is not None
    if name == "triton" and not has_triton:
        raise InvalidInputError(
            '`ops` is "triton", but Triton is not installed: install it, or choose "auto" or "torch".'
        )
    if name == "auto":
        name = os.environ.get(KERNELS_VARIABLE, "auto")
        _check(KERNELS_VARIABLE, name, ("auto", "torch", "triton"))
        if name == "torch":
            skipped["kernels"] = f"{KERNELS_VARIABLE} is torch"
        elif not has_triton:
            skipped["kernels"] = "Triton is not installed"
            if name == "triton" or torch.cuda.is_available():
                logger.warning("Triton is not installed: plain torch runs in place of the fused kernels.")
            name = "torch"
    if name == "plain":
        return PLAIN_OPS
    return TorchOps() if name == "torch" else TritonOps(on_any_device=name == "triton")


def _set_processors(transformer: JoyImageEditTransformer3DModel, name: str, skipped: dict[str, str]) -> str:
    """Give every block the processor of that name, keep its attention backend, and return the name."""
    blocks = transformer.blocks
    others = {
        type(block.attn.processor).__name__
        for block in blocks
        if type(block.attn.processor) not in _PROCESSORS
    }
    if name == "auto" and others:
        skipped["attention"] = f"the caller's processor {', '.join(sorted(others))} stays"
        return "custom"
    processor_class = JointAttnProcessor if name == "plain" else JointBufferAttnProcessor
    for block in blocks:
        processor = processor_class()
        keep_attention_settings(block.attn.processor, processor)
        block.attn.set_processor(cast("Any", processor))
    return "plain" if name == "plain" else "joint_buffer"


def _check(argument: str, value: object, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise InvalidInputError(f"`{argument}` is {value!r}; expected one of {', '.join(accepted)}.")
