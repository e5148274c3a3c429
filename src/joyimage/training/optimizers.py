"""Optimizers of an adapter, and their whole state as tensors and numbers."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from joyimage.errors import InvalidInputError
from joyimage.training.optimizer import Muon

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

_PACKAGES = {"adamw8bit": ("bitsandbytes", "AdamW8bit", "optim"), "prodigy": ("prodigyopt", "Prodigy", "")}


def make_optimizer(name: str, parameters: Sequence[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """Return an optimizer by its name.

    Args:
        name: "adamw", "adamw8bit" (needs bitsandbytes), "prodigy" (needs prodigyopt) or "muon".
        parameters: What to optimize.
        rate: Learning rate; with prodigy a factor on the rate that it finds, usually 1.

    Raises:
        InvalidInputError: The package that it needs is not installed.
    """
    check_optimizer(name)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.0)
    if name == "muon":
        return Muon(parameters, lr=rate)
    package, attribute, module = _PACKAGES[name]
    made = getattr(importlib.import_module(f"{package}.{module}".rstrip(".")), attribute)
    return made(parameters, lr=rate, weight_decay=0.0)


def check_optimizer(name: str) -> None:
    """Reject an optimizer whose package is missing.

    Args:
        name: Name of the optimizer.

    Raises:
        InvalidInputError: The package is not installed.
    """
    if name in _PACKAGES:
        package = _PACKAGES[name][0]
        if importlib.util.find_spec(package) is None:
            raise InvalidInputError(
                f"`train.optimizer` is {name!r}, which needs the package {package}; run"
                " `pip install 'joyimage[train]'`, or use 'adamw'."
            )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return an optimizer's state: tensors by name, and everything else as JSON values.

    bitsandbytes keeps its quantized moments in a dict of their own, whose names follow after a slash.
    """
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    others: dict[str, Any] = {"groups": [], "state": {}}
    for index, entry in state["state"].items():
        flat: dict[str, Any] = {}
        for name, value in entry.items():
            inner = value if isinstance(value, dict) else {None: value}
            flat |= {name if key is None else f"{name}/{key}": one for key, one in inner.items()}
        for name, value in flat.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                others["state"].setdefault(str(index), {})[name] = value
    for group in state["param_groups"]:
        others["groups"].append(
            {
                name: value
                for name, value in group.items()
                if name not in {"params", "lr"} and isinstance(value, (int, float, bool, str, type(None)))
            }
        )
    return tensors, others


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], others: dict[str, Any]
) -> None:
    """Restore what `optimizer_tensors` returned."""
    state = optimizer.state_dict()
    entries: dict[int, dict[str, Any]] = {int(index): dict(entry) for index, entry in others["state"].items()}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        entries.setdefault(int(index), {})[name] = value
    entries = {index: _nested(entry) for index, entry in entries.items()}
    for group, stored in zip(state["param_groups"], others["groups"], strict=True):
        group.update(stored)
    optimizer.load_state_dict({**state, "state": entries})


def _nested(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the state of one parameter with names "outer/inner" in dicts again."""
    nested: dict[str, Any] = {}
    for name, value in entry.items():
        outer, slash, inner = name.partition("/")
        if slash:
            nested.setdefault(outer, {})[inner] = value
        else:
            nested[name] = value
    return nested
