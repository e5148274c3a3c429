"""What the transformer's forwards of one edit have in common, worked out once.

Dimension key: B batch, S steps, D model width.
"""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from joyimage.compat.torch import version_of
from joyimage.model.attention import ImageRows

T = TypeVar("T")

_MAX_KEPT = 64  # texts and references of one call; the oldest go first


class Reuse:
    """Keep the parts of a forward that the steps and the guidance branches of one edit share.

    Projected texts and patchified references stay for all steps, the time signals of all steps come from one
    matmul, and of the first block the image rows stay for the second branch: same latents, same time. What is
    kept belongs to the very tensors that it was made of: pass the same objects again, and nothing is kept
    longer than this object lives.

    Args:
        timesteps: Scheduler times of all steps, `[S]`.
        num_branches: Forwards with the same latents in each step.
    """

    def __init__(self, timesteps: Tensor, num_branches: int = 1) -> None:
        self.timesteps = timesteps
        self.num_branches = num_branches
        self.step = 0
        self._kept: list[tuple[str, tuple[Tensor, ...], tuple[int, ...], object]] = []
        self._image_rows: list[tuple[tuple[Tensor, ...], ImageRows]] = []

    def begin(self, step: int) -> None:
        """Go on to a step."""
        self.step = step
        self._image_rows.clear()

    def once(self, name: str, sources: tuple[Tensor, ...], make: Callable[[], T]) -> T:
        """Return `make()`, or what it returned before for the same name and the same, unchanged tensors."""
        if any(source.is_inference() for source in sources):  # these don't tell whether they were changed
            return make()
        versions = tuple(version_of(source) for source in sources)
        for kept_name, kept_sources, kept_versions, value in self._kept:
            if kept_name == name and kept_versions == versions and _are_same(kept_sources, sources):
                return value  # pyright: ignore[reportReturnType]
        value = make()
        self._kept.append((name, sources, versions, value))
        del self._kept[:-_MAX_KEPT]
        return value

    def image_rows(self, items: tuple[Tensor, ...]) -> ImageRows | None:
        """Return where the branches of this step share their image rows; None where there is one branch."""
        if self.num_branches < 2:
            return None
        for number, (kept_items, rows) in enumerate(self._image_rows):
            if _are_same(kept_items, items):
                del self._image_rows[number]  # two branches: no one else will ask
                return rows
        rows = ImageRows()
        self._image_rows.append((items, rows))
        return rows


def _are_same(kept: tuple[Tensor, ...], given: tuple[Tensor, ...]) -> bool:
    return len(kept) == len(given) and all(a is b for a, b in zip(kept, given, strict=True))
