"""Editing with several references agrees with diffusers 0.42.1's, argument by argument."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests import random_models
from tests.parity.agreement import assert_agree, run

PROMPT = "Make the car red"
SQUARE, WIDE, TALL = (
    random_models.make_image(0),
    random_models.make_image(1, 200, 333),
    random_models.make_image(2, 400, 210),
)
NO_BUCKET = {"height": 208, "width": 304}
NOISE = torch.randn((1, 16, 1, 26, 38), generator=torch.Generator().manual_seed(11))


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"images": [SQUARE]}, id="one reference"),
        pytest.param({"images": [WIDE, SQUARE]}, id="two references of different size"),
        pytest.param({"images": [SQUARE, TALL, WIDE]}, id="three references, size from the last"),
        pytest.param({"images": [WIDE, TALL], **NO_BUCKET}, id="size that is no bucket"),
        pytest.param({"images": None, **NO_BUCKET}, id="text to image"),
        pytest.param({"guidance_scale": 1.0}, id="no guidance"),
        pytest.param({"negative_prompt": "blurred, gray"}, id="negative prompt"),
        pytest.param({"prompt": ""}, id="empty prompt"),
        pytest.param({"sigmas": [1.0, 0.7, 0.2]}, id="sigmas"),
        pytest.param({"timesteps": [900.0, 500.0, 100.0]}, id="timesteps"),
        pytest.param({"latents": NOISE, **NO_BUCKET}, id="latents given"),
    ],
)
def test_plus_pipeline_when_argument_given_then_image_agrees(
    ours_plus: Any, reference_plus: Any, arguments: dict[str, Any]
) -> None:
    arguments = {"images": [SQUARE, WIDE], "prompt": PROMPT, **arguments}

    assert_agree(run(ours_plus, **arguments), run(reference_plus, **arguments), "image")


@pytest.mark.parametrize(
    ("images", "prompts"),
    [
        pytest.param([[SQUARE], [SQUARE]], ["Make the car red", "Make the sky blue"], id="equal"),
        pytest.param([[SQUARE], [SQUARE]], ["Make the car red", "blue"], id="prompts of different length"),
        pytest.param([[WIDE, TALL], [TALL, SQUARE]], ["Make the car red", "blue"], id="sizes differ"),
        pytest.param([[SQUARE], [TALL, WIDE]], ["Make the car red", "blue"], id="counts differ"),
    ],
)
def test_plus_pipeline_when_several_prompts_then_image_agrees(
    ours_plus: Any, reference_plus: Any, images: list[Any], prompts: list[str]
) -> None:
    arguments = {"images": images, "prompt": prompts, **NO_BUCKET, "negative_prompt": ["dark", "soft, gray"]}

    assert_agree(run(ours_plus, **arguments), run(reference_plus, **arguments), "image")


@pytest.mark.parametrize("num_generators", [1, 2])
def test_plus_pipeline_when_generators_given_then_image_agrees(
    ours_plus: Any, reference_plus: Any, num_generators: int
) -> None:
    def arguments() -> dict[str, Any]:
        generators = [torch.Generator().manual_seed(seed) for seed in range(num_generators)]
        prompts = ["Make the car red", "Make the sky blue"][:num_generators]
        images = [[WIDE, SQUARE]] * num_generators
        return {"images": images, "prompt": prompts, "generator": generators}

    assert_agree(run(ours_plus, **arguments()), run(reference_plus, **arguments()), "image")


def test_plus_prompt_embeddings_when_two_references_then_agree(ours_plus: Any, reference_plus: Any) -> None:
    vision = "<image>\n<image>\n"
    images = [random_models.make_image(0), random_models.make_image(1, 192, 320)]

    embeds, _ = ours_plus.encode_prompt_multiple_images(PROMPT, images=[images])
    expected, _ = reference_plus.encode_prompt_multiple_images(
        f"<|im_start|>user\n{vision}{PROMPT}<|im_end|>\n", images=images
    )

    assert_agree(embeds, expected, "prompt embeddings")


@pytest.mark.parametrize(
    "change",
    [{"images": [SQUARE, TALL]}, {"images": [WIDE, SQUARE]}, {"prompt": "blue"}, {"negative_prompt": "dark"}],
    ids=["other reference", "other order", "prompt", "negative prompt"],
)
def test_tiny_plus_pipeline_when_input_changes_then_image_changes_visibly(
    ours_plus: Any, change: dict[str, Any]
) -> None:
    """Without this, agreement could mean that an input doesn't matter at tiny size."""
    arguments = {"images": [SQUARE, WIDE], "prompt": PROMPT, "height": 256, "width": 256}

    difference = np.abs(run(ours_plus, **{**arguments, **change}) - run(ours_plus, **arguments))

    assert difference.max() > 0.05
