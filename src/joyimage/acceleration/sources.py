"""Where the weights of streamed blocks come from: host memory or weight files."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import safe_open

from joyimage.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor


class BlockSource(Protocol):
    """Weights by name, read when they are needed.

    Attributes:
        plan: Memory plan that reads from such a source: "block" or "disk".
    """

    plan: str

    def read(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return weights on the CPU, in the source's own dtype. Called from a background thread."""
        ...


class HostSource:
    """Weights in host memory.

    Args:
        weights: Weights by name, on the CPU; in page-locked memory for a CUDA device, which reads it without a
            further copy.
    """

    plan = "block"

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = dict(weights)

    def read(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the weights themselves, without a copy."""
        return {name: self._weights[name] for name in names}


class FileSource:
    """Weights in safetensors files, mapped into memory while they are used.

    The files are opened anew for each read: pages of a mapping that is gone can be dropped by the operating
    system, so host memory holds the blocks in use and, as far as there is room, a cache of the files.

    Args:
        files: File that holds each weight, by name.
    """

    plan = "disk"

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = dict(files)

    def read(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return weights as views of the mapped files, their pages already read.

        Raises:
            CheckpointError: No file holds a weight.
        """
        missing = next((name for name in names if name not in self._files), None)
        if missing is not None:
            raise CheckpointError(f"The checkpoint holds no weight `{missing}`, which this call needs.")
        with ExitStack() as stack:
            opened: dict[Path, Any] = {  # safetensors has no types for open files
                path: stack.enter_context(safe_open(path, framework="pt"))
                for path in dict.fromkeys(self._files[name] for name in names)
            }
            weights: dict[str, Tensor] = {name: opened[self._files[name]].get_tensor(name) for name in names}
        for weight in weights.values():
            _touch(weight)
        return weights


def _touch(weight: Tensor) -> None:
    """Have the operating system read the pages of a mapped tensor now, in this thread."""
    flat = weight.reshape(-1).view(torch.uint8)
    flat[::4096].max()
