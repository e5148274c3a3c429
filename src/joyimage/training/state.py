"""The state of a run in one file, from which it resumes to the bit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize

from joyimage.errors import CheckpointError
from joyimage.imaging import write_whole
from joyimage.training.optimizers import optimizer_tensors, restore_optimizer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch import Tensor


def save_state(
    path: Path,
    step: int,
    settings: str,
    weights: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    savings: Mapping[str, Any],
) -> None:
    """Write the state; the file of the step before stays whole until this one is.

    Args:
        path: The file.
        step: Steps done.
        settings: Hash of everything that the run's numbers depend on.
        weights: The adapter's trained weights by name.
        average: Their average by name; empty without.
        optimizer: The optimizer.
        savings: How memory is kept low, which a resumed run keeps: it may change the last bit.

    Raises:
        ImageError: The file cannot be written.
    """
    tensors, others = optimizer_tensors(optimizer)
    content = {f"weight.{name}": tensor for name, tensor in weights.items()}
    content |= {f"average.{name}": tensor for name, tensor in average.items()}
    content |= {f"optimizer.{name}": tensor for name, tensor in tensors.items()}
    header = {
        "step": str(step),
        "settings": settings,
        "optimizer": json.dumps(others, sort_keys=True),
        "savings": json.dumps(savings, sort_keys=True),
    }
    file_content = serialize(
        {name: tensor.detach().cpu().contiguous() for name, tensor in content.items()}, header
    )
    write_whole(path, lambda file: file.write(file_content))


def read_savings(path: Path) -> dict[str, Any] | None:
    """Return how the run that saved a state keeps memory low; None where there is no such state.

    Args:
        path: The file, which may be missing.

    Raises:
        CheckpointError: The file is damaged.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
            return json.loads(header["savings"]) if "savings" in header else None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Delete it to start anew.") from None


def load_state(
    path: Path,
    settings: str,
    weights: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> int:
    """Put a saved state in place, and return the number of steps done.

    Args:
        path: The file.
        settings: Hash of everything that the run's numbers depend on.
        weights: The adapter's trained weights, which are overwritten.
        average: Their average, which is overwritten; empty without.
        optimizer: The optimizer, whose state is replaced.

    Raises:
        CheckpointError: The file is damaged, or belongs to other settings or other data.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
            if header.get("settings") != settings:
                raise CheckpointError(
                    f"{path} was saved by a run with other settings or other data. To start anew, delete {path.parent}"
                    " or choose another output."
                )
            for prefix, tensors in (("weight", weights), ("average", average)):
                for name, tensor in tensors.items():
                    tensor.copy_(file.get_tensor(f"{prefix}.{name}"))
            stored = {
                key.removeprefix("optimizer."): file.get_tensor(key)
                for key in file.keys()  # noqa: SIM118 - no mapping
                if key.startswith("optimizer.")
            }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Delete it to start anew.") from None
    others: Any = json.loads(header["optimizer"])
    restore_optimizer(optimizer, stored, others)
    return int(header["step"])
