"""Blocks of GGUF files: 32 values with one scale (Q4_0 to Q8_0), or 256 with scales of parts (Q2_K to Q6_K).

A block is a row of bytes. Dimension key: B blocks, V values of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from joyimage.model.checkpoint.encodings.base import WEIGHT
from joyimage.model.checkpoint.gguf import BLOCK_SIZES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from joyimage.model.checkpoint.encodings.base import Shape

_CHUNK_VALUES = 2**24
"""Most values that are decoded at a time: the intermediate results take several times their size."""


@dataclass(frozen=True)
class GgmlBlocks:
    """Values in blocks of a GGUF file.

    Attributes:
        name: Name of the block type, such as "Q4_K".
    """

    name: str

    def shape(self, parts: Mapping[str, Shape]) -> Shape:
        """Return the shape of the values, from the shapes of the stored tensors."""
        *rows, num_bytes = parts[WEIGHT]
        num_block_values, num_block_bytes = BLOCK_SIZES[self.name]
        return (*rows, num_bytes // num_block_bytes * num_block_values)

    def decode(self, parts: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Return the values in `dtype`; they are computed in fp32."""
        stored = parts[WEIGHT]
        num_block_values, num_block_bytes = BLOCK_SIZES[self.name]
        blocks = stored.reshape(-1, num_block_bytes)
        values = torch.empty(len(blocks), num_block_values, dtype=dtype, device=stored.device)
        step = _CHUNK_VALUES // num_block_values
        for start in range(0, len(blocks), step):
            values[start : start + step] = _DECODERS[self.name](blocks[start : start + step])
        return values.reshape(self.shape({WEIGHT: tuple(stored.shape)}))

    def marker(self) -> dict[str, Any]:
        """Return what a safetensors file says of the blocks; in a GGUF file the table tells the type."""
        return {"format": "gguf", "block_type": self.name}


def encode_q8_0(weight: Tensor) -> Tensor:
    """Return the bytes `[..., K / 32 * 34]` that store values `[..., K]` as Q8_0.

    Args:
        weight: Values; K is a multiple of 32.
    """
    blocks = weight.float().reshape(-1, 32)
    scale = blocks.abs().amax(dim=1, keepdim=True) / 127  # [B, 1]
    scaled = blocks * torch.where(scale == 0, 0.0, 1 / scale)
    # Halves are rounded away from zero, as llama.cpp does.
    rounded = scaled.sign() * (scaled.abs() + 0.5).floor()
    stored = torch.cat([scale.half().view(torch.uint8), rounded.to(torch.int8).view(torch.uint8)], dim=1)
    return stored.reshape(*weight.shape[:-1], -1)


def encode_q4_0(weight: Tensor) -> Tensor:
    """Return the bytes `[..., K / 32 * 18]` that store values `[..., K]` as Q4_0.

    Args:
        weight: Values; K is a multiple of 32.
    """
    blocks = weight.float().reshape(-1, 32)
    place = blocks.abs().argmax(dim=1, keepdim=True)
    scale = blocks.gather(1, place) / -8  # [B, 1]: the largest value becomes -8, whichever its sign
    scaled = blocks * torch.where(scale == 0, 0.0, 1 / scale)
    codes = (scaled + 8.5).to(torch.uint8).clamp_(0, 15)
    packed = codes[:, :16] | (codes[:, 16:] << 4)
    stored = torch.cat([scale.half().view(torch.uint8), packed], dim=1)
    return stored.reshape(*weight.shape[:-1], -1)


