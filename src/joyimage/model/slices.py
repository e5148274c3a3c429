"""Slices of the large layers of the transformer's blocks, of which each of several processes holds one.

Queries, keys and values are sliced by heads, and the MLPs by their inner width. The layers behind them hold the inputs
that belong to that, and what they compute is summed over the processes.

Dimension key: B batch, L tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch import distributed as typed_distributed

from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

distributed: Any = typed_distributed  # its functions are typed in part

SLICED_BY_OUTPUTS = {
    "attn.img_attn_qkv": 3,
    "attn.txt_attn_qkv": 3,
    "img_mlp.net.0.proj": 1,
    "txt_mlp.net.0.proj": 1,
}
"""Layer of a block → how many projections it holds one behind the other, each of which is sliced by itself."""
SLICED_BY_INPUTS = ("attn.img_attn_proj", "attn.txt_attn_proj", "img_mlp.net.2", "txt_mlp.net.2")
"""Layers of a block that take what those compute."""
LAYERS = (*SLICED_BY_OUTPUTS, *SLICED_BY_INPUTS)
"""Layers of a block that are sliced."""

_BLOCK = re.compile(r"^double_blocks\.\d+\.")


@dataclass(frozen=True, kw_only=True)
class LayerSlice:
    """Which slice of every large layer a process holds.

    Attributes:
        part: Number of the slice, from 0.
        num_parts: Number of slices; 1: the layers are whole.
    """

    part: int = 0
    num_parts: int = 1

    def outputs(self, tensor: Tensor, layer: str) -> Tensor:
        """Return the slice of a tensor whose first dimension is a layer's outputs.

        Args:
            tensor: `[out, ...]`.
            layer: Name of the layer in the transformer or in its block.

        Returns:
            `[out / num_parts, ...]`, of each projection the same part; `tensor` itself where the outputs are whole.
        """
        num_projections = SLICED_BY_OUTPUTS.get(_in_block(layer))
        if num_projections is None or self.num_parts == 1:
            return tensor
        projections = tensor.chunk(num_projections)
        return torch.cat([one.chunk(self.num_parts)[self.part] for one in projections])

    def inputs(self, tensor: Tensor, layer: str) -> Tensor:
        """Return the slice of a tensor whose second dimension is a layer's inputs.

        Args:
            tensor: `[any, in]`.
            layer: Name of the layer in the transformer or in its block.

        Returns:
            `[any, in / num_parts]`; `tensor` itself where the inputs are whole.
        """
        if _in_block(layer) not in SLICED_BY_INPUTS or self.num_parts == 1:
            return tensor
        return tensor.chunk(self.num_parts, dim=1)[self.part].clone()

    def whole_shape(self, shape: Sequence[int], layer: str) -> list[int]:
        """Return the shape `[out, in]` that a layer's weight has where it is whole, from that of its slice."""
        outputs, *inputs = shape
        if _in_block(layer) in SLICED_BY_OUTPUTS:
            outputs *= self.num_parts
        if _in_block(layer) in SLICED_BY_INPUTS:
            inputs = [size * self.num_parts for size in inputs]
        return [outputs, *inputs]


class SumsOverProcesses:
    """Mixin of modules that sum what each of several processes computes from its slice.

    Attributes:
        group: The processes that have the other slices; None before they are connected.
    """

    group: Any = None


class InputSlice(SumsOverProcesses, nn.Linear):
    """A linear layer of which this process has some inputs; its outputs are summed over the processes.

    Args:
        weight: Weights of these inputs, `[out, in / num_parts]`.
        bias: The whole bias `[out]`, which every process adds to the sum; None: there is none.
        group: The processes that have the other slices; None before they are connected.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, group: Any = None) -> None:
        outputs, inputs = weight.shape
        cast("Any", super()).__init__(inputs, outputs, bias=bias is not None, device="meta")
        self.weight = weight
        self.bias = bias
        self.group = group

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's outputs `[B, L, out]` from this process's inputs `[B, L, in / num_parts]`.

        Raises:
            InvalidInputError: The processes are not connected.
        """
        outputs = sum_over(self.group, nn.functional.linear(input, self.weight))
        return outputs if self.bias is None else outputs.add_(self.bias)


def sum_over(group: Any, tensor: Tensor) -> Tensor:
    """Sum a tensor over the processes that have slices, in place.

    Args:
        group: These processes.
        tensor: This process's summand.

    Returns:
        `tensor`.

    Raises:
        InvalidInputError: The processes are not connected.
    """
    if group is None:
        raise InvalidInputError(
            'This process has a slice of the transformer\'s layers; call `pipe.parallel(N, layout="tensor")` first.'
        )
    distributed.all_reduce(tensor, group=group)
    return tensor


def unwrapped(layer: nn.Module) -> tuple[list[nn.Module], nn.Module]:
    """Return what adapters have put in place of a layer, the outermost first, and the layer itself."""
    adapted: list[nn.Module] = []
    while hasattr(layer, "base_layer"):
        adapted.append(layer)
        layer = cast("nn.Module", layer.base_layer)
    return adapted, layer


def _in_block(layer: str) -> str:
    return _BLOCK.sub("", layer)
