"""Whole pipelines: `from_pretrained` and `save_pretrained`."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers.pipelines.joyimage.pipeline_joyimage_edit import JoyImageEditPipeline as ReferencePipeline
from peft import LoraConfig
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from joyimage import checkpoints
from joyimage.errors import CheckpointError
from joyimage.model.transformer import JoyImageEditTransformer3DModel
from joyimage.pipeline import hub
from joyimage.pipeline.edit import JoyImageEditPipeline
from joyimage.pipeline.edit_plus import JoyImageEditPlusPipeline
from joyimage.pipeline.processor import JoyImageProcessor
from tests import random_models
from tests.loading.test_transformer import assert_same_weights

if TYPE_CHECKING:
    from pathlib import Path

OWN_SETTINGS = {
    "base_size": 256,
    "default_num_inference_steps": 12,
    "default_guidance_scale": 2.5,
    "text_token_max_length": 77,
}
MODELS = ("transformer", "vae", "text_encoder")


def test_from_pretrained_when_folder_is_published_gives_our_classes(checkpoint: Path) -> None:
    pipe = JoyImageEditPipeline.from_pretrained(checkpoint)

    assert type(pipe) is JoyImageEditPipeline
    assert type(pipe.transformer) is JoyImageEditTransformer3DModel
    assert type(pipe.processor) is JoyImageProcessor
    assert type(pipe.tokenizer) is Qwen2Tokenizer
    assert type(pipe.text_encoder) is Qwen3VLForConditionalGeneration
    assert pipe.scheduler.config["shift"] == 1.5
    assert_same_weights(pipe.transformer, random_models.make_reference_transformer())
    assert_same_weights(pipe.text_encoder, random_models.make_text_encoder(random_models.make_tokenizer()))


def test_from_pretrained_when_checkpoint_has_no_settings_of_ours_takes_the_published_ones(
    checkpoint: Path,
) -> None:
    config = JoyImageEditPipeline.from_pretrained(checkpoint).config

    assert {key: config[key] for key in OWN_SETTINGS} == {
        "base_size": 1024,
        "default_num_inference_steps": 40,
        "default_guidance_scale": 4.0,
        "text_token_max_length": 2048,
    }


def test_pipeline_when_loaded_as_another_class_than_the_folders_then_warns(
    checkpoint: Path, plus_checkpoint: Path, recwarn: pytest.WarningsRecorder
) -> None:
    JoyImageEditPlusPipeline.from_pretrained(plus_checkpoint)
    JoyImageEditPipeline.from_pretrained(checkpoint)
    assert not [one for one in recwarn if "is a checkpoint of" in str(one.message)]

    with pytest.warns(
        UserWarning, match="is a checkpoint of JoyImageEditPlusPipeline, and was loaded as Joy"
    ):
        JoyImageEditPipeline.from_pretrained(plus_checkpoint)


def test_from_pretrained_when_checkpoint_is_edit_plus_gives_our_classes(plus_checkpoint: Path) -> None:
    pipe = JoyImageEditPlusPipeline.from_pretrained(plus_checkpoint)

    assert type(pipe) is JoyImageEditPlusPipeline
    assert type(pipe.transformer) is JoyImageEditTransformer3DModel
    assert_same_weights(pipe.transformer, random_models.make_reference_transformer(plus=True))


def test_from_pretrained_when_config_is_legacy_and_weights_are_sharded_loads(legacy_checkpoint: Path) -> None:
    pipe = JoyImageEditPipeline.from_pretrained(legacy_checkpoint)

    assert len(list((legacy_checkpoint / "transformer").glob("*.safetensors"))) > 1
    assert_same_weights(pipe.transformer, random_models.make_reference_transformer())


@pytest.mark.parametrize("plus", [False, True])
def test_save_pretrained_then_from_pretrained_gives_the_same_pipeline(
    request: pytest.FixtureRequest, tmp_path: Path, plus: bool
) -> None:
    pipeline_class = JoyImageEditPlusPipeline if plus else JoyImageEditPipeline
    source = request.getfixturevalue("plus_checkpoint" if plus else "checkpoint")
    pipe = pipeline_class.from_pretrained(source, **OWN_SETTINGS)

    pipe.save_pretrained(tmp_path, max_shard_size="300KB")
    again = pipeline_class.from_pretrained(tmp_path)

    for name in MODELS:
        assert_same_weights(getattr(again, name), getattr(pipe, name))
    assert {key: again.config[key] for key in OWN_SETTINGS} == OWN_SETTINGS
    prompt = "Make the car red"
    assert again.tokenizer(prompt).input_ids == pipe.tokenizer(prompt).input_ids
    assert again.processor.tokenizer(prompt).input_ids == pipe.tokenizer(prompt).input_ids
    image = random_models.make_image(height=96, width=64)
    text = "<|vision_start|><|image_pad|><|vision_end|>"
    processors: list[Any] = [again.processor, pipe.processor]
    inputs = [processor(images=[image], text=[text], return_tensors="pt") for processor in processors]
    assert torch.equal(inputs[0].pixel_values, inputs[1].pixel_values)
    assert torch.equal(inputs[0].input_ids, inputs[1].input_ids)


@pytest.mark.parametrize("plus", [False, True])
def test_save_pretrained_names_the_published_classes(
    request: pytest.FixtureRequest, tmp_path: Path, plus: bool
) -> None:
    source: Path = request.getfixturevalue("plus_checkpoint" if plus else "checkpoint")
    pipe = (JoyImageEditPlusPipeline if plus else JoyImageEditPipeline).from_pretrained(source)

    pipe.save_pretrained(tmp_path)

    published = json.loads((source / "model_index.json").read_text(encoding="utf-8"))
    saved = json.loads((tmp_path / "model_index.json").read_text(encoding="utf-8"))
    del published["_diffusers_version"]
    assert {key: saved.get(key) for key in published} == published
    assert str(source) not in (tmp_path / "model_index.json").read_text(encoding="utf-8")


def test_save_pretrained_writes_what_the_pipeline_of_diffusers_loads(
    checkpoint: Path, tmp_path: Path
) -> None:
    pipe = JoyImageEditPipeline.from_pretrained(checkpoint, **OWN_SETTINGS)
    pipe.save_pretrained(tmp_path)

    processor = random_models.make_processor(pipe.tokenizer)  # theirs needs torchvision
    theirs = ReferencePipeline.from_pretrained(tmp_path, processor=processor, dtype=torch.float32)

    for name in MODELS:
        assert_same_weights(getattr(theirs, name), getattr(pipe, name))
    assert theirs.text_token_max_length == OWN_SETTINGS["text_token_max_length"]


def test_save_pretrained_when_weights_are_not_pickled_writes_no_pickle(
    checkpoint: Path, tmp_path: Path
) -> None:
    JoyImageEditPipeline.from_pretrained(checkpoint).save_pretrained(tmp_path)

    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".jinja", ".safetensors"}


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ({}, torch.float32),
        ({"dtype": torch.bfloat16}, torch.bfloat16),
        ({"torch_dtype": torch.bfloat16}, torch.bfloat16),
        ({"dtype": "bfloat16"}, torch.bfloat16),
        ({"dtype": torch.float16, "torch_dtype": torch.float16}, torch.float16),
    ],
)
def test_from_pretrained_loads_all_parts_in_the_dtype_asked_for(
    checkpoint: Path, argument: dict[str, object], expected: torch.dtype
) -> None:
    pipe = JoyImageEditPipeline.from_pretrained(checkpoint, **argument)

    assert pipe.transformer.proj_out.weight.dtype == expected
    assert pipe.vae.quant_conv.weight.dtype == expected
    assert pipe.text_encoder.lm_head.weight.dtype == expected


def test_from_pretrained_when_weights_are_fp16_loads_them_in_fp32(checkpoint: Path, tmp_path: Path) -> None:
    JoyImageEditPipeline.from_pretrained(checkpoint, dtype=torch.float16).save_pretrained(tmp_path)

    pipe = JoyImageEditPipeline.from_pretrained(tmp_path)

    dtypes = {parameter.dtype for name in MODELS for parameter in getattr(pipe, name).parameters()}
    assert dtypes == {torch.float32}


def test_from_pretrained_when_dtype_is_given_by_part_follows_it(checkpoint: Path) -> None:
    pipe = JoyImageEditPipeline.from_pretrained(
        checkpoint, dtype={"transformer": torch.bfloat16, "default": torch.float32}
    )

    assert pipe.transformer.proj_out.weight.dtype == torch.bfloat16
    assert pipe.vae.quant_conv.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ({"dtype": torch.float16, "torch_dtype": torch.bfloat16}, "mean the same"),
        ({"dtype": "float99"}, "floating torch.dtype or its name, such as 'bfloat16': got 'float99'"),
        ({"dtype": torch.int8}, "floating torch.dtype"),
    ],
)
def test_from_pretrained_when_dtype_cannot_be_says_so(
    checkpoint: Path, argument: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        JoyImageEditPipeline.from_pretrained(checkpoint, **argument)


def test_from_pretrained_when_a_part_is_given_takes_it_and_needs_no_files_for_it(damaged: Path) -> None:
    transformer = random_models.make_transformer(seed=9)
    shutil.rmtree(damaged / "transformer")

    pipe = JoyImageEditPipeline.from_pretrained(damaged, transformer=transformer)

    assert pipe.transformer is transformer


def test_from_pretrained_when_device_map_is_given_places_the_parts(checkpoint: Path) -> None:
    pipe = JoyImageEditPipeline.from_pretrained(checkpoint, device_map="cpu")

    assert type(pipe.transformer) is JoyImageEditTransformer3DModel
    assert pipe.hf_device_map == "cpu"


def test_from_pretrained_when_name_is_tiny_loads_the_folder_of_the_package(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.registered_names()  # or the name would be gone after this test
    monkeypatch.setitem(checkpoints._FOLDERS, "tiny", lambda: checkpoint)

    pipe = JoyImageEditPipeline.from_pretrained("tiny")

    assert pipe.name_or_path == "tiny"
    assert_same_weights(pipe.transformer, random_models.make_reference_transformer())


def test_from_pretrained_when_name_is_a_hub_id_loads_what_the_hub_gives(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def download(name: str, **kwargs: object) -> str:
        asked.update(kwargs, name=name)
        return str(checkpoint)

    monkeypatch.setattr(JoyImageEditPipeline, "download", download)
    monkeypatch.setattr(hub, "hf_hub_download", lambda name, file, **_: str(checkpoint / file))

    pipe = JoyImageEditPipeline.from_pretrained("jdopensource/JoyAI-Image-Edit-Diffusers", revision="main")

    assert asked["name"] == pipe.name_or_path == "jdopensource/JoyAI-Image-Edit-Diffusers"
    assert asked["revision"] == "main"
    assert asked["use_safetensors"] is True
    assert type(pipe.transformer) is JoyImageEditTransformer3DModel


def test_from_pretrained_when_tiny_is_not_installed_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.registered_names()  # or the name would be gone after this test
    monkeypatch.setitem(checkpoints._FOLDERS, "tiny", lambda: tmp_path / "weights")

    with pytest.raises(
        CheckpointError, match=r"'tiny' is not part of this installation: .*weights is missing"
    ):
        JoyImageEditPipeline.from_pretrained("tiny")


def test_from_pretrained_when_names_are_those_of_transformers_5_loads(damaged: Path) -> None:
    index = json.loads((damaged / "model_index.json").read_text(encoding="utf-8"))
    index["tokenizer"] = ["transformers", "Qwen2Tokenizer"]
    (damaged / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    tokenizer = random_models.make_tokenizer()
    for part in ("tokenizer", "processor"):
        for name in ("vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"):
            (damaged / part / name).unlink()
        tokenizer.save_pretrained(damaged / part)

    pipe = JoyImageEditPipeline.from_pretrained(damaged)

    assert type(pipe.tokenizer) is Qwen2Tokenizer
    prompt = "Make the sky blue<|im_end|>"
    assert pipe.tokenizer(prompt).input_ids == tokenizer(prompt).input_ids
    assert pipe.processor.tokenizer(prompt).input_ids == tokenizer(prompt).input_ids


def test_from_pretrained_loads_the_published_tokenizer_and_processor(
    published_layout: Path, damaged: Path
) -> None:
    for part in ("tokenizer", "processor"):
        shutil.rmtree(damaged / part)
        shutil.copytree(published_layout / part, damaged / part)

    pipe = JoyImageEditPipeline.from_pretrained(damaged)

    assert pipe.tokenizer.convert_tokens_to_ids("<|image_pad|>") == 151655
    assert pipe.processor.image_processor.size["shortest_edge"] == 65536


@pytest.mark.parametrize("part", MODELS)
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)])
def test_pipeline_when_one_part_has_another_dtype_then_edits_almost_as_in_float32(
    checkpoint: Path, part: str, dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    def edit(dtype: object) -> torch.Tensor:
        pipe: Any = JoyImageEditPipeline.from_pretrained(
            checkpoint, **{**OWN_SETTINGS, "base_size": 64}, dtype=dtype
        )
        return pipe(
            image=random_models.make_image(0, 64, 64),
            prompt="blue",
            negative_prompt="red",
            num_inference_steps=2,
            guidance_scale=2.0,
            output_type="pt",
            generator=torch.Generator().manual_seed(0),
        ).images

    mixed = edit({part: dtypes[0], "default": dtypes[1]})

    assert mixed.isfinite().all()
    assert (mixed - edit(torch.float32)).abs().mean() < 0.05


def saved_json(folder: Path) -> dict[str, Any]:
    """Return the JSON files below a folder, by their path in it."""
    return {
        path.relative_to(folder).as_posix(): json.loads(path.read_text(encoding="utf-8"))
        for path in folder.rglob("*.json")
    }


def test_save_pretrained_then_processor_is_the_published_class_with_its_video_part(
    checkpoint: Path, tmp_path: Path
) -> None:
    JoyImageEditPipeline.from_pretrained(checkpoint).save_pretrained(tmp_path)

    saved = saved_json(tmp_path)
    assert "JoyImageProcessor" not in json.dumps(saved)
    for name in ("processor_config", "tokenizer_config", "video_preprocessor_config"):
        assert saved[f"processor/{name}.json"]["processor_class"] == "Qwen3VLProcessor"
    video = saved["processor/video_preprocessor_config.json"]
    assert video["video_processor_type"] == "Qwen3VLVideoProcessor"
    image = saved["processor/processor_config.json"]["image_processor"]
    assert video["patch_size"] == image["patch_size"]


def test_save_pretrained_when_processor_is_the_published_one_then_video_part_stays_as_it_was(
    published_layout: Path, tmp_path: Path
) -> None:
    JoyImageProcessor.from_pretrained(published_layout / "processor").save_pretrained(tmp_path / "once")
    JoyImageProcessor.from_pretrained(tmp_path / "once").save_pretrained(tmp_path / "twice")

    name = "video_preprocessor_config.json"
    published = json.loads((published_layout / "processor" / name).read_text(encoding="utf-8"))
    assert saved_json(tmp_path / "twice")[name] == published
    assert saved_json(tmp_path / "once") == saved_json(tmp_path / "twice")


def test_tiny_checkpoint_when_other_programs_open_it_then_it_names_the_published_classes() -> None:
    folder = checkpoints.registered_folder("tiny")
    assert folder is not None

    saved = saved_json(folder)
    assert "JoyImageProcessor" not in json.dumps(saved)
    assert "processor/video_preprocessor_config.json" in saved


def test_save_pretrained_when_adapters_are_loaded_then_says_how_to_save_and_that_way_works(
    checkpoint: Path, tmp_path: Path
) -> None:
    pipe = JoyImageEditPipeline.from_pretrained(checkpoint)
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["img_attn_qkv"], init_lora_weights=False))

    with pytest.raises(CheckpointError, match=r"LoRA adapters \(default\).*fuse_lora.*merged in"):
        pipe.save_pretrained(tmp_path / "rejected")
    assert not (tmp_path / "rejected").exists()

    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "merged")
    merged = JoyImageEditPipeline.from_pretrained(tmp_path / "merged").transformer
    base = JoyImageEditPipeline.from_pretrained(checkpoint).transformer
    name = "double_blocks.0.attn.img_attn_qkv.weight"
    assert not torch.equal(merged.state_dict()[name], base.state_dict()[name])


def test_save_pretrained_when_adapters_are_unloaded_then_saves_the_base_weights(
    checkpoint: Path, tmp_path: Path
) -> None:
    pipe = JoyImageEditPipeline.from_pretrained(checkpoint)
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["img_attn_qkv"], init_lora_weights=False))
    pipe.unload_lora_weights()

    pipe.save_pretrained(tmp_path)

    again = JoyImageEditPipeline.from_pretrained(tmp_path)
    assert_same_weights(again.transformer, JoyImageEditPipeline.from_pretrained(checkpoint).transformer)
