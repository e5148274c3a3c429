"""Private names of accelerate that joyimage uses, because accelerate has no public way to them."""

from __future__ import annotations

from typing import Any


def offload_hook(module: Any) -> Any:
    """Return the hook by which accelerate moves a module to its device, or None if there is none."""
    return getattr(module, "_hf_hook", None)
