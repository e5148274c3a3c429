"""Several processes, one per device: the base in shards, the adapter in every process.

The base is frozen, so FSDP2 shards and gathers it block by block. The adapter is small: every process has all of it,
and its gradients are averaged. With two processes the sums are those of one process that accumulates over two batches,
to the bit.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from torch import distributed

from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn


class Processes:
    """The processes of a run; a run alone is one.

    Args:
        on_cpu: Whether they run on CPUs.
    """

    def __init__(self, *, on_cpu: bool) -> None:
        # accelerate's state is one for the whole program: a run alone leaves it untouched.
        is_alone = os.environ.get("WORLD_SIZE", "1") == "1"
        self._state: Any = None if is_alone else PartialState(cpu=on_cpu)

    @property
    def num(self) -> int:
        """How many there are."""
        return 1 if self._state is None else self._state.num_processes

    @property
    def rank(self) -> int:
        """Number of this one, from 0."""
        return 0 if self._state is None else self._state.process_index

    @property
    def is_main(self) -> bool:
        """Whether this one writes the files."""
        return self.rank == 0

    @property
    def device(self) -> torch.device | None:
        """Device of this one; None where a run alone chooses its own."""
        return None if self._state is None else self._state.device

    def wait(self) -> None:
        """Wait for all others."""
        if self._state is not None:
            self._state.wait_for_everyone()

    def check(self, gradient_accumulation: int) -> None:
        """Reject a number of processes that does not divide the batches of a step.

        Args:
            gradient_accumulation: Batches of a step.

        Raises:
            InvalidInputError: It does not.
        """
        if gradient_accumulation % self.num:
            raise InvalidInputError(
                f"`train.gradient_accumulation` is {gradient_accumulation} with {self.num} processes; expected a"
                f" multiple of {self.num}: the batches of a step are divided among the processes."
            )

    def shard(self, transformer: Any, adapter: Sequence[nn.Parameter]) -> None:
        """Shard the frozen base over the processes, block by block.

        Args:
            transformer: The transformer with its adapter, on the device.
            adapter: Parameters that every process keeps.
        """
        if self._state is None:
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self._state.device.type, (self.num,))
        for block in transformer.double_blocks:
            fully_shard(block, mesh=mesh, ignored_params=set(adapter))

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes."""
        if self.num == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)
            parameter.grad.div_(self.num)
