"""The transformer from folders and single files, and back to diffusers."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from diffusers.models import model_loading_utils, modeling_utils
from diffusers.models.transformers.transformer_joyimage import (
    JoyImageEditTransformer3DModel as ReferenceTransformer,
)
from safetensors.torch import save_file

from joyimage.errors import CheckpointError
from joyimage.model.transformer import JoyImageEditTransformer3DModel
from tests import random_models
from tests.loading.original import WIDE_TRANSFORMER, transformer_weights

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


def assert_same_weights(first: nn.Module, second: nn.Module) -> None:
    expected = second.state_dict()
    assert first.state_dict().keys() == expected.keys()
    for key, value in first.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_from_pretrained_when_config_is_of_either_generation_gives_the_same_model(
    checkpoint: Path, legacy_checkpoint: Path
) -> None:
    modern = JoyImageEditTransformer3DModel.from_pretrained(checkpoint / "transformer")
    legacy = JoyImageEditTransformer3DModel.from_pretrained(legacy_checkpoint, subfolder="transformer")

    assert_same_weights(modern, legacy)
    assert legacy.settings == modern.settings


def test_from_pretrained_when_weights_are_sharded_then_shards_are_read_side_by_side(
    checkpoint: Path, legacy_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[str] = set()
    load = model_loading_utils.load_state_dict
    monkeypatch.setattr(
        model_loading_utils,
        "load_state_dict",
        lambda *a, **k: (threads.add(threading.current_thread().name), load(*a, **k))[1],
    )
    folder = legacy_checkpoint / "transformer"

    model = JoyImageEditTransformer3DModel.from_pretrained(folder)

    assert len(list(folder.glob("*.safetensors"))) > 1
    assert threads
    assert threading.main_thread().name not in threads
    assert_same_weights(model, JoyImageEditTransformer3DModel.from_pretrained(checkpoint / "transformer"))
    assert cast("Any", modeling_utils).HF_ENABLE_PARALLEL_LOADING is False


@pytest.mark.parametrize("name", ["config.json", "config.legacy.json"])
def test_build_empty_when_config_is_published_gives_the_published_size(
    published_configs: Path, name: str
) -> None:
    config = json.loads((published_configs / "transformer" / name).read_text(encoding="utf-8"))

    model = JoyImageEditTransformer3DModel.build_empty(config, name)

    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(16.26e9, rel=1e-3)


def test_weights_that_we_saved_load_in_diffusers(tmp_path: Path) -> None:
    ours = random_models.make_transformer(seed=8)

    ours.save_pretrained(tmp_path, max_shard_size="300KB")

    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_same_weights(ReferenceTransformer.from_pretrained(tmp_path), ours)


def test_weights_that_diffusers_saved_load_here(tmp_path: Path) -> None:
    theirs = random_models.make_reference_transformer(seed=8)

    theirs.save_pretrained(tmp_path, max_shard_size="300KB")

    assert_same_weights(JoyImageEditTransformer3DModel.from_pretrained(tmp_path), theirs)


def test_save_pretrained_when_config_was_legacy_writes_a_modern_one(
    legacy_checkpoint: Path, tmp_path: Path
) -> None:
    JoyImageEditTransformer3DModel.from_pretrained(legacy_checkpoint / "transformer").save_pretrained(
        tmp_path
    )

    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert {key: config[key] for key in random_models.TRANSFORMER_CONFIG} == random_models.TRANSFORMER_CONFIG
    assert "heads_num" not in config


def test_from_pretrained_when_variant_is_given_loads_that_variant(tmp_path: Path) -> None:
    model = random_models.make_transformer(seed=8)
    model.save_pretrained(tmp_path, variant="fp16")

    assert_same_weights(JoyImageEditTransformer3DModel.from_pretrained(tmp_path, variant="fp16"), model)
    with pytest.raises(CheckpointError, match="holds no weights"):
        JoyImageEditTransformer3DModel.from_pretrained(tmp_path)


def test_from_pretrained_when_loading_info_is_asked_for_returns_both(checkpoint: Path) -> None:
    model, info = JoyImageEditTransformer3DModel.from_pretrained(
        checkpoint / "transformer", output_loading_info=True
    )

    assert isinstance(model, JoyImageEditTransformer3DModel)
    assert info["missing_keys"] == []


def test_from_pretrained_when_weights_are_a_pickle_rejects_it(tmp_path: Path) -> None:
    random_models.make_transformer().save_pretrained(tmp_path, safe_serialization=False)

    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.bin\) only"):
        JoyImageEditTransformer3DModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype_name", ["dtype", "torch_dtype"])
def test_from_single_file_when_layout_is_original_equals_the_folder(
    checkpoint: Path, tmp_path: Path, dtype_name: str
) -> None:
    folder = checkpoint / "transformer"
    expected = JoyImageEditTransformer3DModel.from_pretrained(folder, dtype=torch.bfloat16)
    file = tmp_path / "transformer.safetensors"
    save_file(transformer_weights(random_models.make_reference_transformer()), file)

    precision: dict[str, Any] = {dtype_name: torch.bfloat16}
    model = JoyImageEditTransformer3DModel.from_single_file(file, config=folder, **precision)

    assert_same_weights(model, expected)
    assert {key: value.dtype for key, value in model.state_dict().items()} == {
        key: value.dtype for key, value in expected.state_dict().items()
    }
    assert not model.training


def test_from_single_file_when_heads_are_as_published_needs_no_config() -> None:
    reference = random_models.make_reference_transformer(**WIDE_TRANSFORMER)

    model = JoyImageEditTransformer3DModel.from_single_file({"model": transformer_weights(reference)})

    assert_same_weights(model, reference)
    assert model.settings.axis_dims == (16, 56, 56)


def test_from_single_file_when_file_is_a_pickle_wants_to_be_allowed(tmp_path: Path) -> None:
    reference = random_models.make_reference_transformer()
    file = tmp_path / "transformer.pth"
    torch.save({"model": transformer_weights(reference)}, file)

    with pytest.raises(CheckpointError, match="is a pickle"):
        JoyImageEditTransformer3DModel.from_single_file(file, config=random_models.TRANSFORMER_CONFIG)
    model = JoyImageEditTransformer3DModel.from_single_file(
        file, config=random_models.TRANSFORMER_CONFIG, allow_pickle=True
    )

    assert_same_weights(model, reference)


def test_from_single_file_when_a_key_is_missing_names_it() -> None:
    weights = transformer_weights(random_models.make_reference_transformer())
    del weights["double_blocks.1.img_attn_qkv.bias"]

    with pytest.raises(CheckpointError, match=r"lacks `double_blocks\.1\.attn\.img_attn_qkv\.bias`"):
        JoyImageEditTransformer3DModel.from_single_file(weights, config=random_models.TRANSFORMER_CONFIG)


def test_from_single_file_when_config_is_misspelt_names_the_key() -> None:
    weights = transformer_weights(random_models.make_reference_transformer())

    with pytest.raises(CheckpointError, match="no transformer has the key `rope_typ`"):
        JoyImageEditTransformer3DModel.from_single_file(
            weights, config={**random_models.TRANSFORMER_CONFIG, "rope_typ": "rope"}
        )
