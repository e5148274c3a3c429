"""A random Qwen3-VL of the published configuration at tiny width, with the published tokenizer and processor."""

from __future__ import annotations

import json
from typing import Any

import torch
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from joyimage.pipeline.components import PUBLISHED_FOLDER, published_components
from joyimage.pipeline.edit import JoyImageEditPipeline
from tests import random_models

WIDTHS: dict[str, dict[str, Any]] = {
    "text_config": {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 16,
    },
    "vision_config": {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 48,
        "deepstack_visual_indexes": [0],
    },
}
"""What is smaller than published; vocabulary, token ids, positions and all else are as published."""


def make_published_pipeline(
    *,
    widths: dict[str, dict[str, Any]] = WIDTHS,
    rope_sections: tuple[int, ...] | None = (4, 2, 2),
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> JoyImageEditPipeline:
    """Build a pipeline whose text encoder differs from the published one in its widths only.

    Args:
        widths: What differs from the published configuration; with nothing it has 8 billion weights.
        rope_sections: Parts of a head for time, height and width; None: as published.
        device: Where the weights are drawn.
        dtype: Precision of the weights.
    """
    settings = json.loads((PUBLISHED_FOLDER / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    for part, values in widths.items():
        settings[part] |= values
    if rope_sections is not None:
        rope = settings["text_config"].get("rope_parameters") or settings["text_config"]["rope_scaling"]
        rope["mrope_section"] = list(rope_sections)
    with torch.device(device):
        text_encoder: Any = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**settings))
    text_encoder.to(dtype).eval()
    if device == "cpu":
        random_models.fill(
            text_encoder, 1, {"embed_tokens": 60.0, "down_proj": 14.0, "o_proj": 14.0, "pos_embed": 4.0}
        )
    parts = random_models.make_components() | published_components()
    parts |= {"text_encoder": text_encoder, "transformer": random_models.make_transformer()}
    pipe = JoyImageEditPipeline(**parts, base_size=random_models.BASE_SIZE)
    pipe.set_progress_bar_config(disable=True)
    return pipe
