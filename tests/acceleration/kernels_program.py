"""Compare every kernel with its plain twin; exits with an error at the first difference."""

from __future__ import annotations

import itertools
import os
from typing import Any

import torch
from torch import nn

from joyimage.acceleration import accelerate, kernels
from joyimage.acceleration.ops import TritonOps
from joyimage.acceleration.verification import failures
from joyimage.model.ops import PLAIN_OPS
from joyimage.model.rope import RotaryTables, item_positions, rotary_tables
from tests import random_models
from tests.model.drive import inputs

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"

# fp32: order of sums. bf16: one rounding (2^-8) where the twin has two or three.
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 1.5e-2}


FUSED_OPS = TritonOps(on_any_device=True)


def check(what: str, got: torch.Tensor, expected: torch.Tensor) -> None:
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    assert torch.isfinite(got.float()).all()
    difference = ((got.float() - expected.float()).norm() / expected.float().norm()).item()
    assert difference <= TOLERANCES[got.dtype], f"{what} differs by {difference:.1e}"
    print(f"{what} agrees")  # noqa: T201


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    for dtype, (batch, mods), width in itertools.product(TOLERANCES, ((1, 1), (2, 1), (2, 2)), (192, 4096)):
        x, update = (3 * torch.randn(batch, 3, width, dtype=dtype, device=DEVICE) + 1 for _ in range(2))
        # One chunk of a larger tensor, as the blocks hand it over.
        gate, shift, scale = torch.randn(mods, 6, width, dtype=dtype, device=DEVICE).split(1, dim=1)[:3]
        name = f"{dtype}, {batch} samples, {mods} times, width {width}"
        got = FUSED_OPS.norm_modulate(x, shift, scale)
        check(f"norm_modulate, {name}", got, PLAIN_OPS.norm_modulate(x, shift, scale))
        total, got = FUSED_OPS.gated_add_norm_modulate(x, update, gate, shift, scale)
        total_plain, expected = PLAIN_OPS.gated_add_norm_modulate(x, update, gate, shift, scale)
        check(f"gated_add, {name}", total, total_plain)
        check(f"gated_add_norm_modulate, {name}", got, expected)

    cos, sin = rotary_tables(item_positions(((1, 2, 3), (1, 1, 1))), (8, 12, 12), 256)
    tables = cos.to(DEVICE), sin.to(DEVICE)
    for dtype, has_tables in itertools.product(TOLERANCES, (True, False)):
        for num_heads in (2, 12)[: 2 if has_tables else 1]:
            check_norm_rotate(dtype, tables if has_tables else None, num_heads)

    model: Any = random_models.make_transformer()
    model.to(DEVICE)
    arguments = {name: value.to(DEVICE) for name, value in inputs(2, text_length=3, size=(2, 4)).items()}
    calls: list[str] = []
    for name in ("norm_modulate", "gated_add_norm_modulate", "norm_rotate_"):
        kernel = getattr(kernels, name)
        setattr(kernels, name, lambda *args, name=name, kernel=kernel: (calls.append(name), kernel(*args))[1])
    expected = model(**arguments).sample
    accelerate(model)  # JOYIMAGE_KERNELS says "triton"
    got = model(**arguments).sample
    assert set(calls) == {"norm_modulate", "gated_add_norm_modulate", "norm_rotate_"}
    check("the whole forward", got, expected)
    assert not failures()  # no plain operation stood in for a kernel


def check_norm_rotate(dtype: torch.dtype, tables: RotaryTables | None, num_heads: int) -> None:
    norm = nn.RMSNorm(32, eps=1e-6, dtype=dtype, device=DEVICE)
    nn.init.normal_(norm.weight, mean=1, std=0.3)
    qkv = torch.randn(2, 7, 3, num_heads, 32, dtype=dtype, device=DEVICE)
    untouched = qkv.clone()
    expected = PLAIN_OPS.norm_rotate(qkv[:, :, 1], norm, tables)
    heads = qkv[:, :, 1]
    FUSED_OPS.norm_rotate(heads, norm, tables, out=heads)
    assert torch.equal(qkv[:, :, 0], untouched[:, :, 0])
    assert torch.equal(qkv[:, :, 2], untouched[:, :, 2])
    check(f"norm_rotate_, {dtype}, {num_heads} heads, {tables is not None}", qkv[:, :, 1], expected)


if __name__ == "__main__":
    main()
