"""Memory plans: where the weights of a pipeline are while it runs, chosen from what is free.

A plan states its predicted peak before anything is loaded. All sizes are in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from joyimage.errors import OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OFFLOADS = ("none", "model", "block", "disk")
"""Memory plans, the fastest first.

"none" keeps all parts on the device. "model" keeps them in host memory and moves one part at a time. "block"
keeps them in host memory and streams blocks. "disk" streams blocks from the weight files.
"""

GIB = 2**30
PROCESS_BYTES = 800 * 2**20
"""Host memory of a process with torch, diffusers and transformers loaded. Measured on Linux, CPU build."""

_CUDA_CONTEXT_BYTES = 700 * 2**20
_TOKEN_WIDTHS = 12
"""Widths of the model that a token takes at the peak of a block: residual, normalized, MLP hidden twice."""

_PIXEL_CHANNELS = 6
"""Feature maps of the VAE's first width that are alive at once, at full resolution."""

BYTES_PER_WEIGHT = {"int8": 1.01, "fp8": 1.0, "nf4": 0.57}
"""Bytes of a weight in each format, scales included."""

DECODING_BYTES = 8
"""Bytes that a quantized weight takes while it is decoded, beside the result: fp32 values, before and after a
rotation."""

_BYTES_PER_SECOND = {"block": 12e9, "disk": 1e9}
"""What the expected time assumes of PCIe 4.0 with 16 lanes, and of a solid-state disk; assumed, not measured."""

_SAFETY = 0.95
"""Share of the free memory that a plan may use: other programs and fragmentation take some."""


