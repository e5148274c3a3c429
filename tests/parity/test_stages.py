"""Each stage alone agrees with diffusers 0.42.1, so that a broken stage is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import random_models
from tests.parity.agreement import assert_agree, run

PROMPTS = ["Make the car red", "Make the sky blue"]


@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_prompt_embeddings_when_image_then_agree(padding_side: str) -> None:
    ours = random_models.make_pipeline(padding_side)
    reference: Any = random_models.make_reference_pipeline(padding_side)
    images = [random_models.make_image(0), random_models.make_image(1)]

    embeds, mask = ours.encode_prompt_multiple_images(PROMPTS, images=images)
    expected, expected_mask = reference.encode_prompt_multiple_images(PROMPTS, images=images)

    assert_agree(embeds, expected, "prompt embeddings")
    assert mask is None or torch.equal(mask.bool(), expected_mask.bool())


def test_prompt_embeddings_when_text_only_then_agree(ours: Any, reference: Any) -> None:
    prompts = ["Make the car red", "blue"]

    embeds, mask = ours.encode_prompt(prompts)
    expected, expected_mask = reference.encode_prompt(prompts)

    assert torch.equal(mask.bool(), expected_mask.bool())
    assert_agree(embeds[mask.bool()], expected[expected_mask.bool()], "prompt embeddings")


def test_prompt_embeddings_when_two_outputs_for_a_prompt_then_agree(ours: Any, reference: Any) -> None:
    embeds, _ = ours.encode_prompt(PROMPTS, num_images_per_prompt=2)
    expected, _ = reference.encode_prompt(PROMPTS, num_images_per_prompt=2)

    assert_agree(embeds, expected, "prompt embeddings")


def test_prompt_embeddings_when_made_then_states_before_final_norm(ours: Any) -> None:
    embeds, _ = ours.encode_prompt_multiple_images(PROMPTS[0], images=[random_models.make_image()])

    normed = ours.text_encoder.model.language_model.norm(embeds)

    # Published model: about 21 before the final norm and 2 after it.
    assert 15 < embeds.std() < 30
    assert normed.std() < 2


def test_prefix_when_tiny_tokenizer_then_as_long_as_real_one() -> None:
    tokenizer = random_models.make_tokenizer()

    assert len(tokenizer(random_models.SYSTEM_MESSAGE).input_ids) + 1 == random_models.PREFIX_TOKENS


@pytest.mark.parametrize("enable_denormalization", [True, False])
def test_latents_when_drawn_then_agree(ours: Any, reference: Any, enable_denormalization: bool) -> None:
    arguments = {
        "batch_size": 2,
        "num_channels_latents": 16,
        "height": 256,
        "width": 256,
        "video_length": 1,
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "image": [random_models.make_image(0), random_models.make_image(1)],
        "enable_denormalization": enable_denormalization,
    }

    torch.manual_seed(3)
    noise, latents = ours.prepare_latents(**arguments, generator=None)
    torch.manual_seed(3)
    expected_noise, expected_latents = reference.prepare_latents(**arguments, generator=None)

    assert torch.equal(noise, expected_noise)
    assert_agree(latents, expected_latents, "reference latents")


def test_latent_statistics_when_applied_then_agree(ours: Any, reference: Any) -> None:
    latents = torch.randn(2, 16, 1, 4, 4)

    assert torch.equal(ours.normalize_latents(latents), reference.normalize_latents(latents))
    assert torch.equal(ours.denormalize_latents(latents), reference.denormalize_latents(latents))


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_steps_when_run_then_latents_agree_after_each(
    ours: Any, reference: Any, guidance_scale: float
) -> None:
    def latents_of_steps(pipe: Any) -> list[torch.Tensor]:
        steps = []

        def keep(_pipe: object, _step: int, _timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
            steps.append(tensors["latents"][:, -1].clone())
            return tensors

        image = random_models.make_image()
        run(pipe, image=image, prompt=PROMPTS[0], guidance_scale=guidance_scale, callback_on_step_end=keep)
        return steps

    got, expected = latents_of_steps(ours), latents_of_steps(reference)

    assert len(got) == len(expected) == 3
    for latents, expected_latents in zip(got, expected, strict=True):
        assert_agree(latents, expected_latents, "latents of a step")


def test_decoding_when_same_latents_then_image_agrees(ours: Any, reference: Any) -> None:
    arguments = {"image": random_models.make_image(), "prompt": PROMPTS[0]}
    latents = torch.from_numpy(run(ours, **arguments, output_type="latent"))

    decoded = reference.vae.decode(reference.denormalize_latents(latents.unsqueeze(2)), return_dict=False)[0]

    expected = reference.image_processor.postprocess(decoded.squeeze(2), output_type="np")
    assert_agree(run(ours, **arguments), expected, "decoded image")
