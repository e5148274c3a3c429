"""Values that may be missing by their type, but not in a test."""

from __future__ import annotations

from typing import TypeVar

Value = TypeVar("Value")


def present(value: Value | None) -> Value:
    """Return the value; fails where it is None."""
    assert value is not None
    return value
