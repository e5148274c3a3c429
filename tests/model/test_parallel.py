"""Context parallelism: two processes that share a sequence agree with one that has it all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
import torch.distributed as dist
from diffusers.models._modeling_parallel import ContextParallelConfig, ContextParallelInput

from joyimage.acceleration import accelerate, report
from joyimage.acceleration.parallel import ParallelError
from joyimage.model.transformer import JoyImageEditTransformer3DModel
from tests import random_models
from tests.forked import start
from tests.model.drive import assert_close, list_inputs
from tests.model.sliced_adapters import draw_adapter

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


EDITS: dict[str, dict[str, Any]] = {
    "exact": {},
    "preset": {"speed": "fast", "is_interrupted": False},
    "no guidance": {"guidance_scale": 1.0},
    "slices of the layers": {"layout": "tensor"},
    "slices with adapters": {"layout": "tensor", "has_adapters": True},
}
"""Edits that two processes share."""


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
    edits = {name: run_edit(call, rank) for name, call in EDITS.items()}
    torch.save((results, edits), folder / f"{rank}.pt")
    dist.barrier()  # a process that leaves early would close connections that the other one still uses
    try:
        run_edit({"is_killed": True, "layout": "tensor"}, rank)
    except ParallelError as error:
        message = str(error)
    else:
        message = "no error"
    (folder / "alone.txt").write_text(message)
    os._exit(0)


def run_edit(call: dict[str, Any], rank: int | None = None) -> Tensor:
    """Run an edit alone (None) or as one of two processes; return its latents.

    Draws differ between processes, and a callback acts on process 0 alone: all must follow that one.
    """
    options = dict(call)
    pipe: Any = random_models.make_pipeline()
    pipe.register_to_config(base_size=64)
    pipe.set_progress_bar_config(disable=True)
    layout, has_adapters = options.pop("layout", "guidance"), options.pop("has_adapters", False)
    if has_adapters:
        pipe.load_lora_weights(draw_adapter("lora"), adapter_name="before")
    if rank is not None:
        pipe.parallel(2, layout)
        assert report(pipe).parallelism == f"{layout} 2"
    if has_adapters:
        pipe.load_lora_weights(draw_adapter("dora", 100), adapter_name="after")
        pipe.set_adapters(["before", "after"], [0.5, 0.8])
    is_interrupted, is_killed = options.pop("is_interrupted", True), options.pop("is_killed", False)

    def act(pipe: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if is_killed and rank == 1 and step == 2:
            # In the next forward, between two exchanges; no farewell, as of a killed process.
            pipe.transformer.double_blocks[1].register_forward_pre_hook(lambda *_: os._exit(3))
        if rank in {None, 0} and step == 4:
            pipe._interrupt = is_interrupted
            return {"latents": tensors["latents"] * 1.01}
        return {}

    return pipe(
        **{
            "image": random_models.make_image(0, 64, 64),
            "prompt": "make it blue",
            "num_inference_steps": 6,
            "guidance_scale": 4.0,
            "output_type": "latent",
            "generator": torch.Generator().manual_seed(rank or 0),
            "callback_on_step_end": act,
            **options,
        }
    ).images


def test_context_parallel_when_two_processes_then_agree_with_one(tmp_path: Path) -> None:
    processes = [start(run_rank, rank, tmp_path) for rank in (0, 1)]
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 3]
    assert "Another process of this edit has ended" in (tmp_path / "alone.txt").read_text()

    for rank in (0, 1):
        results, edits = torch.load(tmp_path / f"{rank}.pt")
        for name, call in EDITS.items():
            expected = run_edit(call)
            assert (edits[name] - expected).abs().max() < 1e-5 * expected.abs().max(), (rank, name)
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
