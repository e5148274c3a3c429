"""Which pairs make up each step: a pure function of seed and step, so that a run can resume anywhere."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

Shape = TypeVar("Shape", bound="Hashable")


def draw_batches(
    groups: Sequence[Sequence[int]],
    weights: Sequence[float],
    shapes: Sequence[Shape],
    *,
    batch_size: int,
    num_batches: int,
    seed: int,
) -> list[list[int]]:
    """Draw batches of pairs of one shape.

    Every group is gone through in a new order each time; groups take turns in proportion to weight times size. The
    batches of a longer run begin with those of a shorter one.

    Args:
        groups: Pairs of each data section, as indices.
        weights: Weight of each section.
        shapes: Shape of each pair; a batch has one shape.
        batch_size: Pairs per batch.
        num_batches: Batches to draw.
        seed: Seed of the orders.

    Returns:
        Indices of the pairs of each batch.
    """
    shares = np.array([weight * len(group) for group, weight in zip(groups, weights, strict=True)])
    orders = [_orders(group, seed + 7919 * number) for number, group in enumerate(groups)]
    waiting: dict[Shape, list[int]] = defaultdict(list)
    drawn = np.zeros(len(groups))
    batches: list[list[int]] = []
    while len(batches) < num_batches:
        # The group that is furthest behind its share comes next.
        group = int(np.argmax(np.where(shares > 0, shares / (drawn + 1), -1)))
        drawn[group] += 1
        index = next(orders[group])
        queue = waiting[shapes[index]]
        queue.append(index)
        if len(queue) == batch_size:
            batches.append(queue.copy())
            queue.clear()
    return batches


def sample_generator(seed: int, *place: int) -> torch.Generator:
    """Return the generator of one sample's draws.

    Args:
        seed: Seed of the run.
        *place: Where the sample stands, such as step, batch and row.
    """
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _orders(group: Sequence[int], seed: int) -> Iterator[int]:
    rng = np.random.default_rng(seed)
    while True:
        yield from (group[place] for place in rng.permutation(len(group)))
