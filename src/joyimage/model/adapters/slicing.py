"""Adapters of layers of which each of several processes holds a slice.

A LoRA adapter adds `scale * B @ A`. Where a layer is sliced by outputs, a process has those rows of B and the whole A.
Where it is sliced by inputs, a process has those columns of A and the whole B: what A computes, which is as small as
the rank, is summed over the processes. DoRA's lengths of rows are sliced with the outputs, or measured over all inputs.
LoKr's two factors are whole in every process, which takes its slice of their product. Strengths, names and switches are
peft's own and stay as they are.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from peft.tuners.lokr import Linear as LokrLinear
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor, nn

from joyimage.errors import InvalidInputError
from joyimage.model.slices import LAYERS, InputSlice, LayerSlice, SumsOverProcesses, sum_over, unwrapped

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from joyimage.model.adapters.updates import LayerUpdate


class SlicedMagnitudes(SumsOverProcesses, DoraLinearLayer):
    """DoRA's length of each row, where a process has some inputs of the rows.

    Args:
        whole: As peft has loaded it.
        group: The processes that have the other inputs; None before they are connected.
    """

    def __init__(self, whole: DoraLinearLayer, group: Any = None) -> None:
        cast("Any", super()).__init__(fan_in_fan_out=False)
        self.weight = whole.weight
        self.group = group

    def forward(
        self,
        x: Tensor,
        *,
        lora_A: nn.Linear,  # noqa: N803 - peft's names
        lora_B: nn.Linear,  # noqa: N803
        scaling: float,
        base_layer: InputSlice,
        base_result: Tensor | None = None,
        **_options: Any,
    ) -> Tensor:
        """Return what the adapter adds to the layer's outputs, `[B, L, out]`.

        peft's own way takes `B @ A` from what both compute, and what A computes is a sum over all processes here.

        Args:
            x: This process's inputs `[B, L, in / num_parts]`.
            lora_A: A's columns of these inputs.
            lora_B: The whole B.
            scaling: Factor on the update.
            base_layer: The layer.
            base_result: The layer's outputs `[B, L, out]`; None has them computed again.
            **_options: What versions of peft pass on top.

        Raises:
            InvalidInputError: The processes are not connected.
        """
        update = (lora_B.weight @ lora_A.weight).to(x.dtype)
        ratio = self.weight / self.get_weight_norm(base_layer.weight.to(x.dtype), update, scaling)
        outputs = base_layer(x) if base_result is None else base_result
        outputs = outputs if base_layer.bias is None else outputs - base_layer.bias
        return (ratio - 1) * outputs + ratio * lora_B(lora_A(x)) * scaling

    def get_weight_norm(
        self,
        weight: Tensor,
        lora_weight: Tensor,
        scaling: float,
        adapter_name: str | None = None,  # noqa: ARG002 - versions of peft pass it
    ) -> Tensor:
        """Return the length of each whole row of the sum of weights, `[out]`, from this process's columns.

        Raises:
            InvalidInputError: The processes are not connected.
        """
        squares = (weight + scaling * lora_weight).float().square().sum(dim=1)
        return sum_over(self.group, squares).sqrt().to(weight.dtype)


class SlicedLokr(LokrLinear):
    """LoKr adapters of a layer that is sliced; their factors are whole.

    Attributes:
        own: This process's slice.
        layer_name: Name of the layer in its block.
    """

    own: LayerSlice
    layer_name: str

    @classmethod
    def convert(cls, layer: LokrLinear, own: LayerSlice, name: str) -> None:
        """Make a layer of peft's compute this process's slice, in place.

        Args:
            layer: What peft has put in place of the layer.
            own: The slice.
            name: Name of the layer in its block.
        """
        converted: Any = layer  # its adapters and their strengths stay as they are
        converted.__class__ = cls
        converted.own, converted.layer_name = own, name

    def get_delta_weight(self, adapter_name: str, *, apply_rank_dropout: bool = False) -> Tensor:  # noqa: ARG002 - nothing is trained
        """Return this process's slice of what an adapter adds to the weight."""
        whole = torch.kron(self._factor("lokr_w1", adapter_name), self._factor("lokr_w2", adapter_name))
        whole = whole * cast("Any", self).scaling[adapter_name]
        return self.own.inputs(self.own.outputs(whole, self.layer_name), self.layer_name)

    def _factor(self, name: str, adapter_name: str) -> Tensor:
        """Return a factor, which a file may hold as a product of two matrices."""
        whole, left, right = (getattr(self, one) for one in (name, f"{name}_a", f"{name}_b"))
        return whole[adapter_name] if adapter_name in whole else left[adapter_name] @ right[adapter_name]

    def _get_delta_activations(self, adapter_name: str, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        found = cast("Any", super())._get_delta_activations(adapter_name, input, *args, **kwargs)
        base = self.get_base_layer()
        return sum_over(base.group, found) if isinstance(base, InputSlice) else found


def slice_updates(updates: Mapping[str, LayerUpdate], own: LayerSlice) -> dict[str, LayerUpdate]:
    """Return this process's slice of a LoRA adapter, by layer.

    Args:
        updates: The whole adapter.
        own: The slice.
    """
    return {
        layer: replace(
            update,
            down=own.inputs(update.down, layer),
            up=own.outputs(update.up, layer),
            magnitude=None if update.magnitude is None else own.outputs(update.magnitude, layer),
            bias=None if update.bias is None else own.outputs(update.bias, layer),
        )
        for layer, update in updates.items()
    }


def check_sliceable(layer: Any, name: str) -> None:
    """Reject a layer with adapters that cannot be sliced.

    Args:
        layer: What peft has put in place of the layer.
        name: Name of the layer in its block.

    Raises:
        InvalidInputError: It has one of another kind than LoRA, DoRA and LoKr, or fused DoRA.
    """
    variants: dict[str, Any] = layer.lora_variant if type(layer) is LoraLinear else {}
    is_known = type(layer) in {LoraLinear, LokrLinear}
    is_known = is_known and all(type(one) is DoraLinearVariant for one in variants.values())
    if is_known and not set(layer.merged_adapters) & set(variants):
        return
    what = "fused DoRA adapters" if is_known else "adapters of another kind"
    raise InvalidInputError(
        f'The layout "tensor" slices LoRA, DoRA and LoKr adapters with their layers, and `{name}` has {what}. Call'
        " `pipe.fuse_lora()` and `pipe.unload_lora_weights()` first, or leave out the layout."
    )


@torch.no_grad()
def slice_adapters(layer: Any, own: LayerSlice, name: str) -> None:
    """Keep this process's slice of the adapters of a layer, in place.

    Args:
        layer: What peft has put in place of the layer, accepted by `check_sliceable`; its base layer is sliced already.
        own: The slice.
        name: Name of the layer in its block.
    """
    if isinstance(layer, LokrLinear):
        SlicedLokr.convert(layer, own, name)
        return
    base = layer.get_base_layer()
    layer.in_features, layer.out_features = base.in_features, base.out_features
    for adapter, down in layer.lora_A.items():
        up, magnitudes = layer.lora_B[adapter], layer.lora_magnitude_vector
        down.weight = _parameter_like(down.weight, own.inputs(down.weight, name))
        down.in_features, up.out_features = base.in_features, base.out_features
        for module in (up, *([magnitudes[adapter]] if adapter in magnitudes else [])):
            for key, tensor in list(module.named_parameters(recurse=False)):
                setattr(module, key, _parameter_like(tensor, own.outputs(tensor, name)))
    _sum_inputs(layer)


def sum_adapters(transformer: Any) -> None:
    """Have adapters that peft has put on a sliced transformer compute this process's slice.

    Args:
        transformer: The transformer, after LoRA matrices were loaded as slices, or LoKr factors whole.
    """
    for block in transformer.blocks:
        for name in LAYERS:
            adapted, _ = unwrapped(block.get_submodule(name))
            for layer in adapted:
                if isinstance(layer, LoraLinear):
                    _sum_inputs(layer)
                elif type(layer) is LokrLinear:
                    SlicedLokr.convert(layer, transformer.layer_slice, name)


@contextmanager
def whole_sizes(transformer: Any) -> Generator[None]:
    """Have sliced layers state the sizes of whole ones, from which peft takes those of LoKr's factors.

    Args:
        transformer: A sliced one.
    """
    bases = [
        (unwrapped(block.get_submodule(name))[1], name) for block in transformer.blocks for name in LAYERS
    ]
    sizes = [(base, name, (base.out_features, base.in_features)) for base, name in cast("Any", bases)]
    try:
        for base, name, size in sizes:
            base.out_features, base.in_features = transformer.layer_slice.whole_shape(size, name)
        yield
    finally:
        for base, _, size in sizes:
            base.out_features, base.in_features = size


def _sum_inputs(layer: Any) -> None:
    """Sum what LoRA matrices of slices of inputs compute over the processes."""
    base = layer.get_base_layer()
    if not isinstance(base, InputSlice):
        return
    for adapter, down in list(layer.lora_A.items()):
        if not isinstance(down, InputSlice):
            layer.lora_A[adapter] = InputSlice(down.weight, None, base.group)
    for adapter, magnitudes in list(layer.lora_magnitude_vector.items()):
        if not isinstance(magnitudes, SlicedMagnitudes):
            layer.lora_magnitude_vector[adapter] = SlicedMagnitudes(magnitudes, base.group)


def _parameter_like(whole: nn.Parameter, values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=whole.requires_grad)
