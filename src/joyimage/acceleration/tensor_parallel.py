"""One edit on several small devices: each holds a slice of every large layer of the transformer's blocks.

`joyimage/model/slices.py` says which layers, and how a slice computes. Every process has all tokens of all branches,
and whole copies of everything else. Slices are plain tensors rather than torch's DTensors: diffusers' SeaCache does not
skip blocks that hold DTensors, the fast paths take plain weights only, and a slice moves between host and device as any
weight does. Adapters are sliced with the layers that they are on; see `joyimage/model/adapters/slicing.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from joyimage.acceleration.conditions import offload_kind
from joyimage.acceleration.parallel import EditGroup, connected_groups, lost_process
from joyimage.compat.diffusers import is_parallel
from joyimage.errors import InvalidInputError
from joyimage.model.slices import (
    LAYERS,
    SLICED_BY_INPUTS,
    InputSlice,
    LayerSlice,
    SumsOverProcesses,
    unwrapped,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from joyimage.model.transformer import JoyImageEditTransformer3DModel


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
        num_parts = transformer.layer_slice.num_parts
        if num_parts not in {1, num_processes}:
            raise InvalidInputError(
                f"`num_processes` is {num_processes}, but the transformer's layers are divided into {num_parts}; load"
                " the pipeline again."
            )
        rank, group, meeting = connected_groups(num_processes)
        if num_parts == 1:
            divide_layers(transformer, rank, num_processes)
        for module in transformer.modules():
            if isinstance(module, SumsOverProcesses):
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
        transformer: A whole one, without quantized layers; its adapters are sliced too.
        part: Number of the slice, from 0.
        num_parts: Number of slices.

    Raises:
        InvalidInputError: The transformer cannot be sliced so.
    """
    _check_layers(transformer, num_parts)
    own = LayerSlice(part=part, num_parts=num_parts)
    for block in transformer.blocks:
        for name in LAYERS:
            adapted, base = cast("tuple[list[nn.Module], nn.Linear]", unwrapped(block.get_submodule(name)))
            if name in SLICED_BY_INPUTS:
                sliced = InputSlice(_frozen(own.inputs(base.weight, name)), _frozen(base.bias))
                block.set_submodule(name + ".base_layer" * len(adapted), sliced)
            else:
                base.weight, base.bias = (_frozen(own.outputs(one, name)) for one in (base.weight, base.bias))
                base.out_features //= num_parts
            for layer in adapted:
                from joyimage.model.adapters.slicing import slice_adapters

                slice_adapters(layer, own, name)
        block.attn.heads //= num_parts
    transformer.layer_slice = own


def check_whole(*, offload: str | None, quantization: str | None) -> None:
    """Reject arguments of `load_pipeline` with which layers could not be sliced, before any are loaded.

    Args:
        offload: Requested memory plan; "disk" leaves the blocks in the weight files.
        quantization: Requested quantization.

    Raises:
        InvalidInputError: One of them is given.
    """
    for name, value in (
        ("offload", offload if offload == "disk" else None),
        ("quantization", quantization if quantization != "none" else None),
    ):
        if value is not None:
            raise InvalidInputError(
                f'`{name}` is {value!r}, but the layout "tensor" divides whole layers of full precision; leave out'
                f" `{name}` or the layout."
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
    inner = cast("nn.Linear", unwrapped(block.get_submodule("img_mlp.net.2"))[1]).in_features
    for name, size in (("heads of attention", block.attn.heads), ("inner channels of an MLP", inner)):
        if size % num_parts:
            raise InvalidInputError(
                f'The layout "tensor" with {num_parts} processes divides the {name}; the transformer has {size}.'
            )
    for one in transformer.blocks:
        for name in LAYERS:
            adapted, base = unwrapped(one.get_submodule(name))
            for layer in adapted:
                from joyimage.model.adapters.slicing import check_sliceable

                check_sliceable(layer, name)
            _check_layer(base)


def _check_layer(layer: nn.Module) -> None:
    """Reject a layer that a quantization or a memory plan has changed.

    Raises:
        InvalidInputError: One of them has.
    """
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
