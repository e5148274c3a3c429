"""Each thing that can be wrong with a checkpoint gives one sentence that names the file and the key."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from safetensors.torch import load_file, save_file

from joyimage.errors import CheckpointError
from joyimage.pipeline import hub
from joyimage.pipeline.edit import JoyImageEditPipeline
from tests import random_models
from tests.loading.original import transformer_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STEMS = {
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
SOME_KEY = {
    "transformer": "double_blocks.1.attn.txt_attn_qkv.weight",
    "vae": "decoder.conv_in.weight",
    "text_encoder": "model.language_model.layers.0.mlp.up_proj.weight",
}

parts = pytest.mark.parametrize("part", list(STEMS))


def rejected(folder: Path, *sentence: str) -> str:
    """Load a damaged checkpoint and return the sentence, which must be one and contain all that is asked."""
    with pytest.raises(CheckpointError) as caught:
        JoyImageEditPipeline.from_pretrained(folder)
    text = str(caught.value)
    assert "\n" not in text
    for piece in sentence:
        assert piece in text
    return text


def edit_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = {key: value.clone() for key, value in load_file(path).items()}
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@parts
def test_from_pretrained_when_weights_are_missing_names_the_file(damaged: Path, part: str) -> None:
    file = damaged / part / f"{STEMS[part]}.safetensors"
    file.unlink()

    rejected(damaged, str(file), "is missing")


@parts
@pytest.mark.parametrize("left_bytes", [0, 5, 100, -1])
def test_from_pretrained_when_weights_are_cut_short_names_the_file(
    damaged: Path, part: str, left_bytes: int
) -> None:
    file = damaged / part / f"{STEMS[part]}.safetensors"
    file.write_bytes(file.read_bytes()[:left_bytes])

    rejected(damaged, str(file), f"{file.stat().st_size} bytes")


@parts
def test_from_pretrained_when_header_is_no_json_names_the_file(damaged: Path, part: str) -> None:
    file = damaged / part / f"{STEMS[part]}.safetensors"
    content = bytearray(file.read_bytes())
    content[8:12] = b"????"
    file.write_bytes(content)

    rejected(damaged, str(file), "header cannot be read")


@parts
def test_from_pretrained_when_a_key_is_missing_names_it(damaged: Path, part: str) -> None:
    edit_weights(damaged / part / f"{STEMS[part]}.safetensors", lambda weights: weights.pop(SOME_KEY[part]))

    rejected(damaged, str(damaged / part), f"lacks `{SOME_KEY[part]}`")


@parts
def test_from_pretrained_when_a_key_is_too_many_names_it_and_the_file(damaged: Path, part: str) -> None:
    file = damaged / part / f"{STEMS[part]}.safetensors"
    edit_weights(file, lambda weights: weights.update({"extra.weight": torch.zeros(2)}))

    rejected(damaged, str(file), "has `extra.weight`")


@parts
def test_from_pretrained_when_a_shape_is_wrong_names_key_file_and_shapes(damaged: Path, part: str) -> None:
    file = damaged / part / f"{STEMS[part]}.safetensors"
    edit_weights(file, lambda weights: weights.update({SOME_KEY[part]: torch.zeros(2, 3)}))

    rejected(damaged, str(file), f"`{SOME_KEY[part]}` has the shape [2, 3]", "asks for")


def test_from_pretrained_when_the_unused_word_head_is_missing_loads(damaged: Path) -> None:
    edit_weights(
        damaged / "text_encoder" / "model.safetensors", lambda weights: weights.pop("lm_head.weight")
    )

    pipe = JoyImageEditPipeline.from_pretrained(damaged)

    embedding = random_models.make_text_encoder(random_models.make_tokenizer()).get_input_embeddings()
    own = pipe.text_encoder.get_input_embeddings()
    assert torch.equal(own.get_parameter("weight"), embedding.get_parameter("weight"))


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_from_pretrained_when_a_shard_is_missing_names_it_and_a_key(damaged_shards: Path, part: str) -> None:
    shard = sorted((damaged_shards / part).glob("*.safetensors"))[1]
    keys = load_file(shard)
    shard.unlink()

    text = rejected(damaged_shards, str(shard), "is missing")

    assert any(f"`{key}`" in text for key in keys)


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_from_pretrained_when_a_shard_is_cut_short_names_it(damaged_shards: Path, part: str) -> None:
    shard = sorted((damaged_shards / part).glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-3])

    rejected(damaged_shards, str(shard), "bytes")


def test_from_pretrained_when_the_index_names_a_shard_without_the_key_says_which(
    damaged_shards: Path,
) -> None:
    index = damaged_shards / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    shards = sorted(index.parent.glob("*.safetensors"))
    key = next(iter(load_file(shards[0])))

    edit_json(index, lambda content: content["weight_map"].update({key: shards[1].name}))

    rejected(damaged_shards, str(shards[1]), f"lacks `{key}`", index.name)


@pytest.mark.parametrize("name", ["../vae/diffusion_pytorch_model.safetensors", "/etc/passwd", 3])
def test_from_pretrained_when_the_index_leaves_its_folder_rejects(damaged_shards: Path, name: object) -> None:
    index = damaged_shards / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    edit_json(index, lambda content: content["weight_map"].update({"proj_out.bias": name}))

    rejected(damaged_shards, str(index), "`proj_out.bias`", "a file beside it")


def test_from_pretrained_when_the_index_has_no_map_names_the_key(damaged_shards: Path) -> None:
    index = damaged_shards / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    edit_json(index, lambda content: content.pop("weight_map"))

    rejected(damaged_shards, str(index), "`weight_map`")


@pytest.mark.parametrize("key", ["num_layers", "hidden_size", "num_attention_heads", "text_dim", "theta"])
def test_from_pretrained_when_the_config_lacks_a_key_names_it(damaged: Path, key: str) -> None:
    path = damaged / "transformer" / "config.json"
    edit_json(path, lambda config: config.pop(key))

    rejected(damaged, str(path), f"lacks the key `{key}`")


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("rope_typ", "rope", "no transformer has the key `rope_typ`"),
        ("rope_type", "spiral", "`rope_type`"),
        ("num_attention_heads", 3, "`num_attention_heads`"),
        ("num_layers", "two", "`num_layers`"),
        ("rope_dim_list", [8, 8, 8], "`rope_dim_list`"),
        ("heads_num", 4, "`num_attention_heads`"),
    ],
)
def test_from_pretrained_when_a_config_key_is_wrong_names_it(
    damaged: Path, key: str, value: object, sentence: str
) -> None:
    path = damaged / "transformer" / "config.json"
    edit_json(path, lambda config: config.update({key: value}))

    rejected(damaged, str(path), sentence)


def test_from_pretrained_when_the_config_is_of_other_weights_names_a_key(damaged: Path) -> None:
    edit_json(damaged / "transformer" / "config.json", lambda config: config.update(num_layers=3))

    rejected(damaged, str(damaged / "transformer"), "lacks `double_blocks.2.")


def test_from_pretrained_when_weights_have_the_original_names_points_to_convert(damaged: Path) -> None:
    file = damaged / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file(transformer_weights(random_models.make_reference_transformer()), file)

    rejected(damaged, str(file), "img_attn_", "`joyimage convert`")


@pytest.mark.parametrize("name", ["transformer/config.json", "vae/config.json", "text_encoder/config.json"])
@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_from_pretrained_when_a_config_cannot_be_read_names_it(
    damaged: Path, name: str, content: str | None
) -> None:
    path = damaged / name
    path.unlink()
    if content is not None:
        path.write_text(content, encoding="utf-8")

    rejected(damaged, str(path))


@pytest.mark.parametrize(
    "name",
    [
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "processor/preprocessor_config.json",
    ],
)
def test_from_pretrained_when_a_small_file_is_damaged_names_it(damaged: Path, name: str) -> None:
    (damaged / name).write_text("{", encoding="utf-8")

    rejected(damaged, str(damaged / name), "not valid JSON")


@pytest.mark.parametrize("part", ["scheduler", "tokenizer", "processor"])
def test_from_pretrained_when_a_small_part_is_empty_names_a_file(damaged: Path, part: str) -> None:
    for file in (damaged / part).iterdir():
        file.unlink()

    rejected(damaged, f"{damaged / part}/", "is missing")


@pytest.mark.parametrize("part", ["scheduler", "tokenizer", "processor", "vae"])
def test_from_pretrained_when_a_folder_is_missing_names_it(damaged: Path, part: str) -> None:
    (damaged / part).rename(damaged / "elsewhere")

    rejected(damaged, f"{damaged / part} is missing")


@pytest.mark.parametrize(
    ("config", "sentence"), [({"model_type": "llama"}, "`model_type`"), ({"text_config": 3}, "can be built")]
)
def test_from_pretrained_when_the_text_encoder_is_another_says_so(
    damaged: Path, config: dict[str, object], sentence: str
) -> None:
    path = damaged / "text_encoder" / "config.json"
    edit_json(path, lambda content: content.update(config))

    rejected(damaged, str(path), sentence)


@pytest.mark.parametrize("part", ["scheduler", "tokenizer", "processor", "transformer"])
def test_from_pretrained_when_the_index_lacks_a_part_names_it(damaged: Path, part: str) -> None:
    path = damaged / "model_index.json"
    edit_json(path, lambda index: index.pop(part))

    rejected(damaged, str(path), f"lacks the key `{part}`")


@pytest.mark.parametrize("value", [None, "Qwen", ["transformers"], [None, None]])
def test_from_pretrained_when_the_index_names_no_class_says_so(damaged: Path, value: object) -> None:
    path = damaged / "model_index.json"
    edit_json(path, lambda index: index.update(processor=value))

    rejected(damaged, str(path), "library and class of `processor`")


def test_from_pretrained_when_the_folder_is_of_another_pipeline_says_so(damaged: Path) -> None:
    path = damaged / "model_index.json"
    edit_json(path, lambda index: index.update(_class_name="FluxPipeline"))

    rejected(damaged, str(path), "`_class_name`", "'FluxPipeline'")


def test_from_pretrained_when_a_folder_is_no_checkpoint_says_so(tmp_path: Path) -> None:
    rejected(tmp_path, str(tmp_path / "model_index.json"), "is missing")


@pytest.mark.parametrize("name", ["/nowhere/at/all", "not-there", "./not/there"])
def test_from_pretrained_when_there_is_no_such_folder_says_what_to_give(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"no folder {re.escape(name)}.*hub id"):
        JoyImageEditPipeline.from_pretrained(name)


def test_from_pretrained_when_the_hub_cannot_be_reached_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match="jdopensource/nothing is not a folder on this machine, and the hub"
    ):
        JoyImageEditPipeline.from_pretrained("jdopensource/nothing", cache_dir=tmp_path)


def test_from_pretrained_when_weights_are_a_pointer_of_git_lfs_says_so(damaged: Path) -> None:
    file = damaged / "transformer" / f"{STEMS['transformer']}.safetensors"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 11493872\n")

    rejected(damaged, str(file), "Git LFS pointer", "Download it again")


def test_from_pretrained_when_full_precision_weights_have_scales_says_so(damaged: Path) -> None:
    file = damaged / "transformer" / f"{STEMS['transformer']}.safetensors"
    weights = {key: value.clone() for key, value in load_file(file).items()}
    weights["double_blocks.0.attn.img_attn_qkv.weight_scale"] = torch.ones(())
    save_file(weights, file)

    rejected(damaged, "weight_scale", "the weights themselves are not quantized")


def test_from_pretrained_when_a_downloaded_file_is_damaged_says_how_to_download_it_again(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JoyImageEditPipeline, "download", lambda name, **_: str(damaged))
    monkeypatch.setattr(hub, "hf_hub_download", lambda name, file, **_: str(damaged / file))
    (damaged / "vae" / f"{STEMS['vae']}.safetensors").unlink()

    with pytest.raises(CheckpointError, match=r"Run `hf download some/model --force-download`"):
        JoyImageEditPipeline.from_pretrained("some/model")


@pytest.mark.parametrize("content", [b"GGUF\x03\x00\x00\x00", b"<html>404</html>", b""])
def test_load_lora_weights_when_the_file_is_no_adapter_names_it(
    checkpoint: Path, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "style.safetensors"
    file.write_bytes(content)
    pipe = JoyImageEditPipeline.from_pretrained(checkpoint)

    with pytest.raises(
        CheckpointError, match=r"The adapter .*style\.safetensors is .*expected a safetensors"
    ):
        pipe.load_lora_weights(file)


@pytest.mark.parametrize("header", ["{", "[1]"])
def test_load_lora_weights_when_the_config_in_its_header_is_broken_names_the_file(
    checkpoint: Path, tmp_path: Path, header: str
) -> None:
    file = tmp_path / "style.safetensors"
    save_file({"x": torch.ones(1)}, file, metadata={"lora_adapter_metadata": header})
    pipe = JoyImageEditPipeline.from_pretrained(checkpoint)

    with pytest.raises(CheckpointError, match=r"header entry .*style\.safetensors is not a JSON object"):
        pipe.load_lora_weights(file)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (HfHubHTTPError.__mro__[1]("no route to host"), "the hub cannot be reached"),
        (ConnectionResetError("reset"), "the hub cannot be reached"),
        (EntryNotFoundError("404"), "it has no model_index.json on the hub"),
    ],
)
def test_from_pretrained_when_the_hub_fails_says_why_and_how_to_download(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(hub, "hf_hub_download", fail)
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)

    with pytest.raises(CheckpointError, match=rf"{reason}\. Download it with `hf download some/model`"):
        JoyImageEditPipeline.from_pretrained("some/model")
