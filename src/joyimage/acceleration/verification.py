"""Kernels verify themselves: at the first use of a shape each is compared with the plain operation.

A kernel that differs, or that cannot run at all, is not used for that shape again in this process; one line in the
log says so, and `report(pipe)` lists it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

import torch
from diffusers.utils import logging
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result", Tensor, tuple[Tensor, Tensor])
Use = tuple[object, ...]
"""What a kernel is compiled for: its name, and shape, strides, precision and device of each input."""

BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}
"""Largest relative difference. A kernel rounds once, the plain operation two or three times, by 2^-8 in bfloat16."""

_ROW_FACTOR = 10.0  # a single row may differ by that much more, as it averages over fewer numbers

_MAX_USES = 10_000  # layouts that are remembered, the oldest are dropped first

logger = logging.get_logger(__name__)
_UNKNOWN = "not compared yet"
_lock = threading.Lock()
_verdicts: dict[Use, str | None] = {}  # None: agrees; otherwise what is wrong


def run_verified(
    name: str, inputs: tuple[Tensor | None, ...], kernel: Callable[[], Result], plain: Callable[[], Result]
) -> Result:
    """Run a kernel, or the plain operation where the kernel was found to differ.

    Args:
        name: Name of the kernel.
        inputs: What it computes from; their layouts decide whether it was verified.
        kernel: Runs the kernel. It may write into the inputs.
        plain: Runs the plain operation, and changes no input.

    Returns:
        What `kernel` returned if it agrees with `plain`, otherwise what `plain` returned.

    Raises:
        OutOfMemoryError: The device has too little memory, which says nothing about the kernel.
    """
    use: Use = (name, *(_layout(tensor) for tensor in inputs))
    verdict = _verdicts.get(use, _UNKNOWN)
    if verdict is not _UNKNOWN:
        return kernel() if verdict is None else plain()
    if not _can_compare(inputs):
        return kernel()
    expected = plain()
    try:
        result = kernel()
        problem = _difference(result, expected)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - compilers and drivers raise anything, and an edit can do without
        result, problem = expected, f"{type(error).__name__}: {error}".splitlines()[0]
    with _lock:
        _verdicts[use] = problem
        if len(_verdicts) > _MAX_USES:
            del _verdicts[next(iter(_verdicts))]
    if problem is None:
        return result
    logger.warning(
        "The kernel %s is not used for %s: %s. Plain torch runs instead.", name, _shown(inputs[0]), problem
    )
    return expected


def failures() -> dict[str, str]:
    """Return the kernels that were found to differ in this process, and what was wrong."""
    with _lock:
        return {f"kernel {use[0]}": problem for use, problem in _verdicts.items() if problem is not None}


def _layout(tensor: Tensor | None) -> object:
    if tensor is None:
        return None
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _can_compare(inputs: tuple[Tensor | None, ...]) -> bool:
    """Return whether results can be read: not without data, and not while a CUDA graph is captured."""
    first = inputs[0]
    if first is None or first.device.type == "meta":
        return False
    return not (first.device.type == "cuda" and torch.cuda.is_current_stream_capturing())


def _difference(result: Tensor | tuple[Tensor, ...], expected: Tensor | tuple[Tensor, ...]) -> str | None:
    """Return how a result differs beyond its bound, or None if it does not."""
    results = (result,) if isinstance(result, Tensor) else result
    references = (expected,) if isinstance(expected, Tensor) else expected
    for got, plain in zip(results, references, strict=True):
        if got.shape != plain.shape or got.dtype != plain.dtype:
            return f"it returns {got.dtype} {tuple(got.shape)}, not {plain.dtype} {tuple(plain.shape)}"
        rows = (got.float() - plain.float()).square().sum(dim=-1).sqrt()
        sizes = plain.float().square().sum(dim=-1).sqrt()
        if not bool(sizes.isfinite().all()):
            continue  # inputs that are not finite tell nothing about a kernel
        size = sizes.square().mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        whole = float(rows.square().mean().sqrt() / size)
        worst = float((rows / sizes.maximum(size)).max())
        bound = BOUNDS.get(plain.dtype, BOUNDS[torch.float32])
        if not (whole <= bound and worst <= _ROW_FACTOR * bound):
            return f"it differs by {whole:.1e}, in one row by {worst:.1e} (allowed: {bound:.1e})"
    return None


def _shown(tensor: Tensor | None) -> str:
    return "" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
