"""Run pipelines on shapes alone and count what a GPU would have to do.

Weights and floats live on torch's "meta" device, which stands for the GPU: they have shapes and no values.
Whole numbers, masks and a few small lists (token ids, positions, noise levels) keep their values, because
control flow depends on them. So a whole edit of the published model runs in seconds, and every operator of it
is seen.
"""

from __future__ import annotations

import math
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count
from torch.utils.weak import WeakIdKeyDictionary

from joyimage.compat.torch import TorchDispatchMode, is_mutating, tree_map

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SMALL = 1024
"""Elements up to which floats from the host keep their values: noise levels, not tables."""

aten: Any = torch.ops.aten
_IS_CUDA = vars(torch.Tensor.__mro__[1])["is_cuda"].__get__
_MATMULS = {aten._addmm_activation}
_ONEDNN_LINEAR = "_linear_pointwise"  # a product of rows and a transposed weight, which torch does not count
_ONEDNN_CONVOLUTIONS = {
    "_convolution_pointwise": 0,
    "_convolution_pointwise_": 1,
}  # and where their images stand
_FACTORIES = ("arange", "linspace", "zeros", "ones", "full", "scalar_tensor", "lift_fresh", "eye")
_SYNCS = {aten._local_scalar_dense, aten.nonzero, aten.is_nonzero, aten.equal}
_OVERWRITING = {aten.copy_, aten.fill_, aten.zero_, aten.normal_}
_FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "_unsafe_view"}


@dataclass
class Counts:
    """What was counted in one region.

    Attributes:
        flops: Operations of matmuls, convolutions and attention; a multiplication and an addition count as two.
        elementwise_bytes: Bytes that all other operators read and write, each by itself, views excluded.
        host_copies: Tensors copied from the host to the device.
        host_copy_bytes: Size of these copies.
        host_tensors: Tensors built on the host.
        syncs: How often the host waits for a value from the device.
        operators: Elementwise bytes per operator.
    """

    flops: int = 0
    elementwise_bytes: int = 0
    host_copies: int = 0
    host_copy_bytes: int = 0
    host_tensors: int = 0
    syncs: int = 0
    operators: Counter[str] = field(default_factory=Counter)


class OpCounter:
    """Collect counts by region; regions may lie within one another."""

    def __init__(self) -> None:
        self.regions: dict[str, Counts] = {}
        self._open: list[str] = []

    def __getitem__(self, name: str) -> Counts:
        return self.regions.setdefault(name, Counts())

    def enter(self, name: str) -> None:
        """Count towards a region from now on."""
        self[name]
        self._open.append(name)

    def leave(self, name: str) -> None:
        """Count towards a region no more."""
        self._open.remove(name)

    def open(self) -> list[Counts]:
        """Return the counts of all regions that are open."""
        return [self.regions[name] for name in self._open]

    @contextmanager
    def counting(self, *, as_gpu: bool = False) -> Iterator[None]:
        """Count what runs inside the block.

        Args:
            as_gpu: Whether tensors on the "meta" device say that they are on a CUDA device.

        Yields:
            Nothing.
        """
        with _Functions(self, as_gpu=as_gpu), _Operators(self):
            yield


