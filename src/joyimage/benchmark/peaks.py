"""What the device can do at best, measured in the run that is to be judged by it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from joyimage.acceleration.attention import JointBufferAttnProcessor
from joyimage.acceleration.ops import TritonOps
from joyimage.benchmark.models import FULL
from joyimage.benchmark.op_counter import num_bytes
from joyimage.compat.torch import fastest_product
from joyimage.model.ops import EPS

if TYPE_CHECKING:
    from collections.abc import Callable

_TOKENS = 9232  # 4,096 of the target, 4,096 of the reference, 1,040 of text
_PAIRS = 64


def measure_peaks(device: torch.device, dtype: torch.dtype, seconds: float = 30.0) -> dict[str, float]:
    """Measure matmuls, attention and copies.

    Args:
        device: A GPU is measured at the published shapes, a CPU at small ones.
        dtype: Precision of the operands.
        seconds: How long the matmul is sustained; a burst is faster than any edit can be.

    Returns:
        TFLOP/s of matmul and attention, GB/s of a copy, read and write counted.
    """
    is_cuda = device.type == "cuda"
    side, tokens, heads = (8192, _TOKENS, FULL.num_attention_heads) if is_cuda else (1024, 592, 2)
    make: dict[str, Any] = {"device": device, "dtype": dtype}
    left, right = torch.randn(side, side, **make), torch.randn(side, side, **make)
    # As in the model: heads beside each other in a token's row.
    query, key, value = (torch.randn(1, tokens, heads, 128, **make) for _ in range(3))
    numbers = torch.randn(2**28 if is_cuda else 2**23, **make)
    copied = torch.empty_like(numbers)

    def attend() -> None:
        with torch.no_grad():
            JointBufferAttnProcessor().attend(query, key, value, None)

    matmul = _repeat(lambda: fastest_product(left, right), device, seconds)
    attention = _repeat(attend, device, seconds / 6)
    copy = _repeat(lambda: copied.copy_(numbers), device, seconds / 15)
    return {
        "matmul_tflops": 2 * side**3 / matmul / 1e12,
        "attention_tflops": 4 * heads * tokens**2 * 128 / attention / 1e12,
        "copy_gbs": num_bytes([numbers, copied]) / copy / 1e9,
    }


def measure_kernels(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> dict[str, float]:
    """Measure the fused elementwise functions at the published shapes.

    Args:
        device: A GPU on which the kernels run.
        dtype: Precision of the tokens.
        seconds: How long each runs.

    Returns:
        GB/s by function, what it reads and writes counted once.
    """
    make: dict[str, Any] = {"device": device, "dtype": dtype}
    width, num_heads = FULL.hidden_size, FULL.num_attention_heads
    tokens, update = (torch.randn(1, _TOKENS, width, **make) for _ in range(2))
    shift, scale, gate = (torch.randn(1, 1, width, **make) for _ in range(3))
    qkv = torch.randn(1, _TOKENS, 3, num_heads, width // num_heads, **make)
    heads = qkv[:, :, 0]
    norm = nn.RMSNorm(width // num_heads, eps=EPS, **make).requires_grad_(False)
    tables = tuple(torch.randn(1, _TOKENS, _PAIRS, device=device) for _ in range(2))
    ops = TritonOps()
    calls: dict[str, tuple[Callable[[], Any], int]] = {
        "norm_modulate": (lambda: ops.norm_modulate(tokens, shift, scale), 2),
        "gated_add_norm_modulate": (
            lambda: ops.gated_add_norm_modulate(tokens, update, gate, shift, scale),
            4,
        ),
        "norm_rotate": (
            lambda: ops.norm_rotate(heads, norm, (tables[0], tables[1]), out=heads),
            2,
        ),
    }
    with torch.no_grad():
        return {
            name: passes * num_bytes([tokens]) / _repeat(call, device, seconds) / 1e9
            for name, (call, passes) in calls.items()
        }


def _repeat(call: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """Call something again and again and return the seconds of one call."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for _ in range(2):
        call()
    wait()
    calls, begin = 0, time.perf_counter()
    while (passed := time.perf_counter() - begin) < seconds or not calls:
        for _ in range(8):
            call()
        calls += 8
        wait()
    del passed
    return (time.perf_counter() - begin) / calls
