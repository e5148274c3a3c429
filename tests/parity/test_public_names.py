"""A program that uses more of diffusers' pipelines than the call finds it here too."""

from __future__ import annotations

from typing import Any

import pytest

from joyimage.pipeline.prompts import PROMPT_TEMPLATES


@pytest.mark.parametrize("kind", ["edit", "edit-plus"])
def test_pipelines_when_compared_with_those_of_diffusers_then_no_public_name_is_missing(
    ours: Any, reference: Any, ours_plus: Any, reference_plus: Any, kind: str
) -> None:
    mine, theirs = (ours, reference) if kind == "edit" else (ours_plus, reference_plus)

    missing = {name for name in dir(theirs) if not name.startswith("_")} - set(dir(mine))

    # Theirs returns noise and references as padded patches, which are drawn and packed otherwise here.
    assert missing <= ({"prepare_latents"} if kind == "edit-plus" else set())


def test_attributes_when_compared_with_those_of_diffusers_then_equal(ours: Any, reference: Any) -> None:
    assert ours.vae_scale_factor_temporal == reference.vae_scale_factor_temporal
    assert ours.vae_scale_factor_spatial == reference.vae_scale_factor_spatial
    assert dict(ours.prompt_template_encode) == reference.prompt_template_encode
    assert dict(ours.prompt_template_encode_start_idx) == reference.prompt_template_encode_start_idx
    assert ours.text_token_max_length == reference.text_token_max_length
    assert ours.vae_image_processor.config["vae_scale_factor"] == ours.vae_scale_factor_spatial


def test_prompt_templates_when_changed_then_rejected(ours: Any) -> None:
    with pytest.raises(TypeError):
        ours.prompt_template_encode["image"] = "{}"
    assert ours.prompt_template_encode["image"] == PROMPT_TEMPLATES["image"]
