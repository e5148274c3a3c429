"""Private names of accelerate that joyimage uses, because accelerate has no public way to them."""

from __future__ import annotations

from typing import Any


def offload_hook(module: Any) -> Any:
    """Return the hook by which accelerate moves a module to its device, or None if there is none."""
    return vars(module).get("_hf_hook")  # a module without one would raise and catch an error for `getattr`
