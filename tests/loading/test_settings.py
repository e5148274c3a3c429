"""A checkpoint's settings stay with its components when a pipeline is built from another's parts."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from joyimage import JoyImageEditPipeline, JoyImageEditPlusPipeline
from joyimage.acceleration.presets import SpeedPreset
from joyimage.errors import InvalidInputError
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


@pytest.mark.parametrize("pipeline_class", PIPELINES)
def test_pipeline_when_made_from_another_then_parts_keep_their_precision_and_presets_come_along(
    checkpoint: Path, pipeline_class: Any
) -> None:
    pipe = JoyImageEditPipeline.from_pretrained(checkpoint, dtype=torch.bfloat16, **OWN)
    pipe.speed_presets = {**pipe.speed_presets, "fast": SpeedPreset(threshold=0.5)}
    dtypes = {name: tensor.dtype for name, tensor in pipe.transformer.named_parameters()}
    assert set(dtypes.values()) == {torch.bfloat16, torch.float32}

    made = pipeline_class.from_pipe(pipe)
    other = pipeline_class.from_pipe(pipe, base_size=128, scheduler=pipe.scheduler)

    assert {name: tensor.dtype for name, tensor in made.transformer.named_parameters()} == dtypes
    assert (made.vae.dtype, made.text_encoder.dtype) == (torch.bfloat16, torch.bfloat16)
    assert made.speed_presets == pipe.speed_presets
    assert made.config["_name_or_path"] == pipe.config["_name_or_path"]
    assert own_settings(other) == {**OWN, "base_size": 128}
    assert pipeline_class.from_pipe(pipe, torch_dtype="float16").vae.dtype == torch.float16


def test_pipeline_when_made_from_one_that_lacks_parts_then_these_are_named(checkpoint: Path) -> None:
    pipe = JoyImageEditPipeline.from_pretrained(checkpoint)

    class OtherPipeline(DiffusionPipeline):
        def __init__(self, vae: Any, text_encoder: Any, tokenizer: Any, scheduler: Any) -> None:
            super().__init__()
            self.register_modules(
                vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler
            )

    parts = {name: pipe.components[name] for name in ("vae", "text_encoder", "tokenizer", "scheduler")}

    with pytest.raises(
        InvalidInputError, match="of type OtherPipeline and has no transformer, processor; expected one of"
    ):
        JoyImageEditPipeline.from_pipe(OtherPipeline(**parts))


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
    gc.collect()  # of tests before: else they may go while this one loads
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
