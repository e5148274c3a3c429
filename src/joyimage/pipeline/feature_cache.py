"""What was computed from images and prompts, cached for the next edit of the same image."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from PIL.Image import Image

T = TypeVar("T")


class FeatureCache:
    """Cache results by what they were computed from; the least recently used go first.

    The key of an image is its pixels, not its name or object: another image never gets what belongs to the
    first. Weights that are changed in place are not noticed; call `clear` after that.

    Args:
        max_bytes: Maximum size of the cached tensors; None: no limit.

    Attributes:
        num_bytes: Size of the cached tensors.
        miss_count: How often results of each kind, the first part of their keys, were computed.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.miss_count: Counter[str] = Counter()
        self._entries: OrderedDict[tuple[Hashable, ...], tuple[Any, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get_or_compute(self, key: tuple[Hashable, ...], compute: Callable[[], T]) -> T:
        """Return the cached result of a key, computed where it is missing.

        Args:
            key: Kind of the result, then all that it was computed from.
            compute: Computes the result.
        """
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key][0]
        value = compute()
        self.miss_count[str(key[0])] += 1
        size = _count_bytes(value)
        if self.max_bytes is None or size <= self.max_bytes:
            self._entries[key] = value, size
            self.num_bytes += size
        while self.max_bytes is not None and self.num_bytes > self.max_bytes:
            _, (_, dropped) = self._entries.popitem(last=False)
            self.num_bytes -= dropped
        return value

    def clear(self) -> None:
        """Empty the cache."""
        self._entries.clear()
        self.num_bytes = 0


def digest(image: Image) -> str:
    """Return a hash of an image's pixels, size and mode."""
    header = f"{image.mode} {image.width} {image.height} ".encode()
    return hashlib.blake2b(header + image.tobytes(), digest_size=16).hexdigest()


def _count_bytes(value: object) -> int:
    """Add up the sizes of the tensors in a value, however they are nested."""
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