def is_device(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is on the device that stands for the GPU."""
    return tensor.device.type == "meta"


def num_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Add up the sizes of distinct tensors; a broadcast one counts once.

    Args:
        tensors: Tensors to add up; duplicates count once.

    Returns:
        Bytes of memory that reading them all touches.
    """
    distinct = {id(tensor): tensor for tensor in tensors}.values()
    return sum(_touched(tensor) * tensor.element_size() for tensor in distinct)


def _touched(tensor: torch.Tensor) -> int:
    return math.prod(
        size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size
    )


def attention_result(query: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return a tensor like attention's `[B, N, L, H]`, in memory `[B, L, N, H]` as from fast kernels."""
    *batch, heads, tokens, _ = query.shape
    return query.new_empty(*batch, tokens, heads, value.shape[-1]).transpose(-3, -2)


class _Functions(TorchFunctionMode):
    """Count what a GPU does in one go, and values that go to the device, before torch takes them apart."""

    def __init__(self, counter: OpCounter, *, as_gpu: bool) -> None:
        super().__init__()
        self._counter = counter
        self._as_gpu = as_gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func is functional.rms_norm and is_device(args[0]):
            return self._normalize(*args, **kwargs)
        if self._as_gpu and func == _IS_CUDA:
            return args[0].device.type == "meta"
        if func in {torch.tensor, torch.as_tensor} and _type(kwargs.get("device")) == "meta":
            return func(*args, **{**kwargs, "device": "cpu"}).to("meta")
        return func(*args, **kwargs)

    def _attend(self, query: Any, key: Any, value: Any, *_: Any, **settings: Any) -> torch.Tensor:
        if settings.get("enable_gqa"):
            groups = query.shape[-3] // key.shape[-3]
            shapes = [(*t.shape[:-3], t.shape[-3] * groups, *t.shape[-2:]) for t in (key, value)]
        else:
            shapes = [key.shape, value.shape]
        flat = [(math.prod(shape[:-3]), *shape[-3:]) for shape in (query.shape, *shapes)]
        for counts in self._counter.open():
            counts.flops += sdpa_flop_count(*flat)
        return attention_result(query, value)

    def _normalize(
        self, rows: torch.Tensor, _shape: Any, weight: Any = None, *_: Any, **__: Any
    ) -> torch.Tensor:
        """Count RMSNorm as the one operator that it is on a GPU; shapes alone would be taken apart."""
        out = torch.empty_like(rows)
        moved = num_bytes([rows, out] if weight is None else [rows, weight, out])
        for counts in self._counter.open():
            counts.elementwise_bytes += moved
            counts.operators["rms_norm"] += moved
        return out


class _Operators(TorchDispatchMode):
    """Run operators on shapes where the device is concerned, on values where the host is, and count them."""

    def __init__(self, counter: OpCounter) -> None:
        super().__init__()
        self._counter = counter
        self._pretending = WeakIdKeyDictionary()  # tensors with values that stand for ones on the device
        self._results: dict[Any, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        packet = func.overloadpacket
        given = _leaves((*args, *kwargs.values()))
        asked = _type(kwargs.get("device"))
        on_device = [self._is_device(tensor) for tensor in given]
        masks = _masks(packet, args)
        waits = any(map(self._is_device, masks)) or (packet in _SYNCS and any(on_device))
        self._note(packet, given, on_device, asked, waits=waits)
        if masks:
            args = (args[0], _places(args[1]), *args[2:])

        out = self._run(func, packet, args, kwargs, given, asked)

        results = _leaves((out,))
        if asked == "meta" or (any(on_device) and asked != "cpu"):
            for result in results:
                if not is_device(result):
                    self._pretending[result] = True
        open_regions = self._counter.open()
        if has_flops(packet):
            flops = count_flops(packet, args, kwargs, out)
            for counts in open_regions:
                counts.flops += flops
        elif any(map(is_device, results)) and not moves_nothing(func, packet):
            reads = given[1:] if packet in _OVERWRITING else given
            moved = num_bytes(tensor for tensor in reads if tensor is not kwargs.get("out")) + num_bytes(
                results
            )
            for counts in open_regions:
                counts.elementwise_bytes += moved
                counts.operators[packet.__name__] += moved
        return out

    def _is_device(self, tensor: torch.Tensor) -> bool:
        return is_device(tensor) or tensor in self._pretending

    def _note(
        self, packet: Any, given: list[torch.Tensor], on_device: list[bool], asked: str | None, *, waits: bool
    ) -> None:
        """Count copies between host and device, tensors built on the host, and waits."""
        copied: list[torch.Tensor] = []
        if packet is aten._to_copy:
            copied = given if asked == "meta" and not on_device[0] else []
            waits = waits or (asked == "cpu" and on_device[0])
        elif packet is aten.copy_ and on_device[0] != on_device[-1]:
            copied = given[1:] if on_device[0] else []
            waits = waits or on_device[-1]
        built = asked != "meta" and not given and packet.__name__ in _FACTORIES
        for counts in self._counter.open():
            counts.host_copies += len(copied)
            counts.host_copy_bytes += num_bytes(copied)
            counts.syncs += waits
            counts.host_tensors += built

    def _run(
        self,
        func: Any,
        packet: Any,
        args: Any,
        kwargs: dict[str, Any],
        given: list[torch.Tensor],
        asked: str | None,
    ) -> Any:
        has_shapes_only = any(map(is_device, given))
        if _keeps_values(packet, args, kwargs, given, asked):
            if packet.__name__.startswith("new_"):
                args = (torch.empty(0), *args[1:])
            return func(*args, **{**kwargs, "device": torch.device("cpu")})
        if not has_shapes_only:
            return func(*args, **kwargs)
        assert packet not in _SYNCS, f"{func} asks for a value that was never computed"
        if packet is aten._to_copy and asked == "cpu":
            kwargs["device"] = given[0].device  # what comes of it has no values either
        if is_mutating(func):  # only shapes count, and these stay
            return kwargs["out"] if "out" in kwargs else args[0]
        if func.is_view:
            return func(*args, **kwargs)
        key = (func, _signature(args), _signature(tuple(kwargs.items())))
        if key not in self._results:
            args, kwargs = tree_map(_shape_only, (args, kwargs))
            out = func(*args, **kwargs)
            self._results[key] = tree_map(_describe, out)
            return out
        return tree_map(_make, self._results[key])


@dataclass(frozen=True)
class _Shape:
    """A result without values, to be made again."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def _type(device: Any) -> str | None:
    return None if device is None else torch.device(device).type


def _describe(value: Any) -> Any:
    return (
        _Shape(tuple(value.shape), value.stride(), value.dtype) if isinstance(value, torch.Tensor) else value
    )


def _make(value: Any) -> Any:
    if isinstance(value, _Shape):
        return torch.empty_strided(value.size, value.stride, dtype=value.dtype, device="meta")
    return value


def _signature(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, (list, tuple)):
        return tuple(map(_signature, value))
    return type(value), value


def _leaves(values: Any) -> list[torch.Tensor]:
    """Return the tensors in an operator's arguments or results."""
    leaves: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            leaves.append(value)
        elif isinstance(value, (list, tuple)):
            leaves += [part for part in value if isinstance(part, torch.Tensor)]
    return leaves


def _shape_only(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.device.type == "cpu" and value.ndim:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return value


def _keeps_values(
    packet: Any, args: Any, kwargs: dict[str, Any], given: list[torch.Tensor], asked: str | None
) -> bool:
    """Return whether a result on the device keeps its values."""
    dtype = kwargs.get("dtype")
    is_whole = dtype is not None and not dtype.is_floating_point
    if packet.__name__ in {"new_ones", "new_zeros", "new_full"}:
        return is_whole or (dtype is None and not given[0].dtype.is_floating_point)
    if asked != "meta" or any(map(is_device, given)):
        return False
    if packet is aten._to_copy:
        return not (dtype or given[0].dtype).is_floating_point or given[0].numel() <= _SMALL
    if dtype is None and packet is aten.arange:
        return all(isinstance(value, int) for value in args)
    return is_whole


def _masks(packet: Any, args: Any) -> list[torch.Tensor]:
    if packet not in {aten.index, aten.index_put, aten.index_put_}:
        return []
    return [index for index in args[1] if index is not None and index.dtype == torch.bool]


def _places(indices: Any) -> list[Any]:
    """Replace masks by the indices where they are true: their number does not follow from shapes."""
    replaced: list[Any] = []
    for index in indices:
        if index is not None and index.dtype == torch.bool:
            assert not is_device(index), "a mask without values can't select"
            replaced += index.nonzero().unbind(1)
        else:
            replaced.append(index)
    return replaced


def has_flops(packet: Any) -> bool:
    """Tell whether `count_flops` knows an operator."""
    is_onednns = packet.__name__ == _ONEDNN_LINEAR or packet.__name__ in _ONEDNN_CONVOLUTIONS
    return packet in flop_registry or packet in _MATMULS or is_onednns


def count_flops(packet: Any, args: Any, kwargs: dict[str, Any], out: Any) -> int:
    """Return the operations of a matmul, a convolution or attention; a multiplication and an addition count as two."""
    if packet.__name__ == _ONEDNN_LINEAR:
        return 2 * args[0].numel() * args[1].shape[0]
    if packet.__name__ in _ONEDNN_CONVOLUTIONS:
        weight = args[_ONEDNN_CONVOLUTIONS[packet.__name__] + 1]  # [O, C, h, w]
        return 2 * out.numel() * math.prod(weight.shape[1:])
    if packet in _MATMULS:
        rows, weight = args[1], args[2]
        return 2 * rows.shape[0] * rows.shape[1] * weight.shape[1]
    settings = {name: value for name, value in kwargs.items() if name != "out"}
    return flop_registry[packet](*args, **settings, out_val=out)


def moves_nothing(func: Any, packet: Any) -> bool:
    """Return whether an operator moves no data: a view, or memory without values."""
    return func.is_view or packet.__name__ in _FREE
