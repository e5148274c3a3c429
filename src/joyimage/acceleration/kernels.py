"""The fused operations as Triton kernels; `ops.py` decides when they run, `model/ops.py` has the plain ones.

Everything is computed in fp32 and rounded once, on the way out. No gradients.
Dimension key: B batch, L tokens, N heads, H head width, D model width, P = H / 2 rotated pairs.
"""

# Triton's own language: no annotations that a type checker could follow, and names in capitals are constants.
# ruff: noqa: ANN001, ANN202, N803
# pyright: basic, reportArgumentType=false, reportCallIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from joyimage.errors import InvalidInputError
from joyimage.model.rope import RotaryTables

_HEADS_PER_PROGRAM = 8


@triton.jit
def _norm_modulate(x_ptr, shift_ptr, scale_ptr, out_ptr, tokens, mod_stride, width, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    mod = (row // tokens) * mod_stride + columns
    x = tl.load(x_ptr + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    centered = tl.where(inside, x - tl.sum(x, 0) / width, 0.0)
    normed = centered / tl.sqrt_rn(tl.sum(centered * centered, 0) / width + eps)
    scale = tl.load(scale_ptr + mod, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + mod, mask=inside, other=0.0).to(tl.float32)
    out = normed * (1 + scale) + shift
    tl.store(out_ptr + row * width + columns, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gated_add_norm_modulate(
    residual_ptr,
    update_ptr,
    gate_ptr,
    shift_ptr,
    scale_ptr,
    sum_ptr,
    out_ptr,
    tokens,
    mod_stride,
    width,
    eps,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    mod = (row // tokens) * mod_stride + columns
    here = row * width + columns
    residual = tl.load(residual_ptr + here, mask=inside, other=0.0).to(tl.float32)
    update = tl.load(update_ptr + here, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + mod, mask=inside, other=0.0).to(tl.float32)
    x = residual + update * gate
    tl.store(sum_ptr + here, x.to(sum_ptr.dtype.element_ty), mask=inside)
    centered = tl.where(inside, x - tl.sum(x, 0) / width, 0.0)
    normed = centered / tl.sqrt_rn(tl.sum(centered * centered, 0) / width + eps)
    scale = tl.load(scale_ptr + mod, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + mod, mask=inside, other=0.0).to(tl.float32)
    out = normed * (1 + scale) + shift
    tl.store(out_ptr + here, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _norm_rotate(
    x_ptr,
    weight_ptr,
    cos_ptr,
    sin_ptr,
    heads,
    batch_stride,
    token_stride,
    head_stride,
    table_stride,
    pairs,
    eps,
    HAS_TABLES: tl.constexpr,
    HEADS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    batch = tl.program_id(2).to(tl.int64)
    pair = tl.arange(0, PAIRS)[None, :]
    inside = (head < heads) & (pair < pairs)
    even_ptr = x_ptr + batch * batch_stride + token * token_stride + head * head_stride + 2 * pair
    even = tl.load(even_ptr, mask=inside, other=0.0).to(tl.float32)
    odd = tl.load(even_ptr + 1, mask=inside, other=0.0).to(tl.float32)
    mean_square = (tl.sum(even * even, 1) + tl.sum(odd * odd, 1)) / (2 * pairs)
    factor = (1.0 / tl.sqrt_rn(mean_square + eps))[:, None]
    even *= factor * tl.load(weight_ptr + 2 * pair, mask=pair < pairs, other=0.0).to(tl.float32)
    odd *= factor * tl.load(weight_ptr + 2 * pair + 1, mask=pair < pairs, other=0.0).to(tl.float32)
    if HAS_TABLES:
        table = batch * table_stride + token * pairs + pair
        cos = tl.load(cos_ptr + table, mask=pair < pairs, other=0.0)
        sin = tl.load(sin_ptr + table, mask=pair < pairs, other=0.0)
        even, odd = even * cos - odd * sin, odd * cos + even * sin
    tl.store(even_ptr, even.to(x_ptr.dtype.element_ty), mask=inside)
    tl.store(even_ptr + 1, odd.to(x_ptr.dtype.element_ty), mask=inside)


def norm_modulate(hidden_states: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Compute `TransformerOps.norm_modulate`."""
    batch_size, tokens, width = hidden_states.shape
    hidden_states = hidden_states.contiguous()
    (shift, scale), mod_stride = _modulation(shift, scale)
    out = torch.empty_like(hidden_states)
    _norm_modulate[(batch_size * tokens,)](
        hidden_states, shift, scale, out, tokens, mod_stride, width, eps, **_launch(width)
    )
    return out


def gated_add_norm_modulate(
    residual: Tensor, update: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Compute `TransformerOps.gated_add_norm_modulate`."""
    batch_size, tokens, width = residual.shape
    residual, update = residual.contiguous(), update.contiguous()
    (gate, shift, scale), mod_stride = _modulation(gate, shift, scale)
    total, out = torch.empty_like(residual), torch.empty_like(residual)
    _gated_add_norm_modulate[(batch_size * tokens,)](
        residual, update, gate, shift, scale, total, out, tokens, mod_stride, width, eps, **_launch(width)
    )
    return total, out


def norm_rotate_(heads: Tensor, weight: Tensor, eps: float, tables: RotaryTables | None) -> None:
    """Compute `TransformerOps.norm_rotate` in place, on a view `[B, L, N, H]` whose last axis is dense.

    Raises:
        InvalidInputError: The last axis has gaps.
    """
    batch_size, tokens, num_heads, width = heads.shape
    if heads.stride(3) != 1:
        raise InvalidInputError(f"`heads` has strides {heads.stride()}; expected a dense last axis.")
    pairs = width // 2
    cos, sin = (weight, weight) if tables is None else (table.contiguous() for table in tables)
    heads_per_program = min(_HEADS_PER_PROGRAM, triton.next_power_of_2(num_heads))
    _norm_rotate[(tokens, triton.cdiv(num_heads, heads_per_program), batch_size)](
        heads,
        weight,
        cos,
        sin,
        num_heads,
        *heads.stride()[:3],
        0 if tables is None or len(cos) == 1 else tokens * pairs,
        pairs,
        eps,
        HAS_TABLES=tables is not None,
        HEADS=heads_per_program,
        PAIRS=triton.next_power_of_2(pairs),
    )


def _modulation(*vectors: Tensor) -> tuple[list[Tensor], int]:
    """Return modulation vectors `[1 or B, 1, D]` made dense, and the step from one sample to the next."""
    width = vectors[0].shape[-1]
    dense = [vector.contiguous() for vector in vectors]
    return dense, 0 if len(dense[0]) == 1 else width


def _launch(width: int) -> dict[str, int]:
    block = triton.next_power_of_2(width)
    return {"BLOCK": block, "num_warps": min(16, max(1, block // 512))}
