"""One edit on several devices: each guidance branch on a process, or on a few that divide its tokens.

Every process loads the same pipeline and makes the same call. In each step a process runs its branch and exchanges the
target's velocity with one process of the other, so that every process holds every step's latents. What is random, and
what a callback changes, is that of process 0. With 4 or 8 processes, 2 or 4 of them run a branch together by Ulysses
sequence parallelism: each has all layers, a part of the tokens, and in attention a part of the heads.

`tensor_parallel.py` is another layout, for devices that cannot hold all layers.
"""

from __future__ import annotations

import datetime
import re
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import distributed as typed_distributed

from joyimage.compat.diffusers import divide_tokens, is_parallel
from joyimage.devices import GPUS_CHOICES
from joyimage.errors import InvalidInputError, JoyImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

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
class EditGroup(ABC):
    """The processes that share an edit.

    Attributes:
        rank: Number of this process, from 0.
        group: Process group of all processes that share an edit.
        meeting: Process group in which they wait for each other before the first step, however long one of them reads.
        divided: What processes have parts of, "tokens" or "layers", until the pipeline is loaded again; None: nothing.
        runs_all_branches: Whether every process runs all guidance branches.
    """

    rank: int
    group: Any
    meeting: Any

    divided: ClassVar[str | None] = None
    runs_all_branches: ClassVar[bool] = False

    @property
    def branch(self) -> int:
        """Number of the first guidance branch that this process runs: 0 is the conditional one."""
        return 0

    @abstractmethod
    def run(self, calls: Sequence[Callable[[], list[Tensor]]], like: Tensor) -> list[list[Tensor]]:
        """Run the calls of a step, and return the results of all on every process.

        Args:
            calls: Branches in the same order on every process, which return one velocity each; one call where there
                is no guidance.
            like: A tensor with shape, precision and device of a velocity.

        Raises:
            ParallelError: Another process has ended.
        """

    def meet(self) -> None:
        """Wait until every process has come to the first step.

        Raises:
            ParallelError: Another process has ended.
        """
        with lost_process(any_error=True):
            distributed.barrier(group=self.meeting)

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
        with lost_process(any_error=True):
            distributed.broadcast(shared, src=0, group=self.group)
        return shared


@dataclass(frozen=True, kw_only=True)
class GuidanceGroup(EditGroup):
    """Processes of which each runs a guidance branch, or a part of its tokens; the first half runs the conditional one.

    Attributes:
        pair: Process group of this process and the one with the same part of the tokens in the other branch.
        num_parts: Parts that a branch's tokens are divided into, each on a process.
    """

    pair: Any
    num_parts: int = 1

    @property
    def divided(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What processes have parts of."""
        return "tokens" if self.num_parts > 1 else None

    @property
    def branch(self) -> int:
        """Number of this process's guidance branch."""
        return self.rank // self.num_parts

    def __str__(self) -> str:
        return f"guidance {NUM_BRANCHES}"

    @classmethod
    def join(cls, num_processes: int, transformer: Any) -> GuidanceGroup:
        """Return the group of the processes that were started together, such as by `torchrun`.

        Args:
            num_processes: One of `NUM_PROCESSES`.
            transformer: The network; its tokens are divided where there are more processes than branches, until it is
                loaded again.

        Raises:
            InvalidInputError: There is no process group, it has another number of processes, the heads cannot be
                divided, there is no device for each process, or the layers are divided.
        """
        if transformer.layer_slice.num_parts > 1:
            raise InvalidInputError(
                'The transformer\'s layers are divided; `layout` must be "tensor", or load the pipeline again.'
            )
        num_parts = num_processes // NUM_BRANCHES
        rank, group, meeting = connected_groups(num_processes)
        if num_parts == 1:
            return cls(rank=rank, group=group, meeting=meeting, pair=group)
        _check_parts(transformer, num_parts)
        # Every process takes part in making every group, also those that it is not in.
        timeout = datetime.timedelta(seconds=DEAD_PROCESS_SECONDS)
        pairs = [
            distributed.new_group([part, part + num_parts], timeout=timeout) for part in range(num_parts)
        ]
        divide_tokens(transformer, num_branches=NUM_BRANCHES, num_parts=num_parts)
        return cls(rank=rank, group=group, meeting=meeting, pair=pairs[rank % num_parts], num_parts=num_parts)

    def run(self, calls: Sequence[Callable[[], list[Tensor]]], like: Tensor) -> list[list[Tensor]]:
        """Run one call per branch, each on its processes; see `EditGroup.run`.

        One call alone is run by the processes of the conditional branch, for all.
        """
        if len(calls) == 1:
            found = self._predict(calls[0]) if self.branch == 0 else torch.empty_like(like)
            return [[self.share(found)]]
        velocity = self._predict(calls[self.branch])
        velocities = [torch.empty_like(velocity) for _ in calls]
        with lost_process(any_error=True):
            distributed.all_gather(velocities, velocity, group=self.pair)
        return [[one] for one in velocities]

    def _predict(self, call: Callable[[], list[Tensor]]) -> Tensor:
        """Run a branch, whose tokens several processes may divide.

        Raises:
            ParallelError: One of them has ended.
            RuntimeError: The branch itself has failed.
        """
        if self.num_parts == 1:
            return call()[0].contiguous()
        with lost_process():
            return call()[0].contiguous()


def connected_groups(num_processes: int) -> tuple[int, Any, Any]:
    """Return this process's number, the group of all processes, and the one in which they wait for each other.

    Args:
        num_processes: One of `NUM_PROCESSES`.

    Raises:
        InvalidInputError: It is none of them, there is no process group, or it has another number of processes.
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
    group = distributed.new_group(timeout=datetime.timedelta(seconds=DEAD_PROCESS_SECONDS))
    meeting = distributed.new_group(backend="gloo")  # says at once when a process has ended
    return distributed.get_rank(), group, meeting


@contextmanager
def lost_process(*, any_error: bool = False) -> Generator[None]:
    """Raise `ParallelError` where another process does not answer inside the `with`.

    Args:
        any_error: Whether every `RuntimeError` means that; False for code that may fail in another way.

    Raises:
        ParallelError: Another process has ended.
        RuntimeError: The code itself has failed.
    """
    try:
        yield
    except RuntimeError as error:
        if not any_error and _LOST_PROCESS.search(str(error)) is None:
            raise
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
