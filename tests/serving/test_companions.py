"""A server's pipeline on several devices: as on one, and a process that is killed counts as a broken device."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

import pytest

from joyimage.errors import InvalidInputError
from joyimage.serving.workers.loading import check_settings, load_runner
from joyimage.serving.workers.protocol import DeviceFailedError
from tests.serving.parts import SIDE, difference, make_settings, make_task, png, run_on

if TYPE_CHECKING:
    from pathlib import Path

    from joyimage.serving.workers.local import LocalRunner


def test_server_when_two_processes_share_an_edit_then_as_one_and_a_killed_one_fails_the_device(
    tmp_path: Path, runner: LocalRunner
) -> None:
    checkpoint = tmp_path / "checkpoint"
    runner.pipe.save_pretrained(checkpoint)
    settings = make_settings(tmp_path, model=str(checkpoint), device="cpu", gpus=2, base_size=SIDE)
    shared = load_runner(settings)
    task = make_task("edit", num_inputs=1, guidance_scale=3.0)
    assert shared.companions is not None
    try:
        (together,), (expected,) = (run_on(one, (task, png())) for one in (shared, runner))
        assert difference(together.images[0], expected.images[0]) <= 1

        (other,) = (one for one in multiprocessing.active_children() if one.name == "joyimage 2 of 2")
        other.kill()
        other.join()
        with pytest.raises(DeviceFailedError, match="joyimage 2 of 2: the process has ended"):
            run_on(shared, (task, png(1)))
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
