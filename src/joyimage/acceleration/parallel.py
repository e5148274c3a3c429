"""One edit on several devices: each guidance branch on a process of its own.

Every process loads the same pipeline and makes the same call. In each step a process runs one branch and all of them
exchange the target's velocities, so that every process holds every step's latents. What is random, and what a callback
changes, is that of process 0.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed as typed_distributed

from joyimage.errors import InvalidInputError, JoyImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

distributed: Any = typed_distributed  # its functions are typed in part

NUM_BRANCHES = 2
DEAD_PROCESS_SECONDS = 10.0
"""Longest time that a process waits for the others in a step that has begun."""


class ParallelError(JoyImageError, RuntimeError):
    """Another process of the edit has ended or does not answer."""


@dataclass(frozen=True, kw_only=True)
class GuidanceGroup:
    """The processes that share an edit.

    Attributes:
        rank: Number of this process, from 0; process 0 runs the conditional branch.
        group: Their process group.
    """

    rank: int
    group: Any

    @classmethod
    def join(cls, num_processes: int) -> GuidanceGroup:
        """Return the group of the processes that were started together, such as by `torchrun`.

        Raises:
            InvalidInputError: There is no process group, or it has another number of processes.
        """
        if num_processes != NUM_BRANCHES:
            raise InvalidInputError(
                f"`num_processes` is {num_processes}; expected {NUM_BRANCHES}, one for each guidance branch."
            )
        size = distributed.get_world_size() if distributed.is_initialized() else 1
        if size != num_processes:
            raise InvalidInputError(
                f"`num_processes` is {num_processes}, but the number of connected processes is {size}; start the"
                f" program with `torchrun --nproc-per-node {num_processes}`, and call"
                " `torch.distributed.init_process_group` first."
            )
        timeout = datetime.timedelta(seconds=DEAD_PROCESS_SECONDS)
        return cls(rank=distributed.get_rank(), group=distributed.new_group(timeout=timeout))

    def run(self, calls: Sequence[Callable[[], list[Tensor]]], like: Tensor) -> list[list[Tensor]]:
        """Run one call per branch, each on its process, and return the results of all.

        Args:
            calls: Branches in the same order on every process, which return one velocity each; one call where there
                is no guidance, which process 0 runs for all.
            like: A tensor with shape, precision and device of a velocity.

        Raises:
            ParallelError: Another process has ended.
        """
        if len(calls) == 1:
            return [[self.share(calls[0]()[0] if self.rank == 0 else torch.empty_like(like))]]
        velocity = calls[self.rank]()[0].contiguous()
        found = [torch.empty_like(velocity) for _ in calls]
        self._exchange(lambda: distributed.all_gather(found, velocity, group=self.group))
        return [[one] for one in found]

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
            raise ParallelError(
                "Another process of this edit has ended or does not answer; look at its output, and start all of them "
                "again."
            ) from error
