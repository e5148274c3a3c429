"""A server's pipeline on several devices: as on one, and a process that is killed counts as a broken device."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import save_file

from joyimage.errors import InvalidInputError
from joyimage.serving.workers.loading import check_settings, load_runner
from joyimage.serving.workers.protocol import DeviceFailedError
from tests import random_models
from tests.model.sliced_adapters import draw_adapter
from tests.serving.parts import SIDE, difference, make_settings, make_task, png, run_on

if TYPE_CHECKING:
    from pathlib import Path


def test_server_when_two_processes_share_an_edit_then_as_one_and_a_killed_one_fails_the_device(
    tmp_path: Path,
) -> None:
    checkpoint, adapter = tmp_path / "checkpoint", tmp_path / "style.safetensors"
    random_models.make_pipeline().save_pretrained(checkpoint)
    save_file(draw_adapter("lora"), adapter)
    settings = make_settings(
        tmp_path, model=str(checkpoint), device="cpu", base_size=SIDE, loras={"style": adapter}
    )
    alone = load_runner(settings)
    shared = load_runner(settings.model_copy(update={"gpus": 2, "gpu_layout": "tensor"}))
    tasks = [
        make_task("edit", num_inputs=1, guidance_scale=3.0),
        make_task("edit", num_inputs=1, guidance_scale=3.0, loras=["style:0.5"]),
    ]
    assert shared.companions is not None
    try:
        plain, styled = (
            [run_on(one, (task, png()))[0].images[0] for one in (shared, alone)] for task in tasks
        )
        assert difference(*plain) <= 1
        assert difference(*styled) <= 1
        assert difference(plain[0], styled[0]) > 5

        (other,) = (one for one in multiprocessing.active_children() if one.name == "joyimage 2 of 2")
        other.kill()
        other.join()
        with pytest.raises(DeviceFailedError, match="joyimage 2 of 2: the process has ended"):
            run_on(shared, (tasks[0], png(1)))
    finally:
        shared.companions.end()


def test_server_when_several_pipelines_take_several_devices_then_needs_ray(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, model="tiny", device="cpu", gpus=2, replicas=2)

    with pytest.raises(InvalidInputError, match="run with `--ray`"):
        check_settings(settings)


def test_server_when_quantized_layers_would_be_sliced_then_rejected_before_it_starts(tmp_path: Path) -> None:
    settings = make_settings(
        tmp_path, model="tiny", device="cpu", gpus=2, gpu_layout="tensor", quantize="int8"
    )

    with pytest.raises(
        InvalidInputError, match="`quantization` is 'int8', but the layout \"tensor\" divides"
    ):
        check_settings(settings)
