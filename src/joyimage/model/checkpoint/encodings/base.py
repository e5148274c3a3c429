"""The interface of an encoding, and a weight together with its encoding.

Dimension key: N output features, K input features.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

Shape = tuple[int, ...]

WEIGHT = ""
"""Key of the tensor that is stored under the weight's own name; the other keys are suffixes to that name."""


class Encoding(Protocol):
    """How a weight's values are stored."""

    @property
    def name(self) -> str:
        """Name of the format, as reports and messages print it."""
        ...

    def shape(self, parts: Mapping[str, Shape]) -> Shape:
        """Return the shape of the values, from the shapes of the stored tensors."""
        ...

    def decode(self, parts: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Return the values.

        Args:
            parts: The stored tensors, by suffix.
            dtype: Precision of the values.
        """
        ...

    def marker(self) -> dict[str, Any] | None:
        """Return the JSON object that a file holds beside the weight, or None if the format has none."""
        ...


@dataclass(frozen=True)
class Plain:
    """The values themselves, in any floating precision."""

    name: str = "plain"

    def shape(self, parts: Mapping[str, Shape]) -> Shape:
        """Return the shape of the values, from the shapes of the stored tensors."""
        return parts[WEIGHT]

    def decode(self, parts: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Return the values in `dtype`."""
        return parts[WEIGHT].to(dtype)

    def marker(self) -> None:
        """Return None: plain weights are not marked."""


@dataclass(frozen=True)
class EncodedWeight:
    """A weight as a file stores it.

    Attributes:
        encoding: How the values are stored.
        parts: The stored tensors, by suffix to the weight's name.
        shape: Shape of the values; smaller than the stored one where the format pads.
    """

    encoding: Encoding
    parts: dict[str, Tensor]
    shape: Shape

    @property
    def num_bytes(self) -> int:
        """Number of bytes of all stored tensors."""
        return sum(tensor.nbytes for tensor in self.parts.values())

    def to(self, device: torch.device, *, non_blocking: bool = False) -> EncodedWeight:
        """Return the weight with its stored tensors on a device.

        Args:
            device: Such as "cuda:1"; "meta" keeps shapes and types only.
            non_blocking: Return before the copy from page-locked memory is done.
        """
        parts = {part: tensor.to(device, non_blocking=non_blocking) for part, tensor in self.parts.items()}
        return EncodedWeight(self.encoding, parts, self.shape)

    def decode(self, dtype: torch.dtype) -> Tensor:
        """Return the values, without the padding of the format.

        Args:
            dtype: Precision of the values.
        """
        values = self.encoding.decode(self.parts, dtype)
        if values.shape != self.shape and values.ndim == len(self.shape) == 2:
            values = values[: self.shape[0], : self.shape[1]]
        return values.reshape(self.shape)


def marker_tensor(marker: Mapping[str, Any]) -> Tensor:
    """Return a JSON object as the bytes that a `.comfy_quant` tensor holds."""
    return torch.tensor(list(json.dumps(dict(marker)).encode("utf-8")), dtype=torch.uint8)


def spread(scale: Tensor, shape: Shape, group_size: int | None = None) -> Tensor:
    """Return a scale that broadcasts to a matrix.

    Args:
        scale: One value, one per row, or one per block of rows and columns.
        shape: Shape [N, K] of the matrix.
        group_size: Side of a block; None derives it from the number of scales.

    Returns:
        The scale, [] or [N or 1, K or 1].
    """
    if scale.numel() == 1:
        return scale.reshape(())
    if scale.ndim == 1:
        scale = scale.unsqueeze(1)  # [N, 1]
    for dim, size in enumerate(shape):
        count = scale.shape[dim]
        if count in {1, size}:
            continue
        side = group_size if group_size and -(-size // group_size) == count else -(-size // count)
        scale = scale.repeat_interleave(side, dim).narrow(dim, 0, size)
    return scale
