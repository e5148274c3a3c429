"""Predict how much memory a training needs, before anything is loaded, and choose how it is kept low.

The prediction counts weights, adapter, optimizer and what the backward pass keeps; it adds a tenth for what allocators
waste.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from joyimage.acceleration.plans import PROCESS_BYTES, Machine, PipelineSize, choose_plan
from joyimage.devices import free_memory
from joyimage.errors import InvalidInputError, OutOfMemoryError
from joyimage.model.adapters.names import ATTENTION_MODULES, TARGET_MODULES
from joyimage.pipeline.components import build_empty_part, open_part
from joyimage.pipeline.streamed import measure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from joyimage.training.base_model import BaseModel
    from joyimage.training.config import TrainingConfig

_WASTE = 1.1
_CUDA_CONTEXT_BYTES = 700 * 2**20
# Bytes that the backward pass of a block keeps of a token, in widths of the stream, for an adapter on all layers, by
# precision of weights and computation. Counted with saved-tensor hooks: inputs of layers, norms, attention, GELU.
_KEPT_BYTES = {("bfloat16", "bfloat16"): 44, ("float32", "bfloat16"): 53, ("float32", "float32"): 78}
# Widths of gradients that are alive at once in a block's backward pass: those of the MLP and of the streams.
_GRADIENT_WIDTHS = 12
_BYTES_PER_OPTIMIZER = {"adamw": 8, "adamw8bit": 2, "prodigy": 16, "muon": 4}
_TEXT_TOKENS = 64  # of a caption with its template


@dataclass(frozen=True, kw_only=True)
class Savings:
    """How memory is kept low.

    Attributes:
        gradient_checkpointing: Whether blocks are recomputed in the backward pass.
        quantization: Format into which the frozen weights are quantized while loading, "none" for files that are
            decoded, None for the format of the files.
        offload: "none", or "block" or "disk" to stream the frozen blocks from host memory or from the weight files.
    """

    gradient_checkpointing: bool
    quantization: str | None = None
    offload: str = "none"

    def __str__(self) -> str:
        weights = "" if self.quantization in {None, "none"} else f", base in {self.quantization}"
        origin = {"none": "", "block": ", blocks from host memory", "disk": ", blocks from disk"}[
            self.offload
        ]
        return f"gradient checkpointing {'on' if self.gradient_checkpointing else 'off'}{weights}{origin}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Predicted bytes at the peak, on the device or on a CPU in the process, and how they are kept low.

    Attributes:
        base: The frozen weights of the transformer, and the VAE.
        adapter: Adapter, gradients and optimizer.
        activations: What the backward pass needs.
        encoding: Peak while text encoder and VAE encode the pairs, before the transformer is loaded.
        validation: What a sample edit needs beside base and adapter; 0 without validation.
        process: The process itself, which counts on a CPU.
        available: What the device has; None if it is unknown.
        host: Frozen blocks in host memory, of which an accelerator's blocks are streamed.
        host_available: Free host memory.
        savings: How memory is kept low.
        encoder_offload: How the text encoder is kept while pairs are encoded: "none", "block" or "disk".
        tokens: Tokens of the largest pair.
    """

    base: int
    adapter: int
    activations: int
    encoding: int = 0
    validation: int = 0
    process: int = 0
    available: int | None
    host: int = 0
    host_available: int = 0
    savings: Savings
    encoder_offload: str = "none"
    tokens: int

    @property
    def peak(self) -> int:
        """Predicted bytes at the peak."""
        training = self.base + self.adapter + max(self.activations, self.validation)
        return self.process + round(max(training, self.encoding) * _WASTE)

    @property
    def fits(self) -> bool:
        """Whether device and host have so much, as far as is known."""
        return self.host <= self.host_available and (self.available is None or self.peak <= self.available)

    def check(self) -> None:
        """Reject a run that does not fit.

        Raises:
            OutOfMemoryError: It does not; the message says what would.
        """
        if self.host > self.host_available:
            raise OutOfMemoryError(
                f"Training needs {_gb(self.host)} of host memory and {_gb(self.host_available)} are free"
                f" ({self.savings}): set `memory.offload` to 'disk'."
            )
        if not self.fits:
            raise OutOfMemoryError(
                f"Training needs about {_gb(self.peak)} and the device has {_gb(self.available or 0)}"
                f" ({self.savings}): {self._advice()}, or a device with more memory."
            )

    def _advice(self) -> str:
        if not self.savings.gradient_checkpointing:
            return "set `memory.gradient_checkpointing = true`"
        if self.savings.quantization in {None, "none"} and self.savings.offload == "none":
            return 'set `memory.quantization = "int8"` or "nf4"'
        return "use a smaller `train.batch_size` or `lora.rank`, or smaller images"

    def __str__(self) -> str:
        has = "unknown" if self.available is None else _gb(self.available)
        parts = {
            "base": self.base,
            "adapter and optimizer": self.adapter,
            f"activations of {self.tokens} tokens": self.activations,
            "process": self.process,
        }
        shown = ", ".join(f"{name} {_gb(size)}" for name, size in parts.items() if size)
        return f"Predicted peak {_gb(self.peak)} of {has}: {shown}; encoding {_gb(self.encoding)}; {self.savings}."


