"""The server: an OpenAI-compatible application around one queue of jobs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from joyimage.serving.app import create_app
    from joyimage.serving.settings import ServerSettings

__all__ = ["ServerSettings", "create_app"]

_HOMES = {"ServerSettings": "joyimage.serving.settings", "create_app": "joyimage.serving.app"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'joyimage.serving' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
