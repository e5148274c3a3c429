"""The loop never stops the device, whatever is in the batch; counted on shapes, as if they lay on a GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from joyimage.benchmark.models import SCALED, build, make_image
from joyimage.benchmark.op_counter import Counts, OpCounter
from joyimage.benchmark.stages import STAGES, STEP, watch
from joyimage.pipeline.edit_plus import JoyImageEditPlusPipeline

MINUTE = replace(SCALED, base_size=256, num_layers=2)
SQUARE, WIDE = make_image(256), make_image(256).resize((512, 128))


@pytest.fixture(scope="module")
def edit() -> Any:
    return build(MINUTE, torch.device("meta"), torch.bfloat16)


@pytest.fixture(scope="module")
def edit_plus(edit: Any) -> Any:
    pipe = JoyImageEditPlusPipeline(**edit.components, base_size=256)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def steps_of(pipe: Any, **call: Any) -> list[Counts]:
    """Run a guided edit of three steps and return what each step counts."""
    counter = OpCounter()
    names: list[str] = []

    def mark(stage: str) -> None:
        if names:
            counter.leave(names[-1])
        if stage in {STAGES[2], STEP}:
            names.append(f"step {len(names)}")
            counter.enter(names[-1])

    with torch.no_grad(), counter.counting(), watch(pipe, mark):
        pipe(num_inference_steps=3, guidance_scale=4.0, output_type="pt", **call)
    return [counter[name] for name in names[:3]]  # behind the last one there is nothing more to count


@pytest.mark.parametrize(
    "call",
    [
        {"prompt": "Make the car red"},
        {"prompt": ["Make the car red", "blue"]},  # texts are padded, which needs a mask
        {"prompt": "blue", "image": None},
        {"prompt": "blue", "num_images_per_prompt": 2},
    ],
    ids=["one prompt", "prompts of different lengths", "no image", "two images"],
)
def test_loop_when_an_edit_runs_then_no_copy_and_no_wait_in_any_step(edit: Any, call: dict[str, Any]) -> None:
    steps = steps_of(edit, **{"image": SQUARE, **call})

    assert [(one.host_copies, one.syncs) for one in steps] == [(0, 0)] * 3
    assert all(one.flops for one in steps)


def test_loop_when_outputs_have_unlike_references_then_no_copy_and_no_wait_in_any_step(
    edit_plus: Any,
) -> None:
    groups = [[SQUARE], [WIDE, SQUARE], [SQUARE]]

    steps = steps_of(edit_plus, images=groups, prompt=["blue", "Make the car red", "red"])

    assert [(one.host_copies, one.syncs) for one in steps] == [(0, 0)] * 3
    assert all(one.flops for one in steps)
