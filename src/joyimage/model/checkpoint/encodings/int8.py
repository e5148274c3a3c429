"""Weights in int8: with one scale, one per row or one per block, and rotated in groups of inputs ("convrot").

Dimension key: N output features, K input features, G width of a rotated group.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from joyimage.model.checkpoint.encodings.base import WEIGHT, spread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from joyimage.model.checkpoint.encodings.base import Shape

INT8_BLOCK = 128
"""Side of the blocks in int8_blockwise files that joyimage writes."""

_GROUP_SIZES = (256, 64)
_LARGEST = 127


@dataclass(frozen=True)
class Int8:
    """int8 values and fp32 scales.

    Attributes:
        rotation: Width of the groups of inputs that are rotated; None stores the values as they are.
        block_size: Side of the blocks that have one scale each; None for one scale or one per row.
    """

    rotation: int | None = None
    block_size: int | None = None

    @property
    def name(self) -> str:
        """Name of the format."""
        if self.block_size is not None:
            return "int8_blockwise"
        return "int8_tensorwise" if self.rotation is None else "int8_convrot"

    def shape(self, parts: Mapping[str, Shape]) -> Shape:
        """Return the shape of the values, from the shapes of the stored tensors."""
        return parts[WEIGHT]

    def decode(self, parts: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Return the values in `dtype`; they are computed in fp32."""
        stored = parts[WEIGHT]  # [N, K]
        values = stored.float() * spread(parts["_scale"].float(), tuple(stored.shape), self.block_size)
        if self.rotation is not None:
            values = rotate(values, self.rotation)
        return values.to(dtype)

    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        """Return the tensors that store a matrix, with one scale per row, or per block.

        Args:
            weight: Matrix [N, K].
        """
        values = weight.float()
        if self.rotation is not None:
            values = rotate(values, self.rotation)
        if self.block_size is None:
            peak = values.abs().amax(dim=1, keepdim=True)  # [N, 1]
        else:
            whole = [-size % self.block_size for size in reversed(values.shape)]
            padded = nn.functional.pad(values.abs(), (0, whole[0], 0, whole[1]))
            side = self.block_size
            tiles = padded.reshape(padded.shape[0] // side, side, padded.shape[1] // side, side)
            peak = tiles.amax(dim=(1, 3))  # one per block
        scale = (peak / _LARGEST).clamp_min(1e-30)
        factor = spread(scale, tuple(values.shape), self.block_size)
        stored = (values / factor).round_().clamp_(-_LARGEST - 1, _LARGEST).to(torch.int8)
        return {WEIGHT: stored, "_scale": scale}

    def marker(self) -> dict[str, Any]:
        """Return the content of `.comfy_quant`."""
        if self.block_size is not None:
            return {"format": "int8_blockwise", "group_size": self.block_size}
        marker: dict[str, Any] = {"format": "int8_tensorwise"}
        if self.rotation is not None:
            marker |= {"convrot": True, "convrot_groupsize": self.rotation}
        return marker


def convrot(in_features: int) -> Int8:
    """Return the int8 encoding with the widest rotation that divides the inputs, or without rotation.

    Args:
        in_features: Number of inputs of the layer.
    """
    return Int8(rotation=next((size for size in _GROUP_SIZES if in_features % size == 0), None))


@functools.lru_cache(maxsize=16)
def rotation_matrix(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a symmetric orthogonal matrix [G, G]: Kronecker powers of a regular 4 x 4 Hadamard matrix.

    Args:
        size: A power of four.
        device: Device of the matrix.
        dtype: Precision of the matrix; its entries are exact in every one.

    Source: the int8 files of ComfyUI.
    """
    base = torch.ones(4, 4) - 2 * torch.eye(4).flip(1)
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < size:
        matrix = torch.kron(matrix, base)
    return (matrix / size**0.5).to(device, dtype)


def rotate(values: Tensor, size: int) -> Tensor:
    """Rotate groups of the last dimension; doing it twice gives the values back.

    Args:
        values: Weights or inputs [..., K].
        size: Width of a group.
    """
    matrix = rotation_matrix(size, values.device, values.dtype)
    return (torch.unflatten(values, -1, (-1, size)) @ matrix.T).flatten(-2)
