"""One row of a batch, as it was read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row, as it was read.

    Attributes:
        number: Line of the row in its file, or its place in the folder, from 1.
        fields: Values by field; None where the row could not be read.
        is_text: Whether all values are text, as in CSV.
        problem: Why the row could not be read.
    """

    number: int
    fields: dict[str, Any] | None = None
    is_text: bool = False
    problem: str | None = None
