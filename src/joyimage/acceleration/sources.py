"""Where the weights of streamed blocks come from: host memory or weight files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from joyimage.acceleration.quantization import stored_part
from joyimage.errors import CheckpointError
from joyimage.model.checkpoint.encodings.base import WEIGHT, EncodedWeight, Plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from joyimage.model.checkpoint.source import WeightSource


class BlockSource(Protocol):
    """Tensors of a model by name, read when they are needed.

    Attributes:
        plan: Memory plan that reads from such a source: "block" or "disk".
    """

    plan: str

    def read(self, names: Sequence[str]) -> dict[str, EncodedWeight]:
        """Return tensors on the CPU, as they are stored. Called from a background thread too."""
        ...


class HostSource:
    """Tensors in host memory.

    Args:
        tensors: Tensors by name, on the CPU; in page-locked memory for a CUDA device, which reads it without a
            further copy.
    """

    plan = "block"

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)

    def read(self, names: Sequence[str]) -> dict[str, EncodedWeight]:
        """Return the tensors themselves, without a copy."""
        return {name: _plain(self._tensors[name]) for name in names}


class DiskSource:
    """Tensors in weight files, mapped into memory while they are used.

    The files are mapped anew for each read: pages of a mapping that is gone can be dropped by the operating
    system, so host memory holds the blocks in use and, as far as there is room, a cache of the files.

    Args:
        weights: The files.
        kept: Name in the model → weight and part of it, for the tensors of layers that stay as they are stored.
            Everything else is decoded.
    """

    plan = "disk"

    def __init__(self, weights: WeightSource, kept: Mapping[str, tuple[str, str]]) -> None:
        self._weights = weights
        self._kept = dict(kept)
        # Weights outside of blocks keep the mapping that they were loaded from, and with it every page that is
        # read through it: the first block must come through one of its own.
        weights.unmap()

    def read(self, names: Sequence[str]) -> dict[str, EncodedWeight]:
        """Return tensors as views of the mapped files, their pages already read.

        Raises:
            CheckpointError: No file holds a weight.
        """
        found: dict[str, EncodedWeight] = {}
        for name in names:
            weight, part = self._kept.get(name, (name, None))
            if weight not in self._weights.weights:
                raise CheckpointError(f"The checkpoint holds no weight `{weight}`, which this call needs.")
            stored = self._weights.read(weight)
            found[name] = stored if part is None else _plain(stored_part(stored, part))
        self._weights.unmap()
        for stored in found.values():
            for tensor in stored.parts.values():
                _touch(tensor)
        return found


def _plain(tensor: Tensor) -> EncodedWeight:
    return EncodedWeight(Plain(), {WEIGHT: tensor}, tuple(tensor.shape))


def _touch(tensor: Tensor) -> None:
    """Have the operating system read the pages of a mapped tensor now, in this thread."""
    flat = tensor.reshape(-1).view(torch.uint8)
    flat[::4096].sum()