def plan_memory(
    config: TrainingConfig,
    base: BaseModel,
    largest: tuple[tuple[int, int], ...],
    device: str,
    *,
    num_processes: int = 1,
    previous: Mapping[str, Any] | None = None,
) -> MemoryPlan:
    """Predict the memory of a run, and choose the fastest way that fits.

    Args:
        config: The run.
        base: The model.
        largest: Width and height of each image of the largest pair.
        device: Device of the run.
        num_processes: Processes that share the frozen base.
        previous: Savings of the run that this one resumes, which it keeps unless the config has others; None for a
            new run.

    Returns:
        The plan; if none fits, the smallest.

    Raises:
        InvalidInputError: `lora.targets` names a layer that does not exist, or `memory.offload` does not go with
            the number of processes, or with the run that is resumed.
        OutOfMemoryError: The text encoder fits in no way.
    """
    offload = config.memory.offload
    if offload not in {None, "none"} and num_processes > 1:
        raise InvalidInputError(
            f"`memory.offload` is {offload!r} with {num_processes} processes, which share the blocks already; leave it"
            " out."
        )
    sizes = _Sizes(config, base, largest, device, num_processes)
    if previous is not None:
        return sizes.plan(_resumed(config, previous))
    plans: list[MemoryPlan] = []
    for savings in _candidates(config, base, device, num_processes):
        plans.append(sizes.plan(savings))
        # Where the memory is unknown, recomputing costs a third of the time and saves the most.
        is_cautious = plans[-1].available is not None or savings.gradient_checkpointing
        if plans[-1].fits and is_cautious:
            return plans[-1]
    return min(plans, key=lambda plan: plan.peak)


def _resumed(config: TrainingConfig, previous: Mapping[str, Any]) -> Savings:
    """Return the savings of a resumed run: its own, but for what the config asks for now.

    Raises:
        InvalidInputError: `memory.offload` does not go with the run's base.
    """
    memory = config.memory
    savings = Savings(**previous)
    if memory.quantization is not None:
        savings = replace(savings, quantization=memory.quantization)
    if memory.gradient_checkpointing is not None:
        savings = replace(savings, gradient_checkpointing=memory.gradient_checkpointing)
    if memory.offload is None:
        return savings
    if memory.offload == "disk" and savings.quantization not in {None, "none"}:
        raise InvalidInputError(
            f"`memory.offload` is 'disk', and the run that is resumed quantizes its base to {savings.quantization}"
            " while loading, which cannot be streamed from disk; leave `memory.offload` out."
        )
    is_streamed = memory.offload != "none"  # streamed blocks are recomputed in the backward pass
    return replace(
        savings,
        offload=memory.offload,
        gradient_checkpointing=savings.gradient_checkpointing or is_streamed,
    )


