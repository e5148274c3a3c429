"""Names inside transformers that joyimage relies on."""

from __future__ import annotations

from joyimage.compat.transformers import attention_implementation
from tests import random_models


def test_attention_implementation_when_set_by_the_public_method_then_read() -> None:
    text_encoder = random_models.make_text_encoder(random_models.make_tokenizer())

    text_encoder.set_attn_implementation("eager")

    assert attention_implementation(text_encoder.config.text_config) == "eager"


def test_qwen3_vl_when_taken_apart_then_has_the_parts_that_the_text_encoder_uses() -> None:
    model = random_models.make_text_encoder(random_models.make_tokenizer()).model

    assert model.language_model.layers[-1]
    assert model.language_model.norm
    assert model.visual.patch_embed.proj
    assert callable(model.get_rope_index)
