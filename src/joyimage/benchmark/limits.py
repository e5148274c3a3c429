"""What limits a stage: its matmuls, attention and memory traffic, counted in a real run, at measured hardware peaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import sdpa_flop_count

from joyimage.benchmark.op_counter import count_flops, has_flops, moves_nothing, num_bytes
from joyimage.benchmark.stages import STAGES, STEP, watch
from joyimage.compat.torch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass
class Work:
    """What one stage does.

    Attributes:
        matmul_flops: Operations of matrix products and convolutions; a multiplication and an addition count as two.
        attention_flops: Operations of fused attention.
        moved_bytes: Bytes that all other operators read and write, views excluded.
    """

    matmul_flops: int = 0
    attention_flops: int = 0
    moved_bytes: int = 0

    def shares(self, seconds: float, peaks: Mapping[str, float]) -> dict[str, float]:
        """Return the share of a stage's time that each kind of work would take at the device's peak.

        Args:
            seconds: Time of the stage.
            peaks: From `measure_peaks`.

        Returns:
            "matmul", "attention", "copies"; and "other": what is left, which no peak explains. That is the cost of
            starting operators, of Python and of waiting, and of operators that stay below the peak.
        """
        shares = {
            "matmul": self.matmul_flops / (peaks["matmul_tflops"] * 1e12) / seconds,
            "attention": self.attention_flops / (peaks["attention_tflops"] * 1e12) / seconds,
            "copies": self.moved_bytes / (peaks["copy_gbs"] * 1e9) / seconds,
        }
        return {**shares, "other": max(0.0, 1 - sum(shares.values()))}


def count_work(pipe: Any, call: Callable[[], Any]) -> dict[str, Work]:
    """Run an edit once and count what each stage does.

    Operators are counted as torch dispatches them; Triton kernels and compiled code move bytes that are not seen here.

    Args:
        pipe: The pipeline that `call` calls.
        call: The edit.

    Returns:
        Work by stage.
    """
    work = {stage: Work() for stage in STAGES}
    counter = _WorkCounter(work[STAGES[0]])

    def mark(stage: str) -> None:
        if stage != STEP:
            counter.work = work[stage]

    with watch(pipe, mark), torch.no_grad(), counter:
        call()
    return work


class _WorkCounter(TorchDispatchMode):
    """Add what operators do to the open stage.

    Args:
        work: The first stage.
    """

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        out = func(*args, **kwargs)
        packet = func.overloadpacket
        if "scaled_dot_product" in packet.__name__:
            query, key, value = args[:3]
            self.work.attention_flops += sdpa_flop_count(query.shape, key.shape, value.shape)
        elif has_flops(packet):
            self.work.matmul_flops += count_flops(packet, args, kwargs, out)
        elif not moves_nothing(func, packet):
            given = [one for one in (*args, *kwargs.values()) if isinstance(one, torch.Tensor)]
            made = out if isinstance(out, tuple | list) else [out]
            self.work.moved_bytes += num_bytes(given) + num_bytes(
                one for one in made if isinstance(one, torch.Tensor)
            )
        return out
