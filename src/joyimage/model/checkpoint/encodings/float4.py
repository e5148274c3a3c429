"""Weights in four bits: E2M1 with a scale per 16 inputs ("nvfp4"), and normal quantiles per 64 values ("nf4").

Dimension key: N output features, K input features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from joyimage.model.checkpoint.encodings.base import WEIGHT
from joyimage.model.checkpoint.encodings.float8 import tile, untile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from joyimage.model.checkpoint.encodings.base import Shape

_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
_E2M1_LARGEST = 6.0
# Where the nearest number changes. Halfway lies what has an even code, so each second border is moved down by a step.
_E2M1_BORDERS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)

NV_BLOCK = 16
"""Number of inputs that share a scale in nvfp4."""

NF4_STATE = ".quant_state.bitsandbytes__nf4"
"""Suffix of the tensor with the settings of an nf4 weight, as bitsandbytes writes them."""

NF4_BLOCK = 64
"""Number of values that share a scale in nf4 files that joyimage writes."""

_NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""Source: QLoRA, arXiv 2305.14314, appendix E."""


def unpack_nibbles(packed: Tensor, *, high_first: bool) -> Tensor:
    """Return the two halves of each byte side by side, `[..., 2 * n]` from `[..., n]`.

    Args:
        packed: Bytes.
        high_first: Whether the even elements are in the high halves.
    """
    low, high = packed & 15, packed >> 4
    return torch.stack((high, low) if high_first else (low, high), dim=-1).flatten(-2)


