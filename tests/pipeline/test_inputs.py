"""What can't work is rejected before any work, in a sentence that names the argument."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from joyimage.pipeline.checks import checked_prompt_count
from joyimage.pipeline.inputs import PromptInputs, SamplingInputs
from tests import random_models

IMAGE = random_models.make_image(0, 64, 64)
EMBEDS, MASK = torch.zeros(1, 5, 48), torch.ones(1, 5)


@pytest.fixture(scope="module")
def pipe() -> Any:
    """Our tiny pipeline, whose networks fail when they are run."""
    pipe = random_models.make_pipeline()

    def fail(*_: object) -> None:
        raise AssertionError("work began before the arguments were checked")

    for part in (pipe.text_encoder, pipe.vae.encoder, pipe.transformer):
        part.register_forward_pre_hook(fail)
    return pipe


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"num_inference_steps": 0}, ValueError, ["`num_inference_steps`", "0", "from 1 to 1,000"]),
        ({"num_inference_steps": 10**9}, ValueError, ["`num_inference_steps`", "1000000000", "to 1,000"]),
        ({"num_images_per_prompt": 10**9}, ValueError, ["`num_images_per_prompt`", "to 1,000"]),
        ({"num_inference_steps": 2.5}, ValueError, ["`num_inference_steps`", "2.5"]),
        ({"height": 768}, ValueError, ["`height`", "`width`", "768", "None"]),
        ({"width": 768}, ValueError, ["`height`", "`width`", "768", "None"]),
        ({"height": 0, "width": 64}, ValueError, ["`height`", "0"]),
        ({"height": 1_600_000, "width": 64}, ValueError, ["`height`", "1600000", "at most 16384"]),
        ({"latents": torch.zeros(1, 16, 8, 8)}, ValueError, ["`latents`", "[1, 16, 8, 8]", "[1, 1, 16, 1,"]),
        ({"negative_prompt": ["a", "b"]}, ValueError, ["`negative_prompt`", "2", "1 prompts"]),
        ({"negative_prompt": 3}, TypeError, ["`negative_prompt`", "3"]),
        ({"image": [IMAGE] * 3}, ValueError, ["`image`", "3 images", "1 prompts"]),
        ({"image": [IMAGE] * 3, "prompt": ["a", "b"]}, ValueError, ["`image`", "3", "2 prompts"]),
        ({"image": []}, ValueError, ["`image`", "empty"]),
        ({"image": "image.png"}, TypeError, ["`image`", "str"]),
        ({"image": np.zeros((4, 4, 7), np.uint8)}, ValueError, ["`image`", "[4, 4, 7]"]),
        ({"image": np.full((4, 4, 3), 2.0)}, ValueError, ["`image`", "[0, 1]"]),
        ({"prompt": None}, ValueError, ["`prompt`", "neither"]),
        ({"prompt": []}, ValueError, ["`prompt`", "empty"]),
        ({"prompt": ["a", 1]}, TypeError, ["`prompt`"]),
        ({"prompt_embeds": EMBEDS, "prompt_embeds_mask": MASK}, ValueError, ["`prompt_embeds`", "both"]),
        ({"prompt": None, "prompt_embeds": EMBEDS}, ValueError, ["`prompt_embeds_mask`", "nothing"]),
        (
            {"prompt": None, "prompt_embeds": EMBEDS[..., :7], "prompt_embeds_mask": MASK},
            ValueError,
            ["`prompt_embeds`", "[1, 5, 7]", "48"],
        ),
        (
            {"negative_prompt_embeds": EMBEDS, "negative_prompt_embeds_mask": MASK[:, :2]},
            ValueError,
            ["`negative_prompt_embeds_mask`", "[1, 2]", "[1, 5]"],
        ),
        ({"timesteps": [9.0], "sigmas": [1.0]}, ValueError, ["`timesteps`", "`sigmas`"]),
        ({"sigmas": []}, ValueError, ["`sigmas`", "empty"]),
        ({"guidance_scale": float("nan")}, ValueError, ["`guidance_scale`", "nan"]),
        ({"num_images_per_prompt": 0}, ValueError, ["`num_images_per_prompt`", "0"]),
        ({"generator": [torch.Generator()] * 2}, ValueError, ["`generator`", "2", "1"]),
        ({"output_type": "jpeg"}, ValueError, ["`output_type`", "jpeg", "latent"]),
        ({"schedule": "karras"}, ValueError, ["`schedule`", "karras", "jd"]),
        ({"reference_latents": "mean"}, ValueError, ["`reference_latents`", "mean", "mode"]),
        ({"generator": [None]}, TypeError, ["`generator`", "torch.Generator"]),
        ({"output_type": np.array(["pil", "np"])}, ValueError, ["`output_type`", "latent"]),
        ({"speed": ["fast"]}, ValueError, ["`speed`", "['fast']", "balanced"]),
        ({"timesteps": torch.tensor([[500.0]])}, TypeError, ["`timesteps`", "list of numbers"]),
        ({"timesteps": [10**400]}, TypeError, ["`timesteps`", "list of numbers"]),
        ({"sigmas": {1.0, 0.5}}, TypeError, ["`sigmas`", "list of numbers"]),
        ({"sigmas": iter([1.0])}, TypeError, ["`sigmas`", "list of numbers"]),
        ({"latents_dtype": torch.float8_e4m3fn}, ValueError, ["`latents_dtype`", "16 bits"]),
        ({"latents": torch.zeros(1, 1, 16, 1, 8, 8, device="meta")}, TypeError, ["`latents`", "meta"]),
        ({"latents": torch.zeros(1, 1, 16, 1, 8, 8).to_sparse()}, TypeError, ["`latents`", "dense"]),
        ({"latents": torch.zeros(1, 1, 16, 1, 8, 8).long()}, TypeError, ["`latents`", "int64"]),
        (
            {"prompt": None, "prompt_embeds": [1.0], "prompt_embeds_mask": MASK},
            TypeError,
            ["`prompt_embeds`"],
        ),
        (
            {"prompt": None, "prompt_embeds": EMBEDS, "prompt_embeds_mask": [[1] * 5]},
            ValueError,
            ["`prompt_embeds_mask`", "[1, 5]"],
        ),
        ({"max_sequence_length": 2.5}, ValueError, ["`max_sequence_length`", "2.5", "whole number"]),
        ({"enable_denormalization": "no"}, ValueError, ["`enable_denormalization`", "'no'", "True or False"]),
        ({"feather": "5", "region": (0, 0, 9, 9)}, ValueError, ["`feather`", "'5'"]),
        ({"region": np.full((64, 64), np.nan)}, ValueError, ["`region`", "finite"]),
        ({"image": np.zeros((0, 64, 64, 3), np.uint8)}, ValueError, ["`image`", "[0, 64, 64, 3]"]),
        ({"image": torch.zeros(0, 3, 64, 64)}, ValueError, ["`image`", "[0, 3, 64, 64]"]),
        ({"image": torch.zeros(3, 64, 64, device="meta")}, ValueError, ["`image`", "meta"]),
        ({"image": torch.zeros(3, 64, 64).to_sparse()}, ValueError, ["`image`", "sparse"]),
        (
            {"callback_on_step_end_tensor_inputs": "latents"},
            TypeError,
            ["`callback_on_step_end_tensor_inputs`", "['latents']"],
        ),
        ({"callback_on_step_end_tensor_inputs": 5}, TypeError, ["`callback_on_step_end_tensor_inputs`", "5"]),
        (
            {"callback_on_step_end_tensor_inputs": ["noise"]},
            ValueError,
            ["`callback_on_step_end_tensor_inputs`", "noise", "latents"],
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_call_when_an_argument_is_wrong_then_rejected_by_name_before_work(
    pipe: Any, arguments: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as raised:
        pipe(**{"image": IMAGE, "prompt": "Make it red", **arguments})

    sentence = str(raised.value)
    assert "\n" not in sentence
    for word in words:
        assert word in sentence


@pytest.mark.parametrize(
    ("negative", "scale", "is_warned"),
    [
        ("blurry", 1.0, True),
        (["", "blurry"], 0.5, True),
        ("blurry", 1.5, False),
        (" ", 1.0, False),
        (None, 1.0, False),
    ],
)
def test_check_inputs_when_a_negative_prompt_has_no_effect_then_warns(
    pipe: Any,
    negative: str | list[str] | None,
    scale: float,
    is_warned: bool,
    recwarn: pytest.WarningsRecorder,
) -> None:
    pipe.check_inputs(["red", "blue"], None, None, negative, guidance_scale=scale)

    assert [str(one.message) for one in recwarn if "`negative_prompt` has no effect" in str(one.message)] == (
        [
            f"`negative_prompt` has no effect: `guidance_scale` is {scale:g}, and guidance is off at 1 and below."
        ]
        if is_warned
        else []
    )


def test_check_inputs_when_all_is_well_then_number_of_prompts(pipe: Any) -> None:
    assert pipe.check_inputs("one", None, None) == 1
    assert pipe.check_inputs(["one", "two"], 64, 64, "dark") == 2
    assert pipe.check_inputs(None, None, None, prompt_embeds=EMBEDS, prompt_embeds_mask=MASK) == 1


@settings(max_examples=200, deadline=None)
@given(
    steps=st.integers(-3, 50),
    num=st.integers(-3, 5),
    height=st.none() | st.integers(-5, 2000),
    width=st.none() | st.integers(-5, 2000),
    guidance=st.floats(),
)
def test_check_call_when_numbers_are_any_then_passes_exactly_the_possible(
    steps: int, num: int, height: int | None, width: int | None, guidance: float
) -> None:
    sizes_fit = (height is None) == (width is None) and all(
        side is None or side > 0 for side in (height, width)
    )
    is_possible = steps > 0 and num > 0 and sizes_fit and np.isfinite(guidance)
    prompts = PromptInputs(prompt="a")
    sampling = SamplingInputs(
        height=height,
        width=width,
        num_inference_steps=steps,
        num_images_per_prompt=num,
        guidance_scale=guidance,
    )

    if is_possible:
        assert checked_prompt_count(prompts, sampling, text_dim=48) == 1
    else:
        with pytest.raises(ValueError, match="`"):
            checked_prompt_count(prompts, sampling, text_dim=48)
