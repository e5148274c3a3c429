"""A checkpoint's settings stay with its components when a pipeline is built from another's parts."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest
import torch

from joyimage import JoyImageEditPipeline, JoyImageEditPlusPipeline
from joyimage.pipeline import settings
from tests import random_models

if TYPE_CHECKING:
    from pathlib import Path

OWN: dict[str, Any] = {
    "base_size": 64,
    "text_token_max_length": 77,
    "default_num_inference_steps": 3,
    "default_guidance_scale": 1.5,
}
PIPELINES = (JoyImageEditPipeline, JoyImageEditPlusPipeline)


def own_settings(pipe: Any) -> dict[str, Any]:
    return {name: pipe.config[name] for name in OWN}


@pytest.mark.parametrize("pipeline_class", PIPELINES)
def test_pipeline_when_built_from_components_then_keeps_the_settings_of_the_checkpoint(
    checkpoint: Path, pipeline_class: Any
) -> None:
    pipe = JoyImageEditPipeline.from_pretrained(checkpoint, **OWN)

    assert own_settings(pipeline_class(**pipe.components)) == OWN
    assert own_settings(pipeline_class.from_pipe(pipe)) == OWN


def test_pipeline_when_built_from_components_with_a_setting_then_that_one_counts_for_it_alone(
    checkpoint: Path,
) -> None:
    pipe = JoyImageEditPipeline.from_pretrained(checkpoint, **OWN)

    other = JoyImageEditPipeline(**pipe.components, base_size=512)

    assert own_settings(other) == {**OWN, "base_size": 512}
    assert own_settings(JoyImageEditPipeline(**pipe.components)) == OWN


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"base_size": 5}, ValueError, "5"),
        ({"transformer": "folder"}, TypeError, "`transformer` is of type str"),
        ({"vae": torch.nn.Linear(1, 1)}, TypeError, "`vae` is of type Linear"),
    ],
    ids=["base-size", "path", "other-network"],
)
def test_pipeline_when_a_part_or_setting_cannot_work_then_rejected_when_built(
    changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    pipe = random_models.make_pipeline()

    with pytest.raises(error, match=words):
        JoyImageEditPipeline(**{**pipe.components, **changes})


def test_pipeline_when_built_from_components_then_edits_as_the_first(checkpoint: Path) -> None:
    def edit(pipe: Any) -> Any:
        return pipe(
            image=random_models.make_image(0, 64, 64),
            prompt="blue",
            num_inference_steps=1,
            output_type="pt",
            generator=torch.Generator().manual_seed(0),
        ).images

    pipe = JoyImageEditPipeline.from_pretrained(checkpoint, **OWN)

    assert torch.equal(edit(JoyImageEditPipeline(**pipe.components)), edit(pipe))


def test_pipeline_when_deleted_then_its_settings_are_forgotten(checkpoint: Path) -> None:
    before = len(settings._SETTINGS)
    pipe = JoyImageEditPipeline.from_pretrained(checkpoint)
    assert len(settings._SETTINGS) > before

    del pipe
    gc.collect()

    assert len(settings._SETTINGS) <= before


def test_group_offload_of_diffusers_when_enabled_then_same_image(checkpoint: Path) -> None:
    def edit(pipe: Any) -> Any:
        return pipe(
            image=random_models.make_image(0, 64, 64),
            prompt="blue",
            num_inference_steps=1,
            output_type="pt",
            generator=torch.Generator().manual_seed(0),
        ).images

    expected = edit(JoyImageEditPipeline.from_pretrained(checkpoint, **OWN))
    pipe = JoyImageEditPipeline.from_pretrained(checkpoint, **OWN)

    pipe.enable_group_offload(torch.device("cpu"), offload_type="leaf_level", low_cpu_mem_usage=True)

    layer: Any = pipe.transformer.get_submodule("double_blocks.0.attn.img_attn_qkv")
    assert layer._diffusers_hook.get_hook("group_offloading") is not None
    assert (edit(pipe) - expected).abs().max() < 1e-5
