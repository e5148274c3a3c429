"""What only a GPU can show: captured graphs, compiled blocks, and bf16 no further off than diffusers'."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from joyimage.acceleration import ForwardCache, accelerate
from tests import random_models
from tests.model.drive import inputs

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda")
TOLERANCE = 1e-4  # fp32 matmuls of other kernels


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.float() - expected.float()).norm() / expected.float().norm())


def on_device() -> tuple[Any, dict[str, Any]]:
    arguments = {name: value.to(DEVICE) for name, value in inputs().items()}
    model: Any = random_models.make_transformer()
    model.to(DEVICE)
    accelerate(model)
    return model, arguments


@torch.no_grad()
def test_forward_when_captured_as_a_graph_then_replay_follows_its_inputs() -> None:
    model, arguments = on_device()
    cache = ForwardCache(model, arguments["timestep"])
    call = {**arguments, "target_only": True, "plan": cache}
    cache.prepare(arguments["hidden_states"], arguments["encoder_hidden_states"])
    model(**call)  # tables, texts and kernels are made ahead of the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = model(**call).sample

    arguments["hidden_states"].normal_(generator=torch.Generator(DEVICE).manual_seed(1))
    graph.replay()

    fresh = {**call, "hidden_states": arguments["hidden_states"].clone(), "plan": None}
    assert relative(captured, model(**fresh).sample) <= TOLERANCE


@torch.no_grad()
def test_compile_when_blocks_are_compiled_then_same_numbers() -> None:
    model, arguments = on_device()
    expected = model(**arguments, target_only=True).sample

    model.compile_repeated_blocks(fullgraph=True, dynamic=True)

    assert relative(model(**arguments, target_only=True).sample, expected) <= TOLERANCE


def edit(pipe: Any, dtype: torch.dtype) -> np.ndarray:
    pipe = pipe.to(DEVICE, dtype)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    settings = {"num_inference_steps": 4, "guidance_scale": 4.0, "output_type": "np"}
    image = random_models.make_image(0)
    return np.asarray(pipe(image=image, prompt="Make it blue", generator=generator, **settings).images)


def test_edit_when_in_bf16_then_no_further_from_fp32_than_diffusers() -> None:
    ours, theirs = (
        float(np.linalg.norm(edit(make(), torch.bfloat16) - edit(make(), torch.float32)))
        for make in (random_models.make_pipeline, random_models.make_reference_pipeline)
    )

    assert 0 < ours <= 1.1 * theirs
