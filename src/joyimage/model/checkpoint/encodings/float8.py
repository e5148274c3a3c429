"""Weights in eight-bit floats: with one scale ("fp8"), or with a power of two per 32 inputs ("mxfp8").

Dimension key: N output features, K input features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from joyimage.model.checkpoint.encodings.base import WEIGHT, spread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from joyimage.model.checkpoint.encodings.base import Shape

MX_BLOCK = 32
"""Number of inputs that share a scale in mxfp8."""

_FP32_MANTISSA_BITS = 23
_EXPONENT_BIAS = 127


@dataclass(frozen=True)
class Float8:
    """fp8 values, with a scale or without.

    Attributes:
        dtype: torch.float8_e4m3fn or torch.float8_e5m2.
    """

    dtype: torch.dtype = torch.float8_e4m3fn

    @property
    def name(self) -> str:
        """Name of the format."""
        return str(self.dtype).removeprefix("torch.")

    def shape(self, parts: Mapping[str, Shape]) -> Shape:
        """Return the shape of the values, from the shapes of the stored tensors."""
        return parts[WEIGHT]

    def decode(self, parts: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Return the values in `dtype`.

        Value and scale are rounded to `dtype` first, and their product again: other programs do so, and
        only so are the values equal to theirs.
        """
        stored = parts[WEIGHT]  # [N, K]
        values = stored.to(dtype)
        if "_scale" in parts:
            values = values * spread(parts["_scale"].to(dtype), tuple(stored.shape))
        return values

    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        """Return the tensors that store a matrix, with one scale.

        Args:
            weight: Matrix [N, K].
        """
        largest = torch.finfo(self.dtype).max
        values = weight.float()
        scale = (values.abs().amax() / largest).clamp_min(1e-30)  # []
        return {WEIGHT: (values / scale).clamp_(-largest, largest).to(self.dtype), "_scale": scale}

    def marker(self) -> dict[str, Any]:
        """Return the content of `.comfy_quant`."""
        return {"format": self.name}


@dataclass(frozen=True)
class MicroscalingFloat8:
    """fp8 values with a power of two for each block of 32 inputs; the scales are stored in tiles."""

    name: str = "mxfp8"

    def shape(self, parts: Mapping[str, Shape]) -> Shape:
        """Return the shape of the values, from the shapes of the stored tensors."""
        return parts[WEIGHT]

    def decode(self, parts: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Return the values in `dtype`; they are computed in fp32."""
        stored = parts[WEIGHT]
        num_rows, num_columns = stored.shape
        exponents = untile(parts["_scale"].view(torch.uint8), num_rows, num_columns // MX_BLOCK)
        # The exponent of an fp32 number has the same bias, and 0 marks a block of zeros.
        scale = (exponents.int() << _FP32_MANTISSA_BITS).view(torch.float32)  # [N, K / 32]
        values = torch.unflatten(stored.float(), 1, (-1, MX_BLOCK)) * scale.unsqueeze(-1)
        return values.flatten(1).to(dtype)

    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        """Return the tensors that store a matrix.

        Args:
            weight: Matrix [N, K]; K is a multiple of 32.
        """
        largest = torch.finfo(torch.float8_e4m3fn).max
        blocks = torch.unflatten(weight.float(), 1, (-1, MX_BLOCK))  # [N, K / 32, 32]
        peak = blocks.abs().amax(dim=2)
        # The power of two is rounded up, so that the largest value of a block fits.
        exponents = torch.log2((peak / largest).clamp_min(2.0**-_EXPONENT_BIAS)).ceil().int() + _EXPONENT_BIAS
        exponents = torch.where(peak == 0, 0, exponents)
        scale = (exponents << _FP32_MANTISSA_BITS).view(torch.float32).unsqueeze(-1)
        scaled = torch.where(scale == 0, 0.0, blocks / scale).clamp_(-largest, largest)
        stored = scaled.flatten(1).to(torch.float8_e4m3fn)
        return {WEIGHT: stored, "_scale": tile(exponents.to(torch.uint8))}

    def marker(self) -> dict[str, Any]:
        """Return the content of `.comfy_quant`."""
        return {"format": self.name}


def untile(tiled: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """Return scales in rows and columns that are stored in tiles of 128 x 4, as tensor cores read them.

    A tile is stored as 32 rows of 16: row r of it holds the rows r, r + 32, r + 64 and r + 96.

    Args:
        tiled: The stored scales, padded to whole tiles; any shape.
        num_rows: Number of rows, without padding.
        num_columns: Number of columns, without padding.

    Source: cuBLAS documentation, "1D block scaling factors layout".
    """
    row_tiles, column_tiles = -(-num_rows // 128), -(-num_columns // 4)
    tiles = tiled.reshape(row_tiles, column_tiles, 32, 4, 4)
    # [row tile, quarter, row in quarter, column tile, column]
    return tiles.permute(0, 3, 2, 1, 4).reshape(row_tiles * 128, column_tiles * 4)[:num_rows, :num_columns]


def tile(scale: Tensor) -> Tensor:
    """Return scales in tiles of 128 x 4, padded with zeros to whole tiles: the inverse of `untile`.

    Args:
        scale: One scale per row and block of columns.
    """
    num_rows, num_columns = scale.shape
    row_tiles, column_tiles = -(-num_rows // 128), -(-num_columns // 4)
    padded = scale.new_zeros(row_tiles * 128, column_tiles * 4)
    padded[:num_rows, :num_columns] = scale
    tiles = padded.reshape(row_tiles, 4, 32, column_tiles, 4).permute(0, 3, 2, 1, 4)
    return tiles.reshape(row_tiles * 128, column_tiles * 4)
