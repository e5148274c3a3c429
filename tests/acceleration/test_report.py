"""`report`: what runs, and what does not and why."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from joyimage.acceleration import accelerate, report
from joyimage.acceleration.quantization import QuantizedLinear, quantized
from joyimage.errors import InvalidTypeError
from joyimage.model.attention import JointAttnProcessor
from tests import random_models


@pytest.fixture
def pipe() -> Any:
    return random_models.make_pipeline()


def test_report_when_a_pipeline_is_new_then_names_what_runs_on_this_device(pipe: Any) -> None:
    found = report(pipe)

    assert found.device == "cpu"
    assert found.ops == "torch"
    assert "GPU" in found.skipped["kernels"]
    assert (found.attention, found.attention_backend) == ("joint_buffer", "native")
    assert found.forward_cache
    assert found.precision == {"transformer": "float32", "text_encoder": "float32", "vae": "float32"}
    assert (found.step_cache, found.parallelism, found.offload, found.is_compiled) == (
        None,
        None,
        "none",
        False,
    )
    assert found.quantization == {}
    assert (found.text_encoder, found.vae) == ("sdpa", "single frames")
    assert set(found.skipped) == {"kernels"}


def test_report_when_shown_then_every_field_and_reason_is_in_it(pipe: Any) -> None:
    found = report(pipe)

    shown = str(found)

    fields = found.to_dict()
    assert json.loads(json.dumps(fields)) == fields
    skipped = fields.pop("skipped")
    for name in fields:
        assert name.replace("_", " ") in shown
    assert all(f"{name}: {reason}" in shown for name, reason in skipped.items())
    assert len(shown.splitlines()) == len(fields) + len(skipped)


def test_report_when_paths_are_plain_then_says_so(pipe: Any) -> None:
    accelerate(pipe, ops="plain", attention="plain", forward_cache=False)

    found = report(pipe)

    assert (found.ops, found.attention, found.forward_cache) == ("plain", "plain", False)


def test_report_when_accelerate_was_never_called_then_says_so() -> None:
    found = report(random_models.make_transformer())

    assert (found.ops, found.attention) == ("plain", "plain")
    assert "`accelerate` was not called" in found.skipped["all"]
    assert (found.text_encoder, found.vae) == (None, None)


def test_report_when_kernels_run_on_any_device_then_names_them(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())

    accelerate(pipe, ops="triton")

    assert report(pipe).ops == "triton"
    assert report(pipe).skipped == {}


def test_report_when_a_step_cache_is_on_then_names_it_and_what_it_keeps_from_running(pipe: Any) -> None:
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))

    found = report(pipe)

    assert found.step_cache == "FirstBlockCacheConfig"
    for path in ("last block for the target alone", "both guidance branches in one forward"):
        assert "FirstBlockCacheConfig" in found.skipped[path]


def test_report_when_attention_takes_no_mask_then_branches_run_one_by_one(pipe: Any) -> None:
    for block in pipe.transformer.blocks:
        block.attn.set_attention_backend("_native_cudnn")

    found = report(pipe)

    assert found.attention_backend == "_native_cudnn"
    assert "_native_cudnn attention takes no mask" in found.skipped["both guidance branches in one forward"]


def test_report_when_weights_are_in_another_format_then_names_the_format_and_the_layers(pipe: Any) -> None:
    class Packed(torch.nn.Linear):
        pass

    layer = pipe.transformer.blocks[0].attn.img_attn_qkv
    packed = Packed(layer.in_features, layer.out_features)
    packed.weight = torch.nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    pipe.transformer.blocks[0].attn.img_attn_qkv = packed

    found = report(pipe)

    assert found.quantization == {"transformer": "torch.int8 (1 layers)"}
    assert found.skipped["matmuls into a buffer"] == "1 of 8 layers are called instead (Packed)"


def test_report_when_a_layer_is_quantized_then_names_the_format_of_its_weights(pipe: Any) -> None:
    layer = pipe.transformer.blocks[0].attn.img_attn_qkv
    weight = quantized(layer.weight.detach(), "int8")
    pipe.transformer.blocks[0].attn.img_attn_qkv = QuantizedLinear(weight, layer.bias.detach())

    found = report(pipe)

    assert found.quantization == {"transformer": f"{weight.encoding.name} (1 layers)"}
    assert found.skipped["matmuls into a buffer"] == "1 of 8 layers are called instead (QuantizedLinear)"


@pytest.mark.parametrize("kind", ["model", "sequential", "group"])
def test_report_when_weights_are_offloaded_then_names_how(pipe: Any, kind: str) -> None:
    if kind == "model":
        pipe.enable_model_cpu_offload(device="cpu:0")
    elif kind == "sequential":
        DiffusionPipeline.enable_sequential_cpu_offload(pipe, device="cpu:0")  # ours rejects the CPU
    else:
        pipe.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")

    assert report(pipe).offload == kind


def test_report_when_blocks_are_compiled_then_says_what_the_compiler_replaces(pipe: Any) -> None:
    pipe.transformer.compile_repeated_blocks()

    found = report(pipe)

    assert found.is_compiled
    assert "kernels and joint buffer" in found.skipped


def test_report_when_the_caller_set_a_processor_then_names_its_class(pipe: Any) -> None:
    class OwnProcessor(JointAttnProcessor):
        pass

    pipe.transformer.set_attn_processor(OwnProcessor())
    accelerate(pipe)

    assert report(pipe).attention == "OwnProcessor"


def test_report_when_the_vae_tiles_then_says_from_which_size(pipe: Any) -> None:
    pipe.vae.enable_tiling()

    assert report(pipe).vae == "single frames"
    assert report(pipe).skipped["single frames in the VAE"] == "frames above 256 pixels are tiled"


def test_report_when_parts_of_the_vae_are_offloaded_then_it_runs_as_for_video(pipe: Any) -> None:
    DiffusionPipeline.enable_sequential_cpu_offload(pipe, device="cpu:0")  # ours rejects the CPU

    assert report(pipe).vae == "video"
    assert "one by one" in report(pipe).skipped["single frames in the VAE"]


def test_report_when_the_text_encoder_takes_no_mask_then_prompts_share_no_row(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joyimage.acceleration.conditions._ATTENTION_WITH_MASKS", {"eager"})

    assert report(pipe).skipped["prompts in one row"] == "sdpa takes no mask"


def test_report_when_given_something_else_then_raises() -> None:
    with pytest.raises(InvalidTypeError, match="int"):
        report(3)
