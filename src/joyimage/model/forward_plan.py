"""The seam between the transformer and what prepares its inputs.

Dimension key: B batch, L tokens, D model width, P rotated pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from joyimage.model.rope import Grid, RotaryTables


@dataclass(frozen=True)
class TextTokens:
    """The text stream as it enters the blocks.

    Attributes:
        states: `[B, L, D]`, without the columns that are padding in every sample.
        mask: `[B, L]` bool, True for real tokens; None where nothing is padded.
        rotary_emb: Tables `[1 or B, L, P]`; None where text has no positions.
    """

    states: Tensor
    mask: Tensor | None
    rotary_emb: RotaryTables | None


class ForwardPlan(Protocol):
    """How inputs become tokens, and which work single blocks leave out.

    The transformer itself is the plain one; another may cache tokens across forwards.
    """

    def embed_text(self, states: Tensor, mask: Tensor | None, grids: tuple[Grid, ...]) -> TextTokens:
        """Return the tokens of a text beside items of these sizes."""
        ...

    def embed_time(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the modulation signal `[1 or B, 6, D]` of times `[B]`."""
        ...

    def embed_reference(self, item: Tensor) -> Tensor:
        """Return a reference's tokens `[B, L, D]`."""
        ...

    def block_arguments(self, items: list[Tensor], *, target_only: bool) -> Mapping[int, Mapping[str, Any]]:
        """Return additional arguments of single blocks, by their index."""
        ...