@dataclass(frozen=True)
class Nvfp4:
    """E2M1 values with an fp8 scale per 16 inputs and an fp32 scale per matrix.

    Attributes:
        comfy: The layout of ComfyUI: even elements in the high halves of bytes, and scales in tiles. Otherwise
            that of ModelOpt: even elements in the low halves, and scales in rows and columns.
    """

    comfy: bool

    @property
    def name(self) -> str:
        """Name of the format."""
        return "nvfp4"

    def shape(self, parts: Mapping[str, Shape]) -> Shape:
        """Return the shape of the values, from the shapes of the stored tensors."""
        num_rows, num_bytes = parts[WEIGHT]
        return (num_rows, 2 * num_bytes)

    def decode(self, parts: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Return the values in `dtype`; the scales are rounded to it before they are multiplied."""
        stored = parts[WEIGHT]  # [N, K / 2]
        codes = unpack_nibbles(stored, high_first=self.comfy)
        table = torch.tensor(_E2M1, dtype=dtype, device=stored.device)
        values = torch.unflatten(table[codes.int()], 1, (-1, NV_BLOCK))  # [N, K / 16, 16]
        scale = parts["_scale"]
        if self.comfy:
            scale = untile(scale, values.shape[0], values.shape[1])
        scale = parts["_scale_2"].to(dtype) * scale.to(dtype)  # [N, K / 16]
        matrix = (values * scale.unsqueeze(-1)).flatten(1)
        if ".pre_quant_scale" in parts:  # what the layer's inputs are multiplied with
            matrix = matrix * parts[".pre_quant_scale"].to(dtype).reshape(1, -1)
        return matrix

    @classmethod
    def encode(cls, weight: Tensor) -> tuple[Nvfp4, dict[str, Tensor]]:
        """Return the encoding of ComfyUI and the tensors that store a matrix.

        Args:
            weight: Matrix [N, K]; K is a multiple of 16.
        """
        largest = torch.finfo(torch.float8_e4m3fn).max
        blocks = torch.unflatten(weight.float(), 1, (-1, NV_BLOCK))  # [N, K / 16, 16]
        whole = (weight.float().abs().amax() / (largest * _E2M1_LARGEST)).clamp_min(1e-30)  # []
        peak = blocks.abs().amax(dim=2) / _E2M1_LARGEST
        scale = (peak / whole).clamp(max=largest).to(torch.float8_e4m3fn)  # [N, K / 16]
        divisor = (whole * scale.float()).unsqueeze(-1)
        scaled = torch.where(divisor == 0, 0.0, blocks / divisor)
        borders = torch.tensor(_E2M1_BORDERS)
        borders[1::2] = borders[1::2].nextafter(torch.zeros(3))
        codes = torch.bucketize(scaled.abs(), borders.to(scaled.device)) | (torch.signbit(scaled).long() << 3)
        high, low = codes.to(torch.uint8).reshape(weight.shape[0], -1, 2).unbind(2)
        return cls(comfy=True), {
            WEIGHT: (high << 4) | low,
            "_scale": tile(scale.view(torch.uint8)).view(torch.float8_e4m3fn),
            "_scale_2": whole,
        }

    def marker(self) -> dict[str, Any] | None:
        """Return the content of `.comfy_quant`, which only ComfyUI's layout has."""
        return {"format": self.name} if self.comfy else None


@dataclass(frozen=True)
class Nf4:
    """Codes of normal quantiles and a scale per block of values, as bitsandbytes stores them.

    Attributes:
        values_shape: Shape of the values.
        block_size: Number of values that share a scale.
        nested: Settings of scales that are stored in eight bits: block size and offset; None for fp32 scales.
        dtype: Precision of the values before they were quantized.
    """

    values_shape: Shape
    block_size: int = NF4_BLOCK
    nested: tuple[int, float] | None = None
    dtype: str = "bfloat16"

    @property
    def name(self) -> str:
        """Name of the format."""
        return "nf4"

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Nf4:
        """Read the settings that bitsandbytes writes beside a weight.

        Args:
            state: Content of the JSON object.

        Raises:
            KeyError: A setting is missing.
        """
        nested = None
        if "nested_blocksize" in state:
            nested = (int(state["nested_blocksize"]), float(state["nested_offset"]))
        return cls(
            tuple(state["shape"]), int(state["blocksize"]), nested, str(state.get("dtype", "bfloat16"))
        )

    def shape(self, parts: Mapping[str, Shape]) -> Shape:  # noqa: ARG002 - the stored shape is flat
        """Return the shape of the values, which the stored tensors don't tell."""
        return self.values_shape

    def decode(self, parts: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Return the values in `dtype`; they are computed in fp32."""
        codes = unpack_nibbles(parts[WEIGHT].flatten(), high_first=True)
        table = parts[".quant_map"].float()
        scale = parts[".absmax"]
        if self.nested is not None:
            side, offset = self.nested
            coarse = parts[".nested_absmax"].repeat_interleave(side)[: scale.numel()]
            scale = parts[".nested_quant_map"][scale.int()] * coarse + offset
        scale = scale.float().repeat_interleave(self.block_size)[: codes.numel()]
        return (table[codes.int()] * scale).to(dtype).reshape(self.values_shape)

    @classmethod
    def encode(cls, weight: Tensor) -> tuple[Nf4, dict[str, Tensor]]:
        """Return the encoding and the tensors that store a matrix.

        Args:
            weight: Matrix [N, K]; N * K is a multiple of 64.
        """
        encoding = cls(tuple(weight.shape), dtype=str(weight.dtype).removeprefix("torch."))
        table = torch.tensor(_NF4)
        blocks = weight.float().reshape(-1, NF4_BLOCK)
        scale = blocks.abs().amax(dim=1)  # [N * K / 64]
        codes = torch.bucketize(
            blocks / scale.clamp_min(1e-30).unsqueeze(1), (table[1:] + table[:-1]) / 2
        ).to(torch.uint8)
        high, low = codes.reshape(-1, 2).unbind(1)
        return encoding, {
            WEIGHT: ((high << 4) | low).unsqueeze(1),
            ".absmax": scale,
            ".quant_map": table,
        }

    def state(self) -> dict[str, Any]:
        """Return the settings that a file holds beside the weight."""
        state = {
            "quant_type": "nf4",
            "blocksize": self.block_size,
            "dtype": self.dtype,
            "shape": list(self.values_shape),
        }
        if self.nested is not None:
            state |= {
                "nested_blocksize": self.nested[0],
                "nested_dtype": "float32",
                "nested_offset": self.nested[1],
            }
        return state

    def marker(self) -> None:
        """Return None: `state` is stored in a tensor of its own."""