def _half(blocks: Tensor, start: int) -> Tensor:
    """Return the fp16 number at a place in each block, `[B, 1]` in fp32."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _bits(stored: Tensor, width: int, run: int) -> Tensor:
    """Unpack small numbers that are stored in runs of bytes: first the lowest bits of a whole run, then the next.

    Args:
        stored: Bytes [B, n]; n is a multiple of `run`.
        width: Number of bits of a number: 1, 2 or 4.
        run: Number of bytes of a run.

    Returns:
        The numbers, [B, n * 8 / width].
    """
    shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=stored.device).reshape(1, 1, -1, 1)
    runs = torch.unflatten(stored, 1, (-1, 1, run))
    return ((runs >> shifts) & (2**width - 1)).flatten(1)


def _high_bits(stored: Tensor) -> Tensor:
    """Return bit v of the 32 bits of each block for value v, `[B, 32]`."""
    shifts = torch.arange(8, dtype=torch.uint8, device=stored.device)
    return ((stored.unsqueeze(-1) >> shifts) & 1).flatten(1)


def _signed(codes: Tensor, offset: int) -> Tensor:
    return (codes.to(torch.int8) - offset).float()


def _q4_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * _signed(_bits(blocks[:, 2:], 4, 16), 8)


def _q4_1(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * _bits(blocks[:, 4:], 4, 16).float() + _half(blocks, 2)


def _q5_0(blocks: Tensor) -> Tensor:
    codes = _bits(blocks[:, 6:], 4, 16) | (_high_bits(blocks[:, 2:6]) << 4)
    return _half(blocks, 0) * _signed(codes, 16)


def _q5_1(blocks: Tensor) -> Tensor:
    codes = _bits(blocks[:, 8:], 4, 16) | (_high_bits(blocks[:, 4:8]) << 4)
    return _half(blocks, 0) * codes.float() + _half(blocks, 2)


def _q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].contiguous().view(torch.int8).float() * _half(blocks, 0)


def _q2_k(blocks: Tensor) -> Tensor:
    scales = blocks[:, :16]
    scale = (_half(blocks, 80) * (scales & 15).float()).unsqueeze(-1)  # [B, 16, 1]
    minimum = (_half(blocks, 82) * (scales >> 4).float()).unsqueeze(-1)
    codes = torch.unflatten(_bits(blocks[:, 16:80], 2, 32), 1, (16, 16)).float()
    return (scale * codes - minimum).flatten(1)


def _q3_k(blocks: Tensor) -> Tensor:
    packed = blocks[:, 96:108]
    # Sixteen scales of six bits: four low bits in eight bytes, two high bits in four.
    scales = _bits(packed[:, :8], 4, 8) | (_bits(packed[:, 8:], 2, 4) << 4)
    scale = (_half(blocks, 108) * _signed(scales, 32)).unsqueeze(-1)  # [B, 16, 1]
    high = _bits(blocks[:, :32], 1, 32) ^ 1  # a bit that is not set subtracts four
    codes = _bits(blocks[:, 32:96], 2, 32).to(torch.int8) - (high << 2).to(torch.int8)
    return (scale * torch.unflatten(codes, 1, (16, 16)).float()).flatten(1)


def _scales_and_minima(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Unpack eight scales and eight minima of six bits each, `[B, 8]`, from twelve bytes."""
    first, second, third = torch.split(packed, 4, dim=1)
    scales = torch.cat([first & 63, (third & 15) | ((first >> 2) & 48)], dim=1)
    minima = torch.cat([second & 63, (third >> 4) | ((second >> 2) & 48)], dim=1)
    return scales, minima


def _with_minima(blocks: Tensor, codes: Tensor) -> Tensor:
    """Return the values of Q4_K and Q5_K from the codes [B, 256]."""
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    scale = (_half(blocks, 0) * scales.float()).unsqueeze(-1)  # [B, 8, 1]
    minimum = (_half(blocks, 2) * minima.float()).unsqueeze(-1)
    return (scale * torch.unflatten(codes, 1, (8, 32)).float() - minimum).flatten(1)


def _q4_k(blocks: Tensor) -> Tensor:
    return _with_minima(blocks, _bits(blocks[:, 16:], 4, 32))


def _q5_k(blocks: Tensor) -> Tensor:
    return _with_minima(blocks, _bits(blocks[:, 48:], 4, 32) | (_bits(blocks[:, 16:48], 1, 32) << 4))


def _q6_k(blocks: Tensor) -> Tensor:
    scales = blocks[:, 192:208].contiguous().view(torch.int8).float()
    scale = (_half(blocks, 208) * scales).unsqueeze(-1)  # [B, 16, 1]
    codes = _bits(blocks[:, :128], 4, 64) | (_bits(blocks[:, 128:192], 2, 32) << 4)
    return (scale * torch.unflatten(_signed(codes, 32), 1, (16, 16))).flatten(1)


_DECODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
"""Type of blocks → function from blocks [B, bytes] to values [B, V] in fp32. Source: ggml-quants.c of llama.cpp."""
