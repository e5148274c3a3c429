"""How a request names the adapters of a server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

_NUMBER = re.compile(r"[+-]?(\d{1,6}(\.\d{0,6})?|\.\d{1,6})")


def parse_adapter(text: str, names: Sequence[str] = ()) -> tuple[str, float]:
    """Read "NAME" or "NAME:SCALE".

    Args:
        text: Such as "style:0.8".
        names: Names of adapters, which may hold a colon themselves.

    Raises:
        InvalidInputError: The scale is out of range.
    """
    if text in names:
        return text, 1.0
    name, colon, scale = text.rpartition(":")
    if not colon or not _NUMBER.fullmatch(scale):
        return text, 1.0
    factor = float(scale)
    if not -100 <= factor <= 100:
        raise InvalidInputError(
            f"`loras` holds {text!r}; expected a scale from -100 to 100, for example {name}:0.8."
        )
    return name, factor
