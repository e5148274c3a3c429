"""Attention on a CPU as two matrix products, head by head and some queries at a time.

torch's fused kernel multiplies on a CPU at the speed of fp32 without AVX-512, in bf16 too. oneDNN's products are up to
four times as fast, which pays for the scores that they write and read.

Dimension key: B batch, L tokens, K keys, N heads, H head width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from joyimage.acceleration.conditions import can_write_in_place
from joyimage.compat.torch import has_onednn, onednn_linear

_FEWEST_MULTIPLICATIONS = 2**24
"""Multiplications in one head's scores from which on products repay their calls."""
_MOST_SCORES = 2**20
"""Scores that are held at a time: 4 MB, which stay in a core's cache or near it."""


def attend_on_cpu(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return softmax attention in products where they are worth it, in torch's kernel elsewhere.

    Arguments as in `attend_in_products`.
    """
    if can_attend_in_products(query, key, value):
        return attend_in_products(query, key, value, mask)
    heads = [part.transpose(1, 2) for part in (query, key, value.to(query.dtype))]
    return functional.scaled_dot_product_attention(*heads, attn_mask=mask).transpose(1, 2)


def can_attend_in_products(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Return whether `attend_in_products` takes these, and is worth it; shapes as there."""
    return (
        can_write_in_place()
        and query.device.type == "cpu"
        and query.shape[1] * key.shape[1] * key.shape[3] >= _FEWEST_MULTIPLICATIONS
        and has_onednn(value.dtype)
    )


def attend_in_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return softmax attention.

    Scores and their softmax are in fp32, as in torch's fused kernel.

    Args:
        query: `[B, L, N, H]`, in fp32 or bf16, on a CPU.
        key: `[B, K, N, H]`, in fp32 or bf16.
        value: `[B, K, N, H]`, in fp32 or bf16, which the result has too.
        mask: `[B, 1, 1, K]` bool over the keys, True where attended to; None attends to all.

    Returns:
        `[B, L, N, H]`.
    """
    out = torch.empty(query.shape, dtype=value.dtype)
    for sample in range(len(query)):
        keys, values = key[sample], value[sample]
        if mask is not None:
            keys, values = _select(mask[sample, 0, 0], keys, values)
        for head in range(query.shape[2]):
            _attend_head(query[sample, :, head], keys[:, head], values[:, head], out[sample, :, head])
    return out


def _select(is_real: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of `keys` and `values` `[K, N, H]` where `is_real` `[K]`, without a copy if these come first."""
    num_real = int(is_real.sum())
    chosen = slice(num_real) if bool(is_real[:num_real].all()) else is_real
    return keys[chosen], values[chosen]


def _attend_head(query: Tensor, key: Tensor, value: Tensor, out: Tensor) -> None:
    """Write one head's attention of `query` `[L, H]` to `key` and `value` `[K, H]` into `out` `[L, H]`."""
    scaled = query.float() * query.shape[-1] ** -0.5
    keys = key.float().contiguous()
    # torch's product of bf16 is oneDNN's, and reads and writes heads where they stand; that of fp32 may be another's.
    weight = None if value.dtype == torch.bfloat16 else value.t().contiguous()  # [H, K]
    num_slices = -(-len(query) * len(key) // _MOST_SCORES)
    for queries, target in zip(scaled.tensor_split(num_slices), out.tensor_split(num_slices), strict=True):
        scores = onednn_linear(queries, keys)
        torch.softmax(scores, dim=-1, out=scores)
        if weight is None:
            torch.mm(scores.to(value.dtype), value, out=target)
        else:
            target.copy_(onednn_linear(scores, weight))
