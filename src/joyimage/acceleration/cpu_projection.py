"""Queries, keys and values on a CPU: both streams are normalized and rotated together, in fp32.

An operator costs microseconds however few numbers it computes, and four norms with their rotations are many operators.
Attention computes its scores in fp32 anyway, so queries and keys stay in it.

Dimension key: B batch, L tokens, N heads, H head width, P = H / 2 rotated pairs, D model width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from joyimage.acceleration.conditions import can_write_in_place, runs_itself
from joyimage.model.ops import EPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from joyimage.model.attention import JointAttention
    from joyimage.model.rope import RotaryTables

ROWS_AT_A_TIME = 2048
"""Tokens that are projected before they are copied to where they belong."""
_DTYPES = {torch.float32, torch.bfloat16, torch.float16}


@dataclass
class ImageRows:
    """Queries, keys and values of image tokens that two guidance branches have in common.

    Attributes:
        parts: Normalized and rotated, as the path that computes them lays them out; None until a branch has done so.
        copies: How often one forward has the same samples, one after the other.
    """

    parts: tuple[Tensor, ...] | None = None
    copies: int = 1


def can_project_on_cpu(attn: JointAttention, tokens: Tensor) -> bool:
    """Return whether `project_on_cpu` takes a block's attention and its tokens `[B, L, D]`."""
    return (
        tokens.device.type == "cpu"
        and tokens.dtype in _DTYPES
        and can_write_in_place()
        and bool(getattr(attn.ops, "is_for_cpu", False))
        and all(_is_plain_norm(norm) for norms in _norms_of(attn) for norm in norms)
    )