@dataclass(frozen=True, kw_only=True)
class PartSize:
    """Size of a part of a pipeline.

    Attributes:
        num_bytes: All weights, in the precision that they run in.
        resident_bytes: Weights outside of any block, which no plan moves during an edit.
        window_bytes: Blocks that are on the device at once when the part is streamed: one that runs and the next
            one on its way; 0 for a part that is not streamed.
        layer_bytes: The largest layer outside of any list of blocks that is streamed by itself, such as a vocabulary.
        decoded_bytes: What decoding the largest quantized layer takes; 0 if no layer is quantized.
        window_source_bytes: The block on its way as its file stores it; 0 where it runs in that form.
        layer_source_bytes: That layer as its file stores it; 0 where it runs in that form.
        read_bytes: Blocks as their files store them.
        mapped_bytes: Vocabularies that run as their files store them: where they stay mapped, an edit reads a few
            rows of them only.
    """

    num_bytes: int
    resident_bytes: int
    window_bytes: int = 0
    layer_bytes: int = 0
    decoded_bytes: int = 0
    window_source_bytes: int = 0
    layer_source_bytes: int = 0
    read_bytes: int = 0
    mapped_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class PipelineSize:
    """What decides how much memory an edit takes.

    Attributes:
        parts: Size of each part by its name.
        base_size: Side in pixels of the square bucket that all buckets derive from.
        hidden_size: Width of the transformer.
        text_tokens: Tokens of a prompt with its image.
        vae_width: Channels of the VAE's first convolution.
        dtype_bytes: Bytes of a number.
    """

    parts: Mapping[str, PartSize]
    base_size: int
    hidden_size: int
    vae_width: int
    dtype_bytes: int
    text_tokens: int = 1100

    @property
    def num_bytes(self) -> int:
        """All weights."""
        return sum(part.num_bytes for part in self.parts.values())

    @property
    def activation_bytes(self) -> int:
        """Peak of what is computed, beside the weights, for one image with one reference."""
        return max((self._computed_bytes(part) for part in self.parts.values()), default=0)

    def streamed_bytes(self, *, on_cpu: bool) -> int:
        """Return the peak of blocks and of what they compute, where they are streamed.

        On a CPU what their files hold is mapped in the same memory, and so are the freed activations of both guidance
        branches: each runs in a thread of its own, for which the C library keeps them.

        Args:
            on_cpu: Whether they run in host memory.
        """
        peaks = [0]
        for part in self.parts.values():
            in_block, alone = part.window_bytes, part.layer_bytes
            if on_cpu:
                in_block, alone = in_block + part.window_source_bytes, alone + part.layer_source_bytes
            peaks += [in_block + self._computed_bytes(part, 2 if on_cpu else 1), alone]
        return max(peaks)

    def _computed_bytes(self, part: PartSize, num_branches: int = 1) -> int:
        tokens = 2 * (self.base_size // 16) ** 2 + self.text_tokens
        in_block = num_branches * tokens * self.hidden_size * _TOKEN_WIDTHS
        in_vae = self.base_size**2 * self.vae_width * _PIXEL_CHANNELS
        return max(in_block * self.dtype_bytes + part.decoded_bytes, in_vae * self.dtype_bytes)

    def sliced(self, name: str, num_parts: int) -> PipelineSize:
        """Return the size with the blocks of a part divided between processes.

        Args:
            name: Name of the part.
            num_parts: Number of processes; each has a slice of the blocks and all that is outside of them.
        """
        part = self.parts[name]
        blocks = part.num_bytes - part.resident_bytes
        sliced = replace(
            part,
            num_bytes=part.resident_bytes + -(-blocks // num_parts),
            window_bytes=-(-part.window_bytes // num_parts),
        )
        return replace(self, parts={**self.parts, name: sliced})


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Free memory.

    Attributes:
        device: "cuda", "xpu", "mps" or "cpu".
        device_bytes: Free memory of the device; 0 on the CPU, which has the host's.
        host_bytes: Free memory of the machine.
    """

    device: str
    device_bytes: int
    host_bytes: int


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Where the weights are, and what that takes.

    Attributes:
        offload: One of `OFFLOADS`.
        device_bytes: Predicted peak on the device; 0 on the CPU.
        host_bytes: Predicted peak of host memory.
        moved_bytes: Weights that are moved to the device, or read from disk, in each step.
        reason: Why a faster plan was not chosen; empty if there is none or the plan was requested.
    """

    offload: str
    device_bytes: int
    host_bytes: int
    moved_bytes: int = 0
    reason: str = ""

    @property
    def transfer_seconds(self) -> float:
        """Expected seconds per step for moving weights, at the assumed speed; computing comes on top."""
        return self.moved_bytes / _BYTES_PER_SECOND[self.offload] if self.moved_bytes else 0.0

    def __str__(self) -> str:
        peak = [f"{self.device_bytes / 1e9:.1f} GB of device memory"] if self.device_bytes else []
        peak.append(f"{self.host_bytes / 1e9:.1f} GB of host memory")
        text = f"Memory plan {self.offload!r}: predicted peak {' and '.join(peak)}"
        if self.moved_bytes:
            origin = "reads from disk" if self.offload == "disk" else "moves to the device"
            speed = _BYTES_PER_SECOND[self.offload] / 1e9
            text += (
                f"; each step {origin} {self.moved_bytes / 1e9:.1f} GB, {self.transfer_seconds:.1f} s at"
                f" {speed:.0f} GB/s, beside which computing takes its own time"
            )
        return f"{text}. {self.reason}".strip() if self.reason else f"{text}."


def predict(offload: str, size: PipelineSize, device: str) -> MemoryPlan:
    """Return a plan with its predicted peaks.

    Args:
        offload: One of `OFFLOADS`.
        size: Size of the pipeline.
        device: "cuda", "xpu", "mps" or "cpu".
    """
    blocks = [part for part in size.parts.values() if part.window_bytes]
    whole = size.num_bytes
    others = whole - sum(part.num_bytes - part.resident_bytes for part in blocks)
    transformer = size.parts.get("transformer")
    on_device = {
        "none": whole + size.activation_bytes,
        "model": max((part.num_bytes for part in size.parts.values()), default=0) + size.activation_bytes,
        "block": others + size.streamed_bytes(on_cpu=False),
        "disk": others + size.streamed_bytes(on_cpu=device == "cpu"),
    }[offload]
    moved = 0
    if transformer is not None and offload in {"block", "disk"}:
        in_blocks = transformer.num_bytes - transformer.resident_bytes
        moved = in_blocks if offload == "block" else transformer.read_bytes or in_blocks
    if device == "cpu":
        if offload == "none":
            on_device -= sum(part.mapped_bytes for part in size.parts.values())
        return MemoryPlan(
            offload=offload, device_bytes=0, host_bytes=PROCESS_BYTES + on_device, moved_bytes=moved
        )
    window = max((max(part.window_bytes, part.layer_bytes) for part in blocks), default=0)
    on_host = {"none": 0, "model": whole, "block": whole, "disk": window}[offload]
    return MemoryPlan(
        offload=offload,
        device_bytes=on_device + (_CUDA_CONTEXT_BYTES if device == "cuda" else 0),
        host_bytes=PROCESS_BYTES + on_host,
        moved_bytes=moved,
    )


def candidates(device: str) -> tuple[str, ...]:
    """Return the plans that a device can run, the fastest first."""
    # On the CPU the host's memory is the device's: there is nothing to move but from disk.
    return ("none", "disk") if device == "cpu" else OFFLOADS


def choose_plan(size: PipelineSize, machine: Machine, offloads: Sequence[str] | None = None) -> MemoryPlan:
    """Return the fastest plan that fits.

    Args:
        size: Size of the pipeline.
        machine: Free memory.
        offloads: Plans that can run, the fastest first; all of the device's if None.

    Raises:
        OutOfMemoryError: No plan fits; the message says what the smallest one needs.
    """
    plans = [predict(offload, size, machine.device) for offload in offloads or candidates(machine.device)]
    reason = ""
    for plan in plans:
        if _fits(plan, machine):
            return replace(plan, reason=reason)
        reason = reason or (f"All parts on the device would take {_needs(plan)}, and {_has(machine)} free.")
    raise OutOfMemoryError(
        f"The model does not fit: the smallest memory plan, `offload` {plans[-1].offload!r}, takes"
        f" {_needs(plans[-1])}, and {_has(machine)} free. Close other programs, or use a smaller `base_size`."
    )


def next_plan(offload: str, offloads: Sequence[str]) -> str | None:
    """Return the plan to try when one has run out of memory, or None after the last.

    Args:
        offload: The plan that ran out of memory.
        offloads: Plans that can run, the fastest first.
    """
    following = offloads[offloads.index(offload) + 1 :]
    return following[0] if following else None


def _fits(plan: MemoryPlan, machine: Machine) -> bool:
    return (
        plan.device_bytes <= _SAFETY * machine.device_bytes or machine.device == "cpu"
    ) and plan.host_bytes <= _SAFETY * machine.host_bytes


def _needs(plan: MemoryPlan) -> str:
    parts = [f"{plan.device_bytes / 1e9:.1f} GB on the device"] if plan.device_bytes else []
    return " and ".join([*parts, f"{plan.host_bytes / 1e9:.1f} GB of host memory"])


def _has(machine: Machine) -> str:
    parts = [f"{machine.device_bytes / 1e9:.1f} GB of it"] if machine.device != "cpu" else []
    return " and ".join([*parts, f"{machine.host_bytes / 1e9:.1f} GB of host memory"]) + " are"
