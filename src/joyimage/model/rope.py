"""Rotary positions of the packed sequence: three axes (item, row, column), interleaved pairs, always fp32.

Dimension key: B batch, L tokens, N heads, H head width, P = H / 2 rotated pairs.
"""

from collections import OrderedDict
from contextlib import nullcontext

import torch
from torch import Tensor, nn

Grid = tuple[int, int, int]
"""Size of one item in tokens: (t, h, w)."""

RotaryTables = tuple[Tensor, Tensor]
"""Cosines and sines, each `[1 or B, L, P]` in fp32."""

_MAX_CACHED_SIZES = 16  # an edit uses one or two; sixteen 1024² tables are 70 MB


class ItemRotaryEmbedding(nn.Module):
    """Give every image token the rotary tables of its (item, row, column).

    Each item has rows and columns counted from zero; on the first axis the items follow one another, so that
    tokens at the same place in the target and in a reference differ on that axis only. Tables are kept per
    size and device. The module holds no parameters; it is a module so that context parallelism can split what
    it returns.

    Source: rotary embedding, arXiv 2104.09864; the split into axes is JoyAI-Image's (arXiv 2605.04128).
    """

    def __init__(self, axis_dims: tuple[int, int, int], theta: float) -> None:
        super().__init__()
        self.axis_dims = axis_dims
        self.theta = theta
        self._tables: OrderedDict[tuple[tuple[Grid, ...], torch.device], RotaryTables] = OrderedDict()

    def forward(self, grids: tuple[Grid, ...], device: torch.device) -> RotaryTables:
        """Return the tables of all items in the order given, target first, `[1, L, P]` each."""
        return self.prepare(grids, device)

    def prepare(self, grids: tuple[Grid, ...], device: torch.device) -> RotaryTables:
        """Return what `forward` will look up, built now; what is hooked onto `forward` has no part in it."""
        key = (grids, device)
        if key in self._tables:
            self._tables.move_to_end(key)
            return self._tables[key]
        if torch.compiler.is_compiling():  # a part of the graph; nothing is left for later
            return self._build(grids, device)
        # Inference mode would make tensors that a later training step can't save for its backward pass. Elsewhere
        # nothing is left: exporters would write the guard into their graphs.
        with torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext():
            tables = self._build(grids, device)
        if type(tables[0]) is not Tensor:  # traced with stand-ins for tensors, which mean nothing afterwards
            return tables
        self._tables[key] = tables
        if len(self._tables) > _MAX_CACHED_SIZES:
            self._tables.popitem(last=False)
        return tables

    def _build(self, grids: tuple[Grid, ...], device: torch.device) -> RotaryTables:
        cosines, sines = rotary_tables(item_positions(grids), self.axis_dims, self.theta)
        return cosines.to(device), sines.to(device)


class TextRotaryEmbedding(nn.Module):
    """Give text tokens positions that continue after the largest visual index, equal on all axes ("mrope")."""

    def __init__(self, axis_dims: tuple[int, int, int], theta: float) -> None:
        super().__init__()
        self.axis_dims = axis_dims
        self.theta = theta

    def forward(self, grids: tuple[Grid, ...], token_index: Tensor) -> RotaryTables:
        """Return the tables of text tokens.

        Args:
            grids: Sizes of the items, target first.
            token_index: Place of each token in its own text, padding not counted, `[1 or B, L]`.

        Returns:
            Tables `[1 or B, L, P]`.
        """
        num_frames = sum(t for t, _, _ in grids)
        first = max(num_frames, *(max(h, w) for _, h, w in grids))
        positions = (token_index + first).unsqueeze(-1).expand(-1, -1, 3)  # [B, L, 3]
        return rotary_tables(positions, self.axis_dims, self.theta)


def item_positions(grids: tuple[Grid, ...]) -> Tensor:
    """Return (item, row, column) of every token, `[1, L, 3]`, on the CPU."""
    parts: list[Tensor] = []
    first_frame = 0
    for t, h, w in grids:
        ranges = ((first_frame, first_frame + t), (0, h), (0, w))
        axes = (torch.arange(start, stop, device="cpu") for start, stop in ranges)
        parts.append(torch.cartesian_prod(*axes))  # [t * h * w, 3]
        first_frame += t
    return torch.cat(parts).unsqueeze(0)


def rotary_tables(positions: Tensor, axis_dims: tuple[int, int, int], theta: float) -> RotaryTables:
    """Return cosines and sines of positions on three axes.

    Args:
        positions: `[B, L, 3]`, whole numbers.
        axis_dims: Head channels that belong to each axis; they sum to the head width.
        theta: Base of the frequencies.

    Returns:
        Two fp32 tensors `[B, L, P]`, one entry per pair of channels.
    """
    angles: list[Tensor] = []
    for axis, dim in enumerate(axis_dims):
        # fp32 throughout: bf16 has 8 bits of mantissa, so row 257 would land on row 256 or 258.
        exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=positions.device) / dim
        frequencies = 1.0 / (theta**exponents)
        angles.append(positions[..., axis, None].float() * frequencies)
    joint = torch.cat(angles, dim=-1)  # [B, L, P]
    return joint.cos(), joint.sin()


def rotate(hidden_states: Tensor, tables: RotaryTables) -> Tensor:
    """Return heads with neighboring channel pairs rotated in fp32, in the input's dtype.

    Args:
        hidden_states: Queries or keys `[B, L, N, H]`.
        tables: Cosines and sines `[1 or B, L, P]`.
    """
    cos, sin = (table.unsqueeze(2) for table in tables)  # [B, L, 1, P]
    pairs = torch.unflatten(hidden_states.float(), -1, (-1, 2))  # [B, L, N, P, 2]
    even, odd = pairs.unbind(-1)  # [B, L, N, P]
    rotated = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)  # [B, L, N, P, 2]
    return rotated.flatten(-2).type_as(hidden_states)
