"""Checkpoints that are known by a short name, such as the `tiny` one inside this package.

A package that ships a checkpoint registers it when it is imported. The packages of joyimage that do so are
imported on the first look-up, by name, so that lower layers need not know them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from joyimage.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PROVIDERS = ("joyimage.tiny",)
"""Packages that register a checkpoint when they are imported."""

_FOLDERS: dict[str, Callable[[], Path]] = {}


def register_checkpoint(name: str, folder: Callable[[], Path]) -> None:
    """Make a checkpoint folder known by a name.

    Args:
        name: What `from_pretrained`, `load_pipeline` and `--model` accept in place of a path.
        folder: Returns the folder; called on each look-up.
    """
    _FOLDERS[name] = folder


def registered_names() -> list[str]:
    """Return the names of all registered checkpoints, sorted."""
    for provider in _PROVIDERS:
        importlib.import_module(provider)
    return sorted(_FOLDERS)


def registered_folder(name: str) -> Path | None:
    """Return the folder of a registered checkpoint, or None if no checkpoint has that name.

    Args:
        name: A registered name, or anything else that a user may give as a model.

    Raises:
        CheckpointError: The name is registered, but its folder is missing.
    """
    if name not in registered_names():
        return None
    folder = _FOLDERS[name]()
    if not folder.is_dir():
        raise CheckpointError(
            f"The checkpoint '{name}' is not part of this installation: {folder} is missing."
            " Reinstall joyimage."
        )
    return folder
