"""Parts that live elsewhere between their turns change nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from joyimage.errors import DeviceError
from tests import random_models

IMAGE = random_models.make_image(0, 64, 64)


def make_pipe() -> Any:
    pipe = random_models.make_pipeline()
    pipe.register_to_config(base_size=64)
    return pipe


def run(pipe: Any) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    return np.asarray(
        pipe(image=IMAGE, prompt="blue", num_inference_steps=2, output_type="np", generator=generator).images
    )


@pytest.mark.parametrize("offload_type", ["leaf_level", "block_level"])
def test_group_offload_when_enabled_then_same_image(offload_type: str) -> None:
    expected = run(make_pipe())
    pipe = make_pipe()

    pipe.enable_group_offload(
        onload_device=torch.device("cpu"),
        offload_device=torch.device("cpu"),
        offload_type=offload_type,
        num_blocks_per_group=1 if offload_type == "block_level" else None,
    )

    assert np.abs(run(pipe) - expected).max() < 1e-5


def test_model_offload_when_enabled_then_parts_come_in_their_order_and_same_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = run(make_pipe())
    pipe = make_pipe()
    order: list[str] = []
    names = {id(getattr(pipe, name)): name for name in ("text_encoder", "transformer", "vae")}
    from accelerate.hooks import CpuOffload

    plain = CpuOffload.pre_forward

    def note(hook: Any, module: torch.nn.Module, *arguments: Any, **keywords: Any) -> Any:
        name = names.get(id(module), "?")
        if order[-1:] != [name]:
            order.append(name)
        return plain(hook, module, *arguments, **keywords)

    monkeypatch.setattr(CpuOffload, "pre_forward", note)
    pipe.enable_model_cpu_offload(device="cpu:0")

    image = run(pipe)

    assert np.abs(image - expected).max() < 1e-5
    assert order == ["text_encoder", "vae", "transformer", "vae"]


def test_sequential_offload_when_the_device_is_the_cpu_then_one_sentence_and_the_pipeline_still_works() -> (
    None
):
    pipe = make_pipe()

    with pytest.raises(DeviceError, match=r"the device is the CPU\. .*offload=\"disk\""):
        pipe.enable_sequential_cpu_offload(device="cpu")

    assert run(pipe).shape == (1, 64, 64, 3)
