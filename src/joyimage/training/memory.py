"""Predict how much memory a training needs, before anything is loaded.

The prediction counts weights, adapter, optimizer and the activations that the backward pass keeps; it adds a tenth for
what allocators waste.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
import torch

from joyimage.errors import InvalidInputError, OutOfMemoryError
from joyimage.model.adapters.names import ATTENTION_MODULES, TARGET_MODULES
from joyimage.model.checkpoint.headers import read_json
from joyimage.model.transformer import JoyImageEditTransformer3DModel

if TYPE_CHECKING:
    from pathlib import Path

    from joyimage.training.config import TrainingConfig

_WASTE = 1.1
_CUDA_CONTEXT_BYTES = 700 * 2**20
# Values of one token of a stream that a block's backward pass needs, in widths of the stream: inputs of the linear
# layers, norms, attention's q, k, v and output, both sides of the GELU.
_KEPT_WIDTHS = 26
_BYTES_PER_OPTIMIZER = {"adamw": 8, "adamw8bit": 2, "prodigy": 16, "muon": 4}
_TEXT_TOKENS = 64  # of a caption with its template


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Predicted bytes on the device at the peak, and how they are kept low.

    Attributes:
        base: The frozen weights.
        adapter: Adapter, gradients and optimizer.
        activations: What the backward pass needs.
        available: What the device has; None if it is unknown.
        gradient_checkpointing: Whether blocks are recomputed in the backward pass.
        tokens: Tokens of the largest pair.
    """

    base: int
    adapter: int
    activations: int
    available: int | None
    gradient_checkpointing: bool
    tokens: int

    @property
    def peak(self) -> int:
        """Predicted bytes at the peak."""
        return round((self.base + self.adapter + self.activations) * _WASTE)

    def check(self) -> None:
        """Reject a run that does not fit.

        Raises:
            OutOfMemoryError: It does not; the message says what would.
        """
        if self.available is not None and self.peak > self.available:
            advice = (
                "use a smaller `train.batch_size` or `lora.rank`, or a device with more memory"
                if self.gradient_checkpointing
                else "set `memory.gradient_checkpointing = true`, or use a smaller `train.batch_size`"
            )
            raise OutOfMemoryError(
                f"Training needs about {_gb(self.peak)} and the device has {_gb(self.available)}: {advice}."
            )

    def __str__(self) -> str:
        has = "unknown" if self.available is None else _gb(self.available)
        return (
            f"Predicted peak {_gb(self.peak)} of {has}: base {_gb(self.base)}, adapter and optimizer "
            f"{_gb(self.adapter)}, activations {_gb(self.activations)} for {self.tokens} tokens, gradient"
            f" checkpointing {'on' if self.gradient_checkpointing else 'off'}."
        )


def plan_memory(
    config: TrainingConfig,
    folder: Path,
    largest: tuple[tuple[int, int], ...],
    device: str,
    num_processes: int = 1,
) -> MemoryPlan:
    """Predict the memory of a run.

    Args:
        config: The run.
        folder: Folder of the checkpoint, of which the transformer's config is read.
        largest: Width and height of each image of the largest pair.
        device: Device of the run.
        num_processes: Processes that share the frozen base.

    Raises:
        InvalidInputError: `lora.targets` names a layer that does not exist.
    """
    settings = read_json(folder / "transformer" / "config.json")
    with torch.device("meta"):
        transformer: Any = JoyImageEditTransformer3DModel.from_config(settings)
    num_weights = sum(parameter.numel() for parameter in transformer.parameters())
    blocks = len(transformer.double_blocks)
    width = transformer.settings.hidden_size
    is_half = config.train.dtype == "bfloat16"
    bytes_per_weight = 2 if is_half and device != "cpu" else 4
    layers = [name for name, layer in transformer.named_modules() if isinstance(layer, torch.nn.Linear)]
    for target in target_modules(config.lora.targets):
        if not any(_is_target(name, (target,)) for name in layers):
            raise InvalidInputError(
                f"`lora.targets` has {target!r}, which names no layer of this transformer; expected names such as"
                f" {', '.join(TARGET_MODULES)}."
            )
    rank = config.lora.rank
    num_trained = sum(
        rank * (layer.in_features + layer.out_features)
        for name, layer in transformer.named_modules()
        if isinstance(layer, torch.nn.Linear) and _is_target(name, config.lora.targets)
    )
    # One latent is 8 pixels, a token 2 latents; the encoder's states hold one token per 32 pixels of each reference.
    image_tokens = sum((side[0] // 16) * (side[1] // 16) for side in largest)
    text_tokens = _TEXT_TOKENS + sum((side[0] // 32) * (side[1] // 32) for side in largest[:-1])
    tokens = (image_tokens + text_tokens) * config.train.batch_size
    bytes_per_value = 2 if is_half else 4
    per_block = tokens * width * bytes_per_value * _KEPT_WIDTHS
    if device == "cpu":  # attention is computed step by step there
        heads = transformer.settings.num_attention_heads
        per_block += config.train.batch_size * heads * (image_tokens + text_tokens) ** 2 * bytes_per_value * 2
    whole = per_block * blocks
    recomputed = per_block + tokens * width * bytes_per_value * blocks
    base = num_weights * bytes_per_weight // num_processes
    adapter = num_trained * (
        4 + 4 + _BYTES_PER_OPTIMIZER[config.train.optimizer] + (4 if config.train.ema else 0)
    )
    available = _available(config, device)
    checkpointing = config.memory.gradient_checkpointing
    if checkpointing is None:
        checkpointing = available is None or (base + adapter + whole) * _WASTE > available
    return MemoryPlan(
        base=base,
        adapter=adapter,
        activations=recomputed if checkpointing else whole,
        available=available,
        gradient_checkpointing=checkpointing,
        tokens=tokens,
    )


def target_modules(targets: str | tuple[str, ...]) -> list[str]:
    """Return the layers that an adapter is put on: names as LoraConfig's `target_modules` takes them.

    Args:
        targets: "blocks", "attention", or names.
    """
    if isinstance(targets, tuple):
        return list(targets)
    return list(TARGET_MODULES if targets == "blocks" else ATTENTION_MODULES)


def _is_target(name: str, targets: str | tuple[str, ...]) -> bool:
    return any(name == one or name.endswith(f".{one}") for one in target_modules(targets))


def _available(config: TrainingConfig, device: str) -> int | None:
    """Return the bytes that a run may use: those of the preset, or what the device has free."""
    if config.memory.preset != "auto":
        return int(config.memory.preset) * 10**9
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0] - _CUDA_CONTEXT_BYTES
    return psutil.virtual_memory().available if device == "cpu" else None


def _gb(num_bytes: int) -> str:
    value = num_bytes / 1e9
    return f"{value:.{max(0, 1 - math.floor(math.log10(value))) if 0 < value < 10 else 0}f} GB"
