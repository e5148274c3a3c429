"""Small weights in the layout that a CPU's products and convolutions read, kept from edit to edit.

oneDNN reorders a plain weight in every product, which few rows of tokens do not repay: it is a tenth of a small model's
loop, and of its VAE.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary, ref

import torch

from joyimage.compat.torch import onednn_linear, reorder_weight

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from torch import Tensor, nn

_MOST_ROWS = 1024
"""Rows of tokens up to which reordering costs a share of the product that can be measured."""
_MOST_VALUES = 2**20
"""Values of a weight up to which it is kept a second time: 4 MB in fp32. Models with larger ones have more tokens."""
_MOST_BYTES = 2**27
"""Most memory for the layouts of a network."""

_Key = tuple[int, int | None, int | None]


@dataclass
class _Kept:
    """A weight that is kept a second time.

    Attributes:
        weight: The weight, as long as it lives.
        digest: What its values were.
        layout: The values, or some rows of them, as oneDNN reads them.
    """

    weight: ref[Tensor]
    digest: int
    layout: Tensor


class WeightLayouts:
    """Layouts of a network's small weights.

    Reordering a weight takes several products to repay, so layouts outlive an edit. Weights may change between edits
    in ways that leave no trace, such as an adapter that is added to `weight.data`: `check` compares all values.
    """

    def __init__(self) -> None:
        self._kept: dict[_Key, _Kept] = {}

    def check(self) -> None:
        """Forget the layouts of weights that are gone or have changed."""
        for key, kept in list(self._kept.items()):
            weight = kept.weight()
            if weight is None or not _can_keep(weight) or _digest(weight) != kept.digest:
                self._kept.pop(key, None)  # another thread may have been first

    def find(self, weight: Tensor, part: slice | None, reorder: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Return rows of a weight in oneDNN's layout; None where it is not to be kept.

        Args:
            weight: Weight of a layer, `[N, ...]`.
            part: Which rows; None: all.
            reorder: Brings them into that layout. It does the same in every call for this weight.
        """
        key = (id(weight), None, None) if part is None else (id(weight), part.start, part.stop)
        kept = self._kept.get(key)
        if kept is not None and kept.weight() is weight:
            return kept.layout
        if not _can_keep(weight) or self._num_bytes() + _size_of(weight) > _MOST_BYTES:
            return None
        plain = weight.detach() if part is None else weight.detach()[part]
        layout = reorder(plain)
        self._kept[key] = _Kept(ref(weight), _digest(weight), layout)
        return layout

    def _num_bytes(self) -> int:
        return sum(_size_of(kept.layout) for kept in list(self._kept.values()))


_of_network: WeakKeyDictionary[nn.Module, WeightLayouts] = WeakKeyDictionary()
_in_use: ContextVar[WeightLayouts | None] = ContextVar("joyimage_weight_layouts", default=None)


@contextmanager
def weight_layouts(network: nn.Module) -> Generator[WeightLayouts]:
    """Have the products of a network's layers read their own layout inside the `with`.

    Args:
        network: The network; its weights change inside only before `check` is called.

    Yields:
        Its layouts, checked.
    """
    layouts = _of_network.setdefault(network, WeightLayouts())
    layouts.check()
    token = _in_use.set(layouts)
    try:
        yield layouts
    finally:
        _in_use.reset(token)


def multiply(layer: nn.Module, rows: Tensor, part: slice | None = None, *, gelu: bool = False) -> Tensor:
    """Return a layer's product with tokens `[..., K]` in oneDNN, `[..., N]`.

    Args:
        layer: One for which `can_use_onednn` holds.
        rows: Tokens.
        part: Rows of the weight, which are outputs of the layer; None: all.
        gelu: Whether to apply GELU in its tanh form.
    """
    weight, bias = weights_of(layer)
    num_rows = rows.shape[:-1].numel()
    layout = None
    if num_rows <= _MOST_ROWS:
        layout = find_layout(weight, lambda plain: reorder_weight(plain, num_rows), part)
    if layout is None:
        layout = weight if part is None else weight[part]
    return onednn_linear(rows, layout, bias if part is None else bias[part], gelu=gelu)


def find_layout(
    weight: Tensor, reorder: Callable[[Tensor], Tensor], part: slice | None = None
) -> Tensor | None:
    """Return a weight in the layouts that are in use, None where it is not kept; see `WeightLayouts.find`."""
    layouts = _in_use.get()
    return None if layouts is None else layouts.find(weight, part, reorder)


def weights_of(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a linear layer for which `is_plain_linear` holds."""
    return cast("Tensor", layer.weight), cast("Tensor", layer.bias)


def _can_keep(weight: Tensor) -> bool:
    """Return whether a weight is small, and its values can be compared."""
    values = torch.int64.itemsize // weight.itemsize
    return (
        weight.numel() <= _MOST_VALUES
        and weight.is_contiguous()
        and weight.numel() % values == 0
        and weight.storage_offset() % values == 0
    )


def _size_of(tensor: Tensor) -> int:
    """Return the bytes of a tensor's values; one in oneDNN's layout has no storage to ask."""
    return tensor.numel() * tensor.itemsize


def _digest(weight: Tensor) -> int:
    """Return a number that no likely change of the values leaves as it is: the sum of all their bits."""
    return int(weight.detach().view(-1).view(torch.int64).sum())
