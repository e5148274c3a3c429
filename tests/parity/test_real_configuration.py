"""The published configuration, without its weights: sizes, names and the real tokenizer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_joyimage import (
    JoyImageEditTransformer3DModel as ReferenceTransformer,
)
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers import AutoTokenizer
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from joyimage.model.transformer import JoyImageEditTransformer3DModel
from tests import random_models

if TYPE_CHECKING:
    from pathlib import Path

PUBLISHED_TRANSFORMER: dict[str, Any] = {
    "hidden_size": 4096,
    "in_channels": 16,
    "mlp_width_ratio": 4.0,
    "num_attention_heads": 32,
    "num_layers": 40,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "rope_dim_list": [16, 56, 56],
    "rope_type": "rope",
    "text_dim": 4096,
    "theta": 10000,
}


def num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def tokenizer(published_layout: Path) -> Any:
    """The published tokenizer."""
    return AutoTokenizer.from_pretrained(published_layout / "tokenizer")


def test_transformer_when_published_settings_then_published_names_and_size() -> None:
    with torch.device("meta"):
        transformer = JoyImageEditTransformer3DModel(**PUBLISHED_TRANSFORMER)
        expected = ReferenceTransformer(**PUBLISHED_TRANSFORMER)

    shapes = {name: tuple(tensor.shape) for name, tensor in transformer.state_dict().items()}

    assert shapes == {name: tuple(tensor.shape) for name, tensor in expected.state_dict().items()}
    assert round(num_parameters(transformer) / 1e9, 2) == 16.26


def test_prefix_when_real_tokenizer_then_34_tokens(tokenizer: Any) -> None:
    from joyimage.pipeline.prompts import prefix_length

    assert prefix_length(tokenizer) == 34


@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_prefix_when_tiny_tokenizer_then_34_tokens(padding_side: str) -> None:
    from joyimage.pipeline.prompts import prefix_length

    assert prefix_length(random_models.make_tokenizer(padding_side)) == 34


@pytest.mark.parametrize("config_name", ["config.json", "config.legacy.json"])
def test_transformer_when_published_config_file_then_same_settings(
    published_configs: Path, config_name: str
) -> None:
    config = json.loads((published_configs / "transformer" / config_name).read_text())

    with torch.device("meta"):
        transformer = JoyImageEditTransformer3DModel.from_config(config)

    assert {name: transformer.config[name] for name in PUBLISHED_TRANSFORMER} == PUBLISHED_TRANSFORMER


def test_pipeline_when_published_configuration_then_builds_without_memory(
    published_layout: Path, tokenizer: Any
) -> None:
    from joyimage.pipeline.edit import JoyImageEditPipeline
    from joyimage.pipeline.processor import JoyImageProcessor

    with torch.device("meta"):
        transformer = JoyImageEditTransformer3DModel(**PUBLISHED_TRANSFORMER)
        text_encoder = Qwen3VLForConditionalGeneration(
            Qwen3VLConfig.from_pretrained(published_layout / "text_encoder")
        )
        vae_class: Any = AutoencoderKLWan
        vae = vae_class.from_config(AutoencoderKLWan.load_config(published_layout / "vae"))

    scheduler_class: Any = FlowMatchEulerDiscreteScheduler
    pipe = JoyImageEditPipeline(
        scheduler=scheduler_class.from_pretrained(published_layout / "scheduler"),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
        processor=JoyImageProcessor.from_pretrained(published_layout / "processor"),
    )

    assert round(num_parameters(pipe.text_encoder) / 1e9, 1) == 8.8
    assert round(num_parameters(pipe.vae) / 1e6) == 127
    assert pipe.scheduler.config["shift"] == 1.5
    assert pipe.transformer.device.type == "meta"