def _candidates(
    config: TrainingConfig, base: BaseModel, device: str, num_processes: int
) -> Iterator[Savings]:
    """Yield what the config leaves open, the fastest and most exact first."""
    memory = config.memory
    file = base.files.get("transformer")
    can_stream = num_processes == 1  # shards of several processes leave no whole blocks
    ways: list[tuple[str | None, str]] = [(None, "none")]
    if memory.quantization is not None or memory.offload is not None:
        ways = [(memory.quantization, memory.offload or "none")]
    else:
        is_quantized = file is not None and open_part(file, "transformer").is_quantized
        ways += [] if is_quantized else [("int8", "none")]
        ways += [(None, "block")] if can_stream and device.startswith("cuda") else []
        ways += [] if is_quantized else [("nf4", "none")]
        ways += [(None, "disk")] if can_stream else []
    for number, (quantization, offload) in enumerate(ways):
        for checkpointing in (False, True):
            # Recomputing loses nothing: it comes before everything else that is not asked for.
            is_needed = number > 0 or offload != "none"
            if checkpointing == memory.gradient_checkpointing or (
                memory.gradient_checkpointing is None and (checkpointing or not is_needed)
            ):
                yield Savings(
                    gradient_checkpointing=checkpointing, quantization=quantization, offload=offload
                )