def project_on_cpu(
    attn: JointAttention,
    streams: Sequence[Tensor],
    tables: Sequence[RotaryTables | None],
    image_rows: ImageRows | None = None,
) -> tuple[Tensor, Tensor]:
    """Return queries and keys of the joint sequence `[B, L, 2, N, H]` in fp32, and values `[B, L, N, H]`.

    Args:
        attn: The block's attention.
        streams: Image stream and text stream, `[B, L, D]`.
        tables: Rotary tables of each; None leaves a stream unrotated.
        image_rows: Rows of the image tokens: used if another branch has computed them, otherwise set. Where they have
            copies, the first one is multiplied.
    """
    sizes = [stream.shape[1] for stream in streams]
    batch, num_tokens = len(streams[0]), sum(sizes)
    # Head by head in memory, as attention reads them, and in fewer and longer rows for norms and rotations.
    heads = torch.empty(2, batch, attn.heads, num_tokens, attn.head_dim, dtype=torch.float32)
    pairs = heads.permute(1, 3, 0, 2, 4)
    values = streams[0].new_empty(batch, num_tokens, attn.heads, attn.head_dim)
    img, txt = zip(torch.split(pairs, sizes, dim=1), torch.split(values, sizes, dim=1), strict=True)
    norms = _norms_of(attn)
    _project_stream(attn, attn.txt_attn_qkv, streams[1], *txt)
    if image_rows is not None and image_rows.parts is not None:
        norm_rotate_together_(txt[0], sizes[1:], norms[1:], tables[1:])
        for target, part in zip(img, image_rows.parts, strict=True):
            target.copy_(part)
        return pairs, values
    copies = 1 if image_rows is None else image_rows.copies
    _project_stream(attn, attn.img_attn_qkv, streams[0][: batch // copies], *img)
    norm_rotate_together_(pairs, sizes, norms, tables)
    if image_rows is not None:
        image_rows.parts = img
    return pairs, values


def rotate_target_on_cpu(
    attn: JointAttention, query: Tensor, img: Tensor, txt: Tensor, tables: Sequence[RotaryTables | None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries of the target alone and keys of the joint sequence in fp32, and its values, `[B, L, N, H]` each.

    Args:
        attn: The block's attention.
        query: Projected queries of the target, `[B, L, 1, N, H]`, which may be written into.
        img: Projected keys and values of the image stream, `[B, L, 2, N, H]`.
        txt: Those of the text stream.
        tables: Rotary tables of each stream; None leaves a stream unrotated.
    """
    keys, values = (torch.cat([img[:, :, part], txt[:, :, part]], dim=1) for part in range(2))
    query, keys = query.float(), keys.float()
    img_norms, txt_norms = _norms_of(attn)
    norm_rotate_together_(query, [query.shape[1]], [img_norms[:1]], [front(tables[0], query.shape[1])])
    sizes = [img.shape[1], txt.shape[1]]
    norm_rotate_together_(keys.unsqueeze(2), sizes, [img_norms[1:], txt_norms[1:]], tables)
    return query.squeeze(2), keys, values


def front(tables: RotaryTables | None, num_tokens: int) -> RotaryTables | None:
    """Return the rotary tables of the first tokens."""
    return None if tables is None else (tables[0][:, :num_tokens], tables[1][:, :num_tokens])


def _project_stream(
    attn: JointAttention, layer: nn.Module, stream: Tensor, pairs: Tensor, values: Tensor
) -> None:
    """Write a stream's queries and keys, and its values, some rows at a time, so that both never exist twice.

    Of a stream with fewer samples than there is room for, each copy is written.
    """
    pairs, values = (torch.unflatten(room, 0, (-1, len(stream))) for room in (pairs, values))
    for start in range(0, stream.shape[1], ROWS_AT_A_TIME):
        rows, pair, value = stream, pairs, values
        if stream.shape[1] > ROWS_AT_A_TIME:
            part = slice(start, start + ROWS_AT_A_TIME)
            rows, pair, value = stream[:, part], pairs[:, :, part], values[:, :, part]
        product = attn.ops.linear(layer, rows).view(*rows.shape[:2], 3, *values.shape[3:])
        pair.copy_(product[:, :, :2])
        value.copy_(product[:, :, 2])


def norm_rotate_together_(
    pairs: Tensor,
    sizes: Sequence[int],
    norms: Sequence[Sequence[nn.RMSNorm]],
    tables: Sequence[RotaryTables | None],
) -> None:
    """Normalize queries and keys of one stream or both over each head, and rotate them, in place.

    Args:
        pairs: Queries and keys `[B, L, 2, N, H]`, or one of them `[B, L, 1, N, H]`, in fp32.
        sizes: Tokens of each stream.
        norms: Norms of each stream's queries and keys, or of one of them.
        tables: Rotary tables `[1 or B, L, P]` of each stream; None leaves it unrotated.
    """
    width = pairs.shape[-1]
    length: Tensor = cast("Any", torch.linalg).vector_norm(pairs, dim=-1, keepdim=True)  # [B, L, 2, N, 1]
    pairs.mul_(length.square_().div_(width).add_(EPS).rsqrt_())
    streams = torch.split(pairs, list(sizes), dim=1)
    for stream, stream_norms, table in zip(streams, norms, tables, strict=True):
        weights = torch.stack([cast("Tensor", norm.weight) for norm in stream_norms])
        stream.mul_(weights.float().unsqueeze(1))  # [1 or 2, 1, H]
        if table is not None:
            turns = torch.complex(*table)[:, :, None, None]  # [1 or B, L, 1, 1, P]
            torch.view_as_complex(torch.unflatten(stream, -1, (-1, 2))).mul_(turns)


def _norms_of(attn: JointAttention) -> list[tuple[nn.RMSNorm, nn.RMSNorm]]:
    """Return the norms of queries and keys: the image stream's, then the text stream's."""
    return [(attn.img_attn_q_norm, attn.img_attn_k_norm), (attn.txt_attn_q_norm, attn.txt_attn_k_norm)]


def _is_plain_norm(norm: nn.Module) -> bool:
    return type(norm) is nn.RMSNorm and norm.elementwise_affine and norm.eps == EPS and runs_itself(norm)
