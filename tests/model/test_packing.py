"""Items to tokens and back, for any sizes."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from joyimage.model import packing
from joyimage.model.rope import item_positions
from tests.model.drive import draw

patches = st.tuples(st.just(1), st.integers(1, 3), st.integers(1, 3))
grids = st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 4))


@given(patch=patches, grid=grids, channels=st.integers(1, 3), batch_size=st.integers(1, 2))
@settings(deadline=None, max_examples=30)
def test_unpatchify_when_patches_are_reordered_then_gives_the_item_back(
    patch: tuple[int, int, int], grid: tuple[int, int, int], channels: int, batch_size: int
) -> None:
    item = draw(batch_size, channels, *(size * step for size, step in zip(grid, patch, strict=True)))

    tokens = packing.patchify(item, patch)  # [B, L, C * pt * ph * pw]
    channels_last = tokens.unflatten(-1, (channels, -1)).transpose(-1, -2).flatten(-2)

    assert packing.item_grid(item, patch) == grid
    assert torch.equal(packing.unpatchify(channels_last, grid, patch), item)


@given(patch=patches, grid=grids)
@settings(deadline=None, max_examples=20)
def test_patchify_when_times_a_conv_weight_then_the_convolution(
    patch: tuple[int, int, int], grid: tuple[int, int, int]
) -> None:
    item = draw(1, 3, *(size * step for size, step in zip(grid, patch, strict=True)))
    weight = draw(5, 3, *patch, seed=1)

    tokens = nn.functional.linear(packing.patchify(item, patch), weight.flatten(1))

    expected = nn.functional.conv3d(item, weight, stride=patch).flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)


@given(sizes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=5))
@settings(deadline=None, max_examples=30)
def test_join_items_when_items_were_split_then_gives_the_input_back(sizes: list[tuple[int, int]]) -> None:
    given_items = [draw(1, 2, 1, *size, seed=index) for index, size in enumerate(sizes)]

    items = packing.split_items(given_items, in_channels=2, patch_size=(1, 1, 1))
    joined = packing.join_items(items, like=given_items)

    assert items[0] is given_items[-1]
    assert len(joined) == len(given_items)
    assert all(got is expected for got, expected in zip(joined, given_items, strict=True))


@given(sizes=st.lists(grids, min_size=1, max_size=4))
@settings(deadline=None, max_examples=30)
def test_positions_when_items_follow_each_other_then_all_differ_and_rows_start_at_zero(
    sizes: list[tuple[int, int, int]],
) -> None:
    positions = item_positions(tuple(sizes))[0]

    assert len(positions.unique(dim=0)) == len(positions) == sum(t * h * w for t, h, w in sizes)
    start = frame = 0
    for t, h, w in sizes:
        part = positions[start : start + t * h * w]
        assert part.min(dim=0).values.tolist() == [frame, 0, 0]
        assert part.max(dim=0).values.tolist() == [frame + t - 1, h - 1, w - 1]
        start, frame = start + t * h * w, frame + t


@given(mask=st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=3))
@settings(deadline=None, max_examples=50)
def test_pack_text_when_padded_anywhere_then_keeps_the_real_tokens_in_order(mask: list[list[bool]]) -> None:
    states, keep = draw(len(mask), 6, 2), torch.tensor(mask)

    text = packing.pack_text(states, keep)

    kept = torch.ones(text.states.shape[:2], dtype=torch.bool) if text.mask is None else text.mask
    for row in range(len(mask)):
        assert torch.equal(text.states[row][kept[row]], states[row][keep[row]])
        index = text.token_index().expand(len(mask), -1)[row][kept[row]]
        assert index.tolist() == list(range(int(keep[row].sum())))
    assert (text.mask is None) == bool(kept.all())
    assert kept.any(dim=0).all()