class _Sizes:
    """What decides how much memory a run takes."""

    def __init__(
        self,
        config: TrainingConfig,
        base: BaseModel,
        largest: tuple[tuple[int, int], ...],
        device: str,
        num_processes: int,
    ) -> None:
        self._config = config
        self._device = torch.device(device)
        self._num_processes = num_processes
        self._computed = config.train.precision_on(device)
        # Frozen weights are fp32 on a CPU, where autocast does the rest.
        self._stored = "float32" if device == "cpu" else self._computed
        self._base_model = base
        transformer = build_empty_part(base.folder / "transformer", "transformer")
        self._num_trained = _count_trained(transformer, config)
        self._blocks = len(transformer.double_blocks)
        self._block_weights = sum(one.numel() for one in transformer.double_blocks[0].parameters())
        self._width: int = transformer.settings.hidden_size
        self._heads: int = transformer.settings.num_attention_heads
        # A token is 16 pixels wide; the encoder's states hold one token per 32 pixels of each reference.
        self._tokens = sum((side[0] // 16) * (side[1] // 16) for side in largest) + _TEXT_TOKENS
        self._tokens += sum((side[0] // 32) * (side[1] // 32) for side in largest[:-1])
        self._available = _available(config, self._device)
        self._host_available = free_memory(torch.device("cpu")).host

    def plan(self, savings: Savings) -> MemoryPlan:
        """Return the plan with these savings."""
        config = self._config
        bytes_per_trained = (
            4 + 4 + _BYTES_PER_OPTIMIZER[config.train.optimizer] + (4 if config.train.ema else 0)
        )
        encoding, encoder_offload = self._encoding()
        size = self._size(savings.quantization)
        is_hosted = savings.offload == "block"
        return MemoryPlan(
            base=self._base(savings),
            adapter=self._num_trained * bytes_per_trained,
            activations=self._activations(savings),
            encoding=encoding,
            validation=size.activation_bytes if config.validate.every else 0,
            process=PROCESS_BYTES if self._device.type == "cpu" else 0,
            available=self._available,
            host=size.parts["transformer"].num_bytes if is_hosted else 0,
            host_available=self._host_available,
            savings=savings,
            encoder_offload=encoder_offload,
            tokens=self._tokens * config.train.batch_size,
        )

    @cache  # noqa: B019 - lives as long as the plan is made
    def _size(self, quantization: str | None) -> PipelineSize:
        base = self._base_model
        dtype = getattr(torch, self._stored)
        return measure(base.folder, dtype, files=base.files, quantization=quantization)

    def _base(self, savings: Savings) -> int:
        size = self._size(savings.quantization)
        part = size.parts["transformer"]
        vae = size.parts["vae"].num_bytes
        if savings.offload != "none":
            return part.resident_bytes + part.window_bytes + vae
        if self._num_processes > 1:
            sharded = (part.num_bytes - part.resident_bytes) // self._num_processes
            return part.resident_bytes + sharded + part.window_bytes + vae
        return part.num_bytes + vae

    def _activations(self, savings: Savings) -> int:
        batch = self._config.train.batch_size
        values = self._tokens * batch * self._width
        bytes_per_value = 2 if self._computed == "bfloat16" else 4
        kept = values * _KEPT_BYTES[self._stored, self._computed]
        passing = values * _GRADIENT_WIDTHS * bytes_per_value
        passing += self._size(savings.quantization).parts["transformer"].decoded_bytes
        if self._device.type == "cpu":  # attention is computed step by step there
            scores = batch * self._heads * self._tokens**2 * bytes_per_value
            kept += scores
            passing += 2 * scores
        if self._stored != self._computed:  # autocast's copies of the weights
            kept += self._block_weights * bytes_per_value
        if not savings.gradient_checkpointing:
            return kept * self._blocks + passing
        return kept + passing + values * (2 if self._stored == "bfloat16" else 4) * self._blocks

    def _encoding(self) -> tuple[int, str]:
        """Return the peak while pairs are encoded, and how the text encoder is kept."""
        whole = self._size(None)
        parts = {name: part for name, part in whole.parts.items() if name != "transformer"}
        size = replace(whole, parts=parts)
        memory = self._available if self._available is not None else 2**62
        is_cpu = self._device.type == "cpu"
        machine = Machine(
            device=self._device.type,
            device_bytes=memory,
            host_bytes=memory if is_cpu else self._host_available,
        )
        offloads = ["none", "disk"] if is_cpu else ["none", "block", "disk"]
        try:
            plan = choose_plan(size, machine, offloads)
        except OutOfMemoryError:
            plan = choose_plan(size, replace(machine, device_bytes=2**62, host_bytes=2**62), offloads[-1:])
        num_bytes = plan.host_bytes - PROCESS_BYTES if is_cpu else plan.device_bytes
        return num_bytes, plan.offload


def target_modules(targets: str | tuple[str, ...]) -> list[str]:
    """Return the layers that an adapter is put on: names as LoraConfig's `target_modules` takes them.

    Args:
        targets: "blocks", "attention", or names.
    """
    if isinstance(targets, tuple):
        return list(targets)
    return list(TARGET_MODULES if targets == "blocks" else ATTENTION_MODULES)


def _count_trained(transformer: torch.nn.Module, config: TrainingConfig) -> int:
    """Return the number of values of an adapter.

    Raises:
        InvalidInputError: `lora.targets` names a layer that does not exist.
    """
    layers = {name: one for name, one in transformer.named_modules() if isinstance(one, torch.nn.Linear)}
    targets = target_modules(config.lora.targets)
    for target in targets:
        if not any(_is_target(name, [target]) for name in layers):
            raise InvalidInputError(
                f"`lora.targets` has {target!r}, which names no layer of this transformer; expected names such as"
                f" {', '.join(TARGET_MODULES)}."
            )
    return sum(
        config.lora.rank * (layer.in_features + layer.out_features)
        for name, layer in layers.items()
        if _is_target(name, targets)
    )


def _is_target(name: str, targets: list[str]) -> bool:
    return any(name == one or name.endswith(f".{one}") for one in targets)


def _available(config: TrainingConfig, device: torch.device) -> int | None:
    """Return the bytes that a run may use: those of the preset, or what the device has free."""
    if config.memory.preset != "auto":
        return int(config.memory.preset) * 10**9
    if device.type == "cuda":
        return free_memory(device).device - _CUDA_CONTEXT_BYTES
    return free_memory(device).host if device.type == "cpu" else None


def _gb(num_bytes: int) -> str:
    value = num_bytes / 1e9
    return f"{value:.{max(0, 1 - math.floor(math.log10(value))) if 0 < value < 10 else 0}f} GB"
