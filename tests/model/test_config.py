"""Settings: what is resolved and what is rejected."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from joyimage.errors import CheckpointError
from joyimage.model.config import modernize
from joyimage.model.transformer import JoyImageEditTransformer3DModel
from tests import random_models


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", 0),
        ("hidden_size", "4096"),
        ("hidden_size", 65),
        ("num_attention_heads", True),
        ("num_layers", -1),
        ("text_dim", None),
        ("in_channels", 1.5),
        ("out_channels", "16"),
        ("mlp_width_ratio", 0),
        ("theta", "10000"),
        ("patch_size", [1, 2]),
        ("patch_size", 2),
        ("rope_dim_list", [16, 56, 56]),
        ("rope_dim_list", [7, 12, 13]),
        ("rope_type", "yarn"),
    ],
)
def test_constructor_when_a_setting_can_not_be_then_error_names_key_and_value(
    name: str, value: object
) -> None:
    settings = {**random_models.TRANSFORMER_CONFIG, name: value}

    with torch.device("meta"), pytest.raises(ValueError, match=name) as caught:
        JoyImageEditTransformer3DModel(**settings)

    assert str(value) in str(caught.value)


@pytest.mark.parametrize("key", ["hidden_size", "num_attention_heads", "num_layers", "text_dim", "theta"])
def test_from_config_when_a_file_lacks_a_key_then_error_names_it(key: str) -> None:
    config: dict[str, Any] = {
        "_class_name": "JoyImageEditTransformer3DModel",
        **random_models.TRANSFORMER_CONFIG,
    }
    del config[key]

    with pytest.raises(CheckpointError, match=key):
        JoyImageEditTransformer3DModel.from_config(config)


def test_from_config_when_old_and_new_key_disagree_then_error_names_both() -> None:
    with pytest.raises(CheckpointError, match=r"num_layers.*2.*mm_double_blocks_depth.*3"):
        modernize({**random_models.TRANSFORMER_CONFIG, "mm_double_blocks_depth": 3})


@pytest.mark.parametrize(("key", "value"), [("dit_modulation_type", "adaLN"), ("unpatchify_new", False)])
def test_from_config_when_another_architecture_then_error_names_key_and_value(
    key: str, value: object
) -> None:
    with pytest.raises(CheckpointError, match=f"{key}.*{value}"):
        modernize({**random_models.LEGACY_TRANSFORMER_CONFIG, key: value})


def test_from_config_when_an_argument_is_given_then_it_wins() -> None:
    with torch.device("meta"):
        model = JoyImageEditTransformer3DModel.from_config(
            random_models.LEGACY_TRANSFORMER_CONFIG, num_layers=1
        )

    assert len(model.double_blocks) == 1


def test_modernize_when_legacy_then_today_s_keys_alone() -> None:
    assert modernize(random_models.LEGACY_TRANSFORMER_CONFIG) == random_models.TRANSFORMER_CONFIG
