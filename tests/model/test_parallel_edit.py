"""One edit on four processes: two guidance branches, each with its tokens on two."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from joyimage.acceleration import report
from joyimage.acceleration.parallel import DEAD_PROCESS_SECONDS, GuidanceGroup, ParallelError
from joyimage.errors import InvalidInputError
from tests import random_models

if TYPE_CHECKING:
    from pathlib import Path

NUM = 4
EDITS: dict[str, dict[str, Any]] = {
    "guided": {},
    "another size and an uneven text": {
        "image": (96, 64),
        "prompt": "make the small one on the left blue, please",
    },
    "no guidance": {"guidance_scale": 1.0},
    "interrupted": {"stops_at": 1},
}


def make_pipe() -> Any:
    pipe: Any = random_models.make_pipeline()
    pipe.register_to_config(base_size=64)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run_edit(pipe: Any, call: dict[str, Any], rank: int = 0, dies_at: int | None = None) -> torch.Tensor:
    """Run an edit and return its latents; what is drawn differs between processes, which all follow process 0."""
    options = dict(call)
    width, height = options.pop("image", (64, 64))
    stops_at = options.pop("stops_at", None)

    def act(pipe: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if rank == NUM - 1 and step == dies_at:
            os._exit(3)  # no farewell, as of a killed process
        if rank == 0 and step == stops_at:
            pipe._interrupt = True
        return {}

    return pipe(
        **{
            "image": random_models.make_image(0, width, height),
            "prompt": "make it blue",
            "num_inference_steps": 3,
            "guidance_scale": 4.0,
            "output_type": "latent",
            "generator": torch.Generator().manual_seed(rank),
            "callback_on_step_end": act,
            **options,
        }
    ).images


def run_rank(rank: int, folder: Path) -> None:
    """Be one of four processes: make all edits, then one in which the last process dies."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=NUM)
    pipe = make_pipe()
    # diffusers divides by the number of accelerators, and a machine without any has none.
    with mock.patch.object(torch.accelerator, "device_count", return_value=NUM):
        pipe.parallel(NUM)
    assert report(pipe).parallelism == "guidance 2, ulysses 2"
    found = {name: run_edit(pipe, call, rank) for name, call in EDITS.items()}
    with pytest.raises(InvalidInputError, match="each would decide for itself"):
        run_edit(pipe, {"speed": "fast"}, rank)
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()  # a process that leaves early would close connections that others still use
    started = time.monotonic()
    try:
        run_edit(pipe, {}, rank, dies_at=1)
    except ParallelError as error:
        message = str(error)
    else:
        message = "no error"
    took = time.monotonic() - started
    (folder / f"{rank}.txt").write_text(f"{took < DEAD_PROCESS_SECONDS + 5} {message}")
    os._exit(0)


def test_edit_when_four_processes_share_it_then_as_one_and_a_dead_one_ends_all(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=run_rank, args=(rank, tmp_path)) for rank in range(NUM)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0, 0, 3]
    for rank in range(NUM - 1):
        assert (
            (tmp_path / f"{rank}.txt").read_text().startswith("True Another process of this edit has ended")
        )
    alone = make_pipe()
    expected = {name: run_edit(alone, call) for name, call in EDITS.items()}
    for rank in range(NUM):
        for name, latents in torch.load(tmp_path / f"{rank}.pt").items():
            difference = (latents - expected[name]).abs().max()
            assert difference < 1e-5 * expected[name].abs().max(), (rank, name)


def test_parallel_when_it_cannot_be_then_the_message_says_why() -> None:
    pipe = make_pipe()

    with pytest.raises(InvalidInputError, match="`num_processes` is 3; expected 2, 4, 8"):
        pipe.parallel(3)
    with pytest.raises(InvalidInputError, match="the number of connected processes is 1"):
        pipe.parallel(4)
    pipe.processes = GuidanceGroup(rank=0, group=None, meeting=None, pair=None, num_parts=2)
    with pytest.raises(InvalidInputError, match="tokens are divided; load the pipeline again"):
        pipe.parallel(1)
