"""Branches of a step advance block by block, one at a time, and fail together."""

from __future__ import annotations

from contextvars import ContextVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from joyimage.acceleration.lockstep import Lockstep


def visit(lockstep: list[Lockstep], log: list[tuple[int, int]], branch: int, num_blocks: int) -> int:
    for block in range(num_blocks):
        lockstep[0].meet()
        log.append((block, branch))
    return branch


@given(num_branches=st.integers(1, 5), num_blocks=st.integers(0, 6))
def test_branches_when_run_then_each_block_is_left_by_all_before_the_next(
    num_branches: int, num_blocks: int
) -> None:
    log: list[tuple[int, int]] = []
    holder: list[Lockstep] = []
    holder.append(
        Lockstep(
            [lambda branch=branch: visit(holder, log, branch, num_blocks) for branch in range(num_branches)]
        )
    )

    assert holder[0].run() == list(range(num_branches))

    assert [block for block, _ in log] == sorted(block for block, _ in log)
    assert len(set(log)) == num_branches * num_blocks


@given(
    failing=st.integers(0, 2),
    at=st.integers(0, 4),
    lengths=st.lists(st.integers(0, 4), min_size=3, max_size=3),
)
def test_branches_when_one_fails_then_its_error_is_raised_and_no_branch_is_left(
    failing: int, at: int, lengths: list[int]
) -> None:
    holder: list[Lockstep] = []
    ended: list[int] = []

    def run(branch: int) -> None:
        try:
            for block in range(lengths[branch] + 1):
                holder[0].meet()
                if branch == failing and block == min(at, lengths[branch]):
                    raise ZeroDivisionError(str(branch))
        finally:
            ended.append(branch)

    holder.append(Lockstep([lambda branch=branch: run(branch) for branch in range(3)]))

    with pytest.raises(ZeroDivisionError, match=str(failing)):
        holder[0].run()
    assert failing in ended


def test_branches_when_caller_has_settings_of_its_thread_then_they_hold_in_the_branches() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="default")
    variable.set("caller's")

    with torch.no_grad():
        seen = Lockstep([lambda: (torch.is_grad_enabled(), variable.get())] * 2).run()
    with torch.inference_mode():
        inference = Lockstep([torch.is_inference_mode_enabled]).run()

    assert seen == [(False, "caller's")] * 2
    assert inference == [True]
