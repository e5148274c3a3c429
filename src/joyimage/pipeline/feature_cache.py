"""What was worked out about pictures and prompts, kept for the next edit of the same picture."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from PIL.Image import Image

T = TypeVar("T")


class EditMemory:
    """Keep results by what they were made of, the least recently used going first.

    A picture counts by its pixels, not by its name or object: another picture never gets what belongs to the
    first. Nothing notices weights that are changed in place; `clear` after that.

    Args:
        max_bytes: Most bytes of tensors kept; None keeps everything.

    Attributes:
        num_bytes: Bytes of tensors that are kept.
        made: How often results of each kind, the first part of their keys, had to be worked out.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.made: Counter[str] = Counter()
        self._kept: OrderedDict[tuple[Hashable, ...], tuple[Any, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def once(self, key: tuple[Hashable, ...], make: Callable[[], T]) -> T:
        """Return `make()`, or what it returned before under the same key, which begins with a kind's name."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        value = make()
        self.made[str(key[0])] += 1
        size = _count_bytes(value)
        if self.max_bytes is None or size <= self.max_bytes:
            self._kept[key] = value, size
            self.num_bytes += size
        while self.max_bytes is not None and self.num_bytes > self.max_bytes:
            _, (_, dropped) = self._kept.popitem(last=False)
            self.num_bytes -= dropped
        return value

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.num_bytes = 0


def digest(picture: Image) -> str:
    """Name a picture by its pixels, size and mode."""
    marks = f"{picture.mode} {picture.width} {picture.height} ".encode()
    return hashlib.blake2b(marks + picture.tobytes(), digest_size=16).hexdigest()


def _count_bytes(value: object) -> int:
    """Add up the tensors in a value, wherever they hang."""
    seen: set[int] = set()

    def count(part: Any) -> int:
        if id(part) in seen or isinstance(part, (str, int, float, torch.nn.Module)):
            return 0
        seen.add(id(part))
        if isinstance(part, torch.Tensor):
            return part.numel() * part.element_size()
        if isinstance(part, dict):
            return sum(count(item) for item in cast("dict[Any, Any]", part).values())
        if isinstance(part, (list, tuple)):
            return sum(count(item) for item in cast("list[Any]", part))
        return count(vars(part)) if hasattr(part, "__dict__") else 0

    return count(value)
