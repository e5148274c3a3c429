"""What the transformer's forwards of one edit have in common, computed once.

Dimension key: B batch, S steps, D model width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from joyimage.acceleration.attention import JointBufferAttnProcessor
from joyimage.acceleration.conditions import can_shorten_last_block
from joyimage.acceleration.cpu_projection import ImageRows
from joyimage.compat.torch import version_of, without_compiler
from joyimage.model import packing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from joyimage.model.forward_plan import TextTokens
    from joyimage.model.rope import Grid
    from joyimage.model.transformer import JoyImageEditTransformer3DModel

T = TypeVar("T")

_MAX_ENTRIES = 64  # texts and references of one call; the oldest are dropped first


class ForwardCache:
    """Cache the parts of a forward that the steps and the guidance branches of one edit share.

    Pass it to `transformer(..., plan=cache)`. Projected texts and patchified references stay for all steps, the
    modulation signals of all steps come from one matmul, and the image rows of the first block stay for the
    second branch, which has the same latents and time. With `target_only` the last block computes the target
    alone. An entry belongs to the tensor objects that it was computed from: pass the same objects again.

    Args:
        transformer: Whose forwards they are.
        timesteps: Scheduler times of all steps, `[S]`.
        num_branches: Forwards with the same latents in each step.
        is_untouched: Whether nothing of a user's sees what the network computes; see `can_infer`. Then equal items of a
            forward go through the first block's projection once.

    Attributes:
        step: Index of the step that runs.
        num_copies: How often the next forward has the same items, one copy behind the other.
    """

    def __init__(
        self,
        transformer: JoyImageEditTransformer3DModel,
        timesteps: Tensor,
        num_branches: int = 1,
        *,
        is_untouched: bool = False,
    ) -> None:
        # A compiler would meet the network twice, with and without its wrapper.
        self.transformer: JoyImageEditTransformer3DModel = without_compiler(transformer)
        self.timesteps = timesteps
        self.num_branches = num_branches
        self.is_untouched = is_untouched
        self.step = 0
        self.num_copies = 1
        self._entries: list[tuple[str, tuple[Tensor, ...], tuple[int, ...], object]] = []
        self._image_rows: list[tuple[tuple[Tensor, ...], ImageRows]] = []

    def begin(self, step: int) -> None:
        """Continue with a step."""
        self.step = step
        self._image_rows.clear()

    def prepare(self, hidden_states: packing.Items, states: Tensor, mask: Tensor | None = None) -> None:
        """Compute ahead what would make the device wait for the host in the first forward of a loop.

        That is the positions' tables, which are built on the host, and the search for padding. No weight is
        touched: weights may be elsewhere until `forward` is called.

        Args:
            hidden_states: As in the transformer's `forward`; sizes and device count.
            states: The tensor object that `forward` will be given as `encoder_hidden_states`.
            mask: The tensor object that `forward` will be given as `encoder_hidden_states_mask`.
        """
        settings = self.transformer.settings
        items = packing.split_items(hidden_states, settings.in_channels, settings.patch_size)
        grids = tuple(packing.item_grid(item, settings.patch_size) for item in items)
        self.transformer.item_rope.prepare(grids, items[0].device)
        self._pack(states, mask)

    def embed_text(self, states: Tensor, mask: Tensor | None, grids: tuple[Grid, ...]) -> TextTokens:
        """Return the tokens of a text beside items of these sizes."""
        return self.get_or_compute(
            f"text {grids}",
            _present(states, mask),
            lambda: self.transformer.embed_packed_text(self._pack(states, mask), grids),
        )

    def embed_time(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the modulation signal `[1, 6, D]` of the step that runs, which `timestep` is the time of."""
        del timestep
        signals = self.get_or_compute(
            f"time {dtype}",
            (self.timesteps,),
            lambda: self.transformer.embed_time(self.timesteps, dtype),
        )  # [S, 6, D]
        return signals[self.step, None]

    def embed_reference(self, item: Tensor) -> Tensor:
        """Return a reference's tokens `[B, L, D]`."""
        return self.get_or_compute("item", (item,), lambda: self.transformer.embed_item(item))

    def block_arguments(self, items: list[Tensor], *, target_only: bool) -> Mapping[int, Mapping[str, Any]]:
        """Return what makes the first block share image rows, and the last one compute the target alone."""
        blocks = self.transformer.blocks
        arguments: dict[int, dict[str, Any]] = {}
        if len(blocks) > 1 and isinstance(blocks[0].attn.processor, JointBufferAttnProcessor):
            rows = self._shared_rows(tuple(items))
            if rows is not None:
                arguments[0] = {"attention_kwargs": {"image_rows": rows}}
        if target_only and can_shorten_last_block(self.transformer):
            grid = packing.item_grid(items[0], self.transformer.settings.patch_size)
            arguments[len(blocks) - 1] = {"num_target_tokens": math.prod(grid)}
        return arguments

    def get_or_compute(self, name: str, sources: tuple[Tensor, ...], compute: Callable[[], T]) -> T:
        """Return `compute()`, or what it returned before for the same name and the same, unchanged tensors."""
        # Tensors of inference mode do not show whether they were changed, and a compiler traces no cache.
        if torch.compiler.is_compiling() or any(source.is_inference() for source in sources):
            return compute()
        versions = tuple(version_of(source) for source in sources)
        for entry_name, entry_sources, entry_versions, value in self._entries:
            if entry_name == name and entry_versions == versions and _are_same(entry_sources, sources):
                return cast("T", value)
        value = compute()
        self._entries.append((name, sources, versions, value))
        del self._entries[:-_MAX_ENTRIES]
        return value

    def _pack(self, states: Tensor, mask: Tensor | None) -> packing.PackedText:
        return self.get_or_compute("packed", _present(states, mask), lambda: packing.pack_text(states, mask))

    def _shared_rows(self, items: tuple[Tensor, ...]) -> ImageRows | None:
        """Return where the branches of this step share their image rows; None if there is one branch."""
        if self.num_copies > 1 and self.is_untouched:
            return ImageRows(copies=self.num_copies)
        if self.num_branches < 2:
            return None
        for index, (entry_items, rows) in enumerate(self._image_rows):
            if _are_same(entry_items, items):
                del self._image_rows[index]  # both branches have used it
                return rows
        rows = ImageRows()
        self._image_rows.append((items, rows))
        return rows


def _present(states: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
    return (states,) if mask is None else (states, mask)


def _are_same(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    return len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))
