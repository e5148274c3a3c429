"""Context parallelism: two processes that share a sequence agree with one that has it all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
import torch.distributed as dist
from diffusers.models._modeling_parallel import ContextParallelConfig, ContextParallelInput
from torch.multiprocessing.spawn import spawn

from joyimage.acceleration import accelerate
from joyimage.model.transformer import JoyImageEditTransformer3DModel
from tests import random_models
from tests.model.drive import assert_close, list_inputs

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

CASES: dict[str, dict[str, Any]] = {
    "equal parts": {"text_length": 8, "is_masked": False, "rope_type": "rope", "options": {}},
    "padding and text positions": {"text_length": 8, "is_masked": True, "rope_type": "mrope", "options": {}},
    "unequal parts": {
        "text_length": 7,
        "is_masked": False,
        "rope_type": "rope",
        "options": {"ulysses_anything": True},
    },
}


def run_case(case: dict[str, Any], *, is_parallel: bool) -> list[Tensor]:
    """Run one forward pass over items of two sizes."""
    model = random_models.make_transformer(rope_type=case["rope_type"])
    arguments = list_inputs([(4, 4), (4, 6)], batch_size=2, text_length=case["text_length"])
    if case["is_masked"]:
        arguments["encoder_hidden_states_mask"] = torch.tensor([[1] * 8, [1] * 3 + [0] * 5])
    if is_parallel:
        accelerate(model)
        config = ContextParallelConfig(ulysses_degree=2, **case["options"])
        # diffusers 0.42.1 divides by the number of accelerators, which a machine without any doesn't survive.
        with mock.patch.object(torch.accelerator, "device_count", return_value=2):
            model.enable_parallelism(config=config)
    with torch.no_grad():
        return model(**arguments).sample


def run_rank(rank: int, folder: Path) -> None:
    """Be one of two processes: run all cases and leave the results."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    results = {name: run_case(case, is_parallel=True) for name, case in CASES.items()}
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_context_parallel_when_two_processes_then_agree_with_one(tmp_path: Path) -> None:
    spawn(run_rank, args=(tmp_path,), nprocs=2)

    for rank in (0, 1):
        results = torch.load(tmp_path / f"{rank}.pt")
        for name, case in CASES.items():
            for got, expected in zip(results[name], run_case(case, is_parallel=False), strict=True):
                assert_close(got, expected, "forward")


def test_plan_when_read_then_its_modules_and_arguments_exist() -> None:
    model = random_models.make_transformer()
    plan = JoyImageEditTransformer3DModel._cp_plan

    for name, entry in plan.items():
        module = model.get_submodule(name.replace("*", "1"))
        for argument, split in entry.items() if isinstance(entry, dict) else ():
            assert isinstance(split, ContextParallelInput)
            assert split.split_output or argument in type(module).forward.__annotations__
