"""One edit on several small devices: each holds a slice of every large layer of the transformer's blocks.

Queries, keys and values are sliced by heads, and the MLPs by their inner width; the layers behind them hold the inputs
that belong to that, and what they compute is added up over the processes. Every process has all tokens of all branches,
and whole copies of everything else. Slices are plain tensors rather than torch's DTensors: diffusers' SeaCache does not
skip blocks that hold DTensors, the fast paths take plain weights only, and a slice moves between host and device as any
weight does.

Dimension key: B batch, L tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch import distributed as typed_distributed

from joyimage.acceleration.conditions import offload_kind
from joyimage.acceleration.parallel import EditGroup, connected_groups, lost_process
from joyimage.compat.diffusers import is_parallel
from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from joyimage.model.transformer import JoyImageEditTransformer3DModel

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


class InputSlice(nn.Linear):
    """A linear layer of which this process has some inputs; its outputs are summed over the processes.

    Args:
        whole: The whole layer.
        part: Number of this process's slice, from 0; the first one has the bias.
        num_parts: Number of slices.

    Attributes:
        group: The processes that have the other slices; None before `TensorGroup.join`.
    """

    def __init__(self, whole: nn.Linear, part: int, num_parts: int) -> None:
        has_bias = part == 0
        cast("Any", super()).__init__(
            whole.in_features // num_parts, whole.out_features, bias=has_bias, device="meta"
        )
        self.weight = _frozen(whole.weight.chunk(num_parts, dim=1)[part].clone())
        if has_bias:
            self.bias = _frozen(whole.bias)
        self.group: Any = None

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's outputs `[B, L, out]` from this process's inputs `[B, L, in / num_parts]`.

        Raises:
            InvalidInputError: The processes are not connected.
        """
        if self.group is None:
            raise InvalidInputError(
                'This process has a slice of the transformer\'s layers; call `pipe.parallel(N, layout="tensor")` first.'
            )
        outputs = super().forward(input)
        distributed.all_reduce(outputs, group=self.group)
        return outputs


@dataclass(frozen=True, kw_only=True)
class TensorGroup(EditGroup):
    """Processes that each have a slice of the transformer's layers.

    Attributes:
        num_parts: Number of slices.
    """

    num_parts: int

    divided = "layers"
    runs_all_branches = True

    def __str__(self) -> str:
        return f"tensor {self.num_parts}"

    @classmethod
    def join(cls, num_processes: int, transformer: Any) -> TensorGroup:
        """Return the group of the processes that were started together, and slice the transformer if it is whole.

        Args:
            num_processes: Number of processes.
            transformer: The network; its layers stay sliced until it is loaded again.

        Raises:
            InvalidInputError: There is no process group, it has another number of processes, or the layers cannot be
                sliced so.
        """
        if transformer.num_layer_parts not in {1, num_processes}:
            raise InvalidInputError(
                f"`num_processes` is {num_processes}, but the transformer's layers are divided into"
                f" {transformer.num_layer_parts}; load the pipeline again."
            )
        rank, group, meeting = connected_groups(num_processes)
        if transformer.num_layer_parts == 1:
            divide_layers(transformer, rank, num_processes)
        for module in transformer.modules():
            if isinstance(module, InputSlice):
                module.group = group
        return cls(rank=rank, group=group, meeting=meeting, num_parts=num_processes)

    def run(self, calls: Sequence[Callable[[], list[Tensor]]], like: Tensor) -> list[list[Tensor]]:
        """Run every branch on all processes, and return the results; see `EditGroup.run`."""
        del like
        with lost_process():
            return [call() for call in calls]


@torch.no_grad()
def divide_layers(transformer: JoyImageEditTransformer3DModel, part: int, num_parts: int) -> None:
    """Keep one slice of the large layers of every block, in place, on the device where they are.

    Args:
        transformer: A whole one, without adapters and quantized layers.
        part: Number of the slice, from 0.
        num_parts: Number of slices.

    Raises:
        InvalidInputError: The transformer cannot be sliced so.
    """
    _check_layers(transformer, num_parts)
    for block in transformer.blocks:
        for name, num_projections in SLICED_BY_OUTPUTS.items():
            layer = cast("nn.Linear", block.get_submodule(name))
            for kind in ("weight", "bias"):
                projections = cast("Tensor", getattr(layer, kind)).chunk(num_projections)
                sliced = torch.cat([one.chunk(num_parts)[part] for one in projections])
                setattr(layer, kind, _frozen(sliced))
            layer.out_features //= num_parts
        for name in SLICED_BY_INPUTS:
            whole = cast("nn.Linear", block.get_submodule(name))
            block.set_submodule(name, InputSlice(whole, part, num_parts))
        block.attn.heads //= num_parts
    transformer.num_layer_parts = num_parts


def check_whole(*, offload: str | None, quantization: str | None, loras: Sequence[str]) -> None:
    """Reject arguments of `load_pipeline` with which layers could not be sliced, before any are loaded.

    Args:
        offload: Requested memory plan; "disk" leaves the blocks in the weight files.
        quantization: Requested quantization.
        loras: Adapters.

    Raises:
        InvalidInputError: One of them is given.
    """
    for name, value in (
        ("offload", offload if offload == "disk" else None),
        ("quantization", quantization if quantization != "none" else None),
        ("loras", ", ".join(loras) or None),
    ):
        if value is not None:
            raise InvalidInputError(
                f'`{name}` is {value!r}, but the layout "tensor" divides whole layers of full precision without'
                f" adapters; leave out `{name}` or the layout."
            )


def _frozen(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)


def _check_layers(transformer: JoyImageEditTransformer3DModel, num_parts: int) -> None:
    """Reject a transformer whose layers cannot be sliced.

    Raises:
        InvalidInputError: Its sizes have no such parts, or its layers are not whole and plain.
    """
    if is_parallel(transformer):
        raise InvalidInputError("The transformer's tokens are divided already; load the pipeline again.")
    block = transformer.blocks[0]
    inner = cast("nn.Linear", block.get_submodule("img_mlp.net.2")).in_features
    for name, size in (("heads of attention", block.attn.heads), ("inner channels of an MLP", inner)):
        if size % num_parts:
            raise InvalidInputError(
                f'The layout "tensor" with {num_parts} processes divides the {name}; the transformer has {size}.'
            )
    for one in transformer.blocks:
        for name in (*SLICED_BY_OUTPUTS, *SLICED_BY_INPUTS):
            _check_layer(one.get_submodule(name))


def _check_layer(layer: nn.Module) -> None:
    """Reject a layer that an adapter, a quantization or a memory plan has changed.

    Raises:
        InvalidInputError: One of them has.
    """
    if hasattr(layer, "lora_A"):
        raise InvalidInputError(
            'The layout "tensor" slices the transformer\'s layers, which have adapters. Load them first, call'
            " `pipe.fuse_lora()` and `pipe.unload_lora_weights()`, or leave out the layout."
        )
    weight: object = getattr(layer, "weight", None)
    is_plain = type(layer) is nn.Linear and type(weight) is nn.Parameter and weight.is_floating_point()
    if not is_plain or not isinstance(layer.bias, Tensor):
        raise InvalidInputError(
            'The layout "tensor" slices whole layers of full precision, and the transformer has quantized ones. Decode'
            ' them with `quantization` "none", or leave out the layout.'
        )
    if layer.weight.is_meta or offload_kind(layer) is not None:
        raise InvalidInputError(
            'The layout "tensor" slices layers that a memory plan moves already; divide them before it is chosen.'
        )
