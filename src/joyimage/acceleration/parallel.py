"""One edit on several devices: each guidance branch on a process, or on a few that divide its tokens.

Every process loads the same pipeline and makes the same call. In each step a process runs its branch and exchanges the
target's velocity with one process of the other, so that every process holds every step's latents. What is random, and
what a callback changes, is that of process 0. With 4 or 8 processes, 2 or 4 of them run a branch together by Ulysses
sequence parallelism: each has all layers, a part of the tokens, and in attention a part of the heads.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed as typed_distributed

from joyimage.compat.diffusers import divide_tokens, is_parallel
from joyimage.devices import GPUS_CHOICES
from joyimage.errors import InvalidInputError, JoyImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

distributed: Any = typed_distributed  # its functions are typed in part

NUM_BRANCHES = 2
NUM_PROCESSES = GPUS_CHOICES[1:]
"""Numbers of processes that can share an edit."""
DEAD_PROCESS_SECONDS = 10.0
"""Longest time that a process waits for the others in a step that has begun."""

_LOST_PROCESS = re.compile(r"gloo|nccl|connection (closed|reset)|process group|timed out", re.IGNORECASE)
"""What torch says where another process does not answer; its errors have no type of their own."""


_LOST = "Another process of this edit has ended or does not answer; look at its output, and start all of them again."


class ParallelError(JoyImageError, RuntimeError):
    """Another process of the edit has ended or does not answer."""


@dataclass(frozen=True, kw_only=True)
class GuidanceGroup:
    """The processes that share an edit.

    Attributes:
        rank: Number of this process, from 0; the first half runs the conditional branch.
        group: Process group of all processes that share an edit.
        meeting: Process group in which they wait for each other before the first step, however long one of them reads.
        pair: Process group of this process and the one with the same part of the tokens in the other branch.
        num_parts: Parts that a branch's tokens are divided into, each on a process.
    """

    rank: int
    group: Any
    meeting: Any
    pair: Any
    num_parts: int = 1

    @property
    def branch(self) -> int:
        """Number of this process's branch: 0 is the conditional one."""
        return self.rank // self.num_parts

    @classmethod
    def join(cls, num_processes: int, transformer: Any) -> GuidanceGroup:
        """Return the group of the processes that were started together, such as by `torchrun`.

        Args:
            num_processes: One of `NUM_PROCESSES`.
            transformer: The network; its tokens are divided where there are more processes than branches, until it is
                loaded again.

        Raises:
            InvalidInputError: There is no process group, it has another number of processes, the heads cannot be
                divided, or there is no device for each process.
        """
        if num_processes not in NUM_PROCESSES:
            raise InvalidInputError(
                f"`num_processes` is {num_processes}; expected {', '.join(map(str, NUM_PROCESSES))}: one, two or four"
                " for each guidance branch."
            )
        size = distributed.get_world_size() if distributed.is_initialized() else 1
        if size != num_processes:
            raise InvalidInputError(
                f"`num_processes` is {num_processes}, but the number of connected processes is {size}; start the"
                f" program with `torchrun --nproc-per-node {num_processes}`, and call"
                " `torch.distributed.init_process_group` first."
            )
        num_parts = num_processes // NUM_BRANCHES
        rank, timeout = distributed.get_rank(), datetime.timedelta(seconds=DEAD_PROCESS_SECONDS)
        group = distributed.new_group(timeout=timeout)
        meeting = distributed.new_group(backend="gloo")  # says at once when a process has ended
        if num_parts == 1:
            return cls(rank=rank, group=group, meeting=meeting, pair=group)
        _check_parts(transformer, num_parts)
        # Every process takes part in making every group, also those that it is not in.
        pairs = [
            distributed.new_group([part, part + num_parts], timeout=timeout) for part in range(num_parts)
        ]
        divide_tokens(transformer, num_branches=NUM_BRANCHES, num_parts=num_parts)
        return cls(rank=rank, group=group, meeting=meeting, pair=pairs[rank % num_parts], num_parts=num_parts)

    def run(self, calls: Sequence[Callable[[], list[Tensor]]], like: Tensor) -> list[list[Tensor]]:
        """Run one call per branch, each on its processes, and return the results of all.

        Args:
            calls: Branches in the same order on every process, which return one velocity each; one call where there
                is no guidance, which the processes of the conditional branch run for all.
            like: A tensor with shape, precision and device of a velocity.

        Raises:
            ParallelError: Another process has ended.
        """
        if len(calls) == 1:
            found = self._predict(calls[0]) if self.branch == 0 else torch.empty_like(like)
            return [[self.share(found)]]
        velocity = self._predict(calls[self.branch])
        velocities = [torch.empty_like(velocity) for _ in calls]
        self._exchange(lambda: distributed.all_gather(velocities, velocity, group=self.pair))
        return [[one] for one in velocities]

    def _predict(self, call: Callable[[], list[Tensor]]) -> Tensor:
        """Run a branch, whose tokens several processes may divide.

        Raises:
            ParallelError: One of them has ended.
            RuntimeError: The branch itself has failed.
        """
        if self.num_parts == 1:
            return call()[0].contiguous()
        try:
            return call()[0].contiguous()
        except RuntimeError as error:
            if _LOST_PROCESS.search(str(error)) is None:
                raise
            raise ParallelError(_LOST) from error

    def meet(self) -> None:
        """Wait until every process has come to the first step.

        Raises:
            ParallelError: Another process has ended.
        """
        self._exchange(lambda: distributed.barrier(group=self.meeting))

    def share_settings(self, *settings: float, like: Tensor) -> list[float]:
        """Return process 0's values of some numbers; `like` is a tensor on the device that exchanges them.

        Raises:
            ParallelError: Another process has ended.
        """
        return [
            float(one) for one in self.share(torch.tensor(settings, dtype=torch.float64, device=like.device))
        ]

    def share(self, tensor: Tensor) -> Tensor:
        """Return process 0's values of a tensor that has the same shape on every process.

        Raises:
            ParallelError: Another process has ended.
        """
        shared = tensor.contiguous()
        self._exchange(lambda: distributed.broadcast(shared, src=0, group=self.group))
        return shared

    def _exchange(self, collective: Callable[[], Any]) -> None:
        """Run a collective.

        Raises:
            ParallelError: Another process has ended.
        """
        try:
            collective()
        except RuntimeError as error:
            raise ParallelError(_LOST) from error


def _check_parts(transformer: Any, num_parts: int) -> None:
    """Reject a transformer whose tokens cannot be divided.

    Raises:
        InvalidInputError: They are divided already, its heads have no such parts, or there are too few devices.
    """
    heads = transformer.config["num_attention_heads"]
    if is_parallel(transformer):
        raise InvalidInputError("The transformer's tokens are divided already; load the pipeline again.")
    if heads % num_parts:
        raise InvalidInputError(
            f"`num_processes` asks for {num_parts} processes for each guidance branch, which divide the heads of"
            f" attention; the transformer has {heads}."
        )
    if not torch.accelerator.device_count():
        raise InvalidInputError(
            "`num_processes` is more than 2, which needs an accelerator for each process; torch sees none."
        )
