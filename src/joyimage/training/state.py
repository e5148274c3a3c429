"""The state of a run in one file, from which it resumes to the bit."""

from __future__ import annotations

import json
from dataclasses import dataclass
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
    settings: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    savings: Mapping[str, Any],
) -> None:
    """Write the state; the file of the step before stays whole until this one is.

    Args:
        path: The file.
        step: Steps done.
        settings: Everything that the run's numbers depend on, as JSON values by name.
        weights: The adapter's trained weights by name.
        average: Moving average of the trained weights by name; empty where none is kept.
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
        "settings": json.dumps(settings, sort_keys=True),
        "optimizer": json.dumps(others, sort_keys=True),
        "savings": json.dumps(savings, sort_keys=True),
    }
    file_content = serialize(
        {name: tensor.detach().cpu().contiguous() for name, tensor in content.items()}, header
    )
    write_whole(path, lambda file: file.write(file_content))


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """What a state says of the run that saved it.

    Attributes:
        path: The file.
        settings: Everything that its numbers depend on, as JSON values by name.
        savings: How it keeps memory low, as in `Savings.to_dict`.
    """

    path: Path
    settings: dict[str, Any]
    savings: dict[str, Any]

    def check(self, settings: Mapping[str, Any]) -> None:
        """Reject to resume the run with other settings.

        Args:
            settings: Those of the run that resumes it.

        Raises:
            CheckpointError: A setting differs; the message names each with both values.
        """
        present: dict[str, Any] = json.loads(json.dumps(settings))
        names = sorted(present.keys() | self.settings.keys())
        differing = [
            f"`{name}` was {_shown(self.settings.get(name))} and is {_shown(present.get(name))}"
            for name in names
            if self.settings.get(name) != present.get(name)
        ]
        if differing:
            raise CheckpointError(
                f"{self.path} was saved by another run: {', '.join(differing)}. Resume it with the settings and data"
                f" that it began with; or, to start anew, delete {self.path.parent} or choose another output."
            )


def read_saved_run(path: Path) -> SavedRun | None:
    """Return what a state says of the run that saved it; None where there is no state.

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
        return SavedRun(
            path=path, settings=json.loads(header["settings"]), savings=json.loads(header["savings"])
        )
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Delete it to start anew.") from None


def load_state(
    path: Path, weights: Mapping[str, Tensor], average: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> int:
    """Put a saved state in place, and return the number of steps done.

    Args:
        path: The file, of a run with the same settings.
        weights: The adapter's trained weights, which are overwritten.
        average: Moving average of the trained weights, which is overwritten; empty where none is kept.
        optimizer: The optimizer, whose state is replaced.

    Raises:
        CheckpointError: The file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
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


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)
