"""Where diffusers' Edit falls short, ours doesn't: batches, seeds, images of any kind, schedules."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.callbacks import PipelineCallback

from joyimage.pipeline.edit import JoyImageEditPipeline
from tests import random_models

PROMPT, OTHER_PROMPT = "Make the car red", "blue"
SQUARE, OTHER = random_models.make_image(0), random_models.make_image(1)
WIDE = random_models.make_image(1, 200, 333)
SAME = 1e-4  # of 1.0: a batch's matrix products sum in another order than a single run's
BASE = 64


@pytest.fixture(scope="module")
def pipe() -> Any:
    """Our tiny pipeline at its smallest sizes."""
    pipe = random_models.make_pipeline()
    pipe.register_to_config(base_size=BASE)
    return pipe


def run(pipe: Any, seeds: tuple[int, ...] = (0,), **arguments: Any) -> np.ndarray:
    """Run two steps with one generator an output."""
    settings = {"prompt": PROMPT, "num_inference_steps": 2, "output_type": "np"}
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return np.asarray(pipe(**{**settings, "generator": generators, **arguments}).images)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize("image", [None, [SQUARE, OTHER]], ids=["text to image", "edit"])
def test_batch_when_prompts_differ_in_length_then_same_as_single_runs(
    pipe: Any, image: Any, guidance_scale: float
) -> None:
    prompts = [PROMPT, OTHER_PROMPT]

    batch = run(pipe, (3, 4), image=image, prompt=prompts, guidance_scale=guidance_scale)

    for index, seed in enumerate((3, 4)):
        own = None if image is None else image[index]
        single = run(pipe, (seed,), image=own, prompt=prompts[index], guidance_scale=guidance_scale)
        assert np.abs(batch[index] - single[0]).max() < SAME


def test_batch_when_negative_prompts_differ_in_length_then_same_as_single_runs(pipe: Any) -> None:
    negative = ["dark", "gray, soft and blurred"]

    batch = run(pipe, (3, 4), image=SQUARE, prompt=[PROMPT, PROMPT], negative_prompt=negative)

    for index, seed in enumerate((3, 4)):
        single = run(pipe, (seed,), image=SQUARE, negative_prompt=negative[index])
        assert np.abs(batch[index] - single[0]).max() < SAME


def test_several_images_when_two_images_then_each_belongs_to_its_prompt_and_image(pipe: Any) -> None:
    images, prompts = [SQUARE, OTHER], [PROMPT, OTHER_PROMPT]

    batch = run(pipe, (1, 2, 3, 4), image=images, prompt=prompts, num_images_per_prompt=2)

    assert batch.shape == (4, BASE, BASE, 3)
    for output, (sample, seed) in enumerate([(0, 1), (0, 2), (1, 3), (1, 4)]):
        single = run(pipe, (seed,), image=images[sample], prompt=prompts[sample])
        assert np.abs(batch[output] - single[0]).max() < SAME


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_padding_side_when_prompts_differ_in_length_then_does_not_matter(
    pipe: Any, padding_side: str
) -> None:
    arguments = {"image": [SQUARE, OTHER], "prompt": [PROMPT, OTHER_PROMPT], "seeds": (1, 2)}
    other = random_models.make_pipeline(padding_side)
    other.register_to_config(base_size=BASE)

    assert np.abs(run(other, **arguments) - run(pipe, **arguments)).max() < SAME


def test_masks_when_two_outputs_for_each_prompt_then_in_the_order_of_the_embeddings(pipe: Any) -> None:
    single, _ = pipe.encode_prompt([OTHER_PROMPT])

    embeds, mask = pipe.encode_prompt([PROMPT, OTHER_PROMPT], num_images_per_prompt=2)

    lengths = mask.sum(dim=1).tolist()
    assert lengths[0] == lengths[1] > lengths[2] == lengths[3] == single.shape[1]
    assert torch.allclose(embeds[3, : single.shape[1]], single[0], atol=1e-3)


def attention_masks(pipe: Any, **arguments: Any) -> list[torch.Tensor | None]:
    """Run the pipeline and return what each pass says about padding."""
    masks = []

    def keep(_module: object, _arguments: object, keywords: dict[str, Any]) -> None:
        masks.append(keywords["encoder_hidden_states_mask"])

    handle = pipe.transformer.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        run(pipe, **arguments)
    finally:
        handle.remove()
    return masks


def test_mask_when_nothing_is_padded_then_none(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joyimage.pipeline.guidance.MAX_BATCHED_TOKENS", 0)  # as for large images

    assert attention_masks(pipe, image=SQUARE, negative_prompt="a much longer prompt") == [None] * 4


def test_mask_when_prompts_differ_in_length_then_padding_is_shut_out(pipe: Any) -> None:
    masks = attention_masks(pipe, prompt=[PROMPT, OTHER_PROMPT], guidance_scale=1.0, seeds=(0, 1))

    assert len(masks) == 2
    for mask in masks:
        assert mask is not None
        assert mask[0].all()
        assert not mask[1].all()


def test_generator_when_seed_is_same_then_same_image_whatever_the_global_one(pipe: Any) -> None:
    first = run(pipe, image=SQUARE)
    torch.manual_seed(99)

    again = run(pipe, image=SQUARE)

    assert np.array_equal(first, again)
    assert not np.array_equal(first, run(pipe, (1,), image=SQUARE))


@pytest.mark.parametrize("image", [None, SQUARE], ids=["text to image", "edit"])
def test_generator_when_given_then_the_noise_is_the_first_that_it_draws(pipe: Any, image: Any) -> None:
    noise = torch.randn(1, 1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    size = {"height": BASE, "width": BASE}

    drawn = run(pipe, (5,), image=image, **size, reference_latents="mode")

    assert np.array_equal(
        drawn, run(pipe, (5,), image=image, **size, reference_latents="mode", latents=noise)
    )


def test_generator_when_given_then_global_one_is_left_alone(pipe: Any) -> None:
    before = torch.get_rng_state()

    run(pipe, image=SQUARE)

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        pytest.param(SQUARE.convert("RGBA"), SQUARE, id="RGBA"),
        pytest.param(SQUARE.convert("L"), SQUARE.convert("L").convert("RGB"), id="gray"),
        pytest.param(np.asarray(SQUARE), SQUARE, id="array"),
        pytest.param(np.asarray(SQUARE)[None], SQUARE, id="array of a batch"),
        pytest.param(torch.from_numpy(np.array(SQUARE)).permute(2, 0, 1), SQUARE, id="tensor"),
        pytest.param([SQUARE], SQUARE, id="list"),
    ],
)
def test_image_when_other_kind_then_same_as_rgb(pipe: Any, given: Any, plain: Any) -> None:
    assert np.array_equal(run(pipe, image=given), run(pipe, image=plain))


@pytest.mark.parametrize("markup", ["<image>\n", "<|image_pad|>", "<|im_end|>"])
def test_prompt_when_it_holds_markup_then_read_as_text(pipe: Any, markup: str) -> None:
    image = run(pipe, image=SQUARE, prompt=f"{PROMPT}{markup}")

    assert np.abs(image - run(pipe, image=SQUARE)).max() > SAME


@pytest.mark.parametrize("image", [None, SQUARE], ids=["text to image", "edit"])
def test_prompt_when_too_long_then_words_are_left_out_with_a_warning(pipe: Any, image: Any) -> None:
    num_image_tokens = 0 if image is None else (BASE // 32) ** 2 + 2

    with pytest.warns(UserWarning, match="too long"):
        long = run(
            pipe, image=image, prompt=f"{PROMPT} again" * 20, max_sequence_length=30 + num_image_tokens
        )

    assert np.isfinite(long).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run(pipe, image=image, prompt=PROMPT, max_sequence_length=30 + num_image_tokens)


def test_output_when_size_is_requested_then_says_which_was_chosen(pipe: Any) -> None:
    output = pipe(image=SQUARE, prompt=PROMPT, height=50, width=90, num_inference_steps=1)

    assert (output.height, output.width) == (48, 80)
    assert output.images[0].size == (80, 48)
    assert not output.interrupted


@pytest.mark.parametrize("base_size", [64, 96, 128, 256])
def test_base_size_when_another_then_images_of_it(pipe: Any, base_size: int) -> None:
    pipe.register_to_config(base_size=base_size)
    try:
        output = pipe(prompt=PROMPT, num_inference_steps=1, guidance_scale=1.0)
    finally:
        pipe.register_to_config(base_size=BASE)

    assert output.images[0].size == (base_size, base_size)


def test_images_when_different_shapes_then_rejected_unless_size_given(pipe: Any) -> None:
    arguments = {"image": [SQUARE, WIDE], "prompt": [PROMPT, PROMPT], "seeds": (0, 1)}

    with pytest.raises(ValueError, match="different shapes"):
        run(pipe, **arguments)

    assert run(pipe, **arguments, height=64, width=64).shape == (2, 64, 64, 3)


def test_configuration_when_saved_then_comes_back(pipe: Any, tmp_path: Any) -> None:
    settings: dict[str, Any] = {
        "text_token_max_length": 77,
        "base_size": BASE,
        "default_num_inference_steps": 4,
    }
    saved = JoyImageEditPipeline(**pipe.components, **settings)
    saved.save_pretrained(tmp_path)

    loaded = JoyImageEditPipeline.from_pretrained(tmp_path)

    assert {name: loaded.config[name] for name in settings} == settings


def test_callback_when_it_asks_for_both_embeddings_then_gets_and_changes_them(pipe: Any) -> None:
    seen: dict[str, tuple[int, ...]] = {}
    names = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    def look(_pipe: object, _step: int, _time: object, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        seen.update({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        return {"negative_prompt_embeds": tensors["negative_prompt_embeds"] * 0}

    settings = {"image": SQUARE, "callback_on_step_end": look, "callback_on_step_end_tensor_inputs": names}
    changed = run(pipe, **settings)

    assert list(seen) == names
    assert seen["latents"] == (1, 2, 16, 1, BASE // 8, BASE // 8)
    assert np.abs(changed - run(pipe, image=SQUARE)).max() > SAME


class EndGuidance(PipelineCallback):
    """Turn guidance off after the first step, as diffusers' own cutoff callbacks do."""

    @property
    def tensor_inputs(self) -> list[str]:
        """Ask for the tensor that the callback returns unchanged."""
        return ["prompt_embeds"]

    def callback_fn(
        self, pipeline: Any, step_index: int, timesteps: Any, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Change the pipeline's guidance."""
        pipeline._guidance_scale = 0.0
        return callback_kwargs


@pytest.mark.parametrize("together_up_to", [0, 1024])
def test_callback_when_a_callback_object_ends_guidance_then_negative_branch_ends(
    pipe: Any, monkeypatch: pytest.MonkeyPatch, together_up_to: int
) -> None:
    monkeypatch.setattr("joyimage.pipeline.guidance.MAX_BATCHED_TOKENS", together_up_to)

    masks = attention_masks(pipe, image=SQUARE, callback_on_step_end=EndGuidance(), num_inference_steps=3)

    if together_up_to:
        assert [None if mask is None else len(mask) for mask in masks] == [2, None, None]
    else:
        assert len(masks) == 2 + 1 + 1


def test_interrupt_when_set_then_loop_ends_and_output_says_so(pipe: Any) -> None:
    steps = []

    def stop(pipe: Any, step: int, _timestep: object, _tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        pipe._interrupt = step == 1
        return {}

    output = pipe(image=SQUARE, prompt=PROMPT, num_inference_steps=5, callback_on_step_end=stop)

    assert steps == [0, 1]
    assert output.interrupted
    assert not pipe(image=SQUARE, prompt=PROMPT, num_inference_steps=1).interrupted


def calls_of(module: torch.nn.Module, pipe: Any, **arguments: Any) -> list[tuple[int, ...]]:
    """Run the pipeline and return the shape that each call of one of its parts gave."""
    shapes: list[tuple[int, ...]] = []

    def keep(_module: object, _inputs: object, output: Any) -> None:
        shapes.append(tuple(output.shape) if isinstance(output, torch.Tensor) else ())

    handle = module.register_forward_hook(keep)
    try:
        run(pipe, **arguments)
    finally:
        handle.remove()
    return shapes


def test_vision_tower_when_guidance_is_on_then_runs_once(pipe: Any) -> None:
    assert len(calls_of(pipe.text_encoder.model.visual, pipe, image=SQUARE)) == 1


def test_lm_head_when_prompt_is_encoded_then_never_over_all_tokens(pipe: Any) -> None:
    for shape in calls_of(pipe.text_encoder.lm_head, pipe, image=SQUARE):
        assert shape[1] <= 1


def test_vae_when_decoding_then_target_only(pipe: Any) -> None:
    (shape,) = calls_of(pipe.vae.post_quant_conv, pipe, image=SQUARE)

    assert shape[0] == 1


def test_vae_when_images_are_equal_then_each_distinct_one_is_encoded_once(pipe: Any) -> None:
    images = [SQUARE, OTHER, SQUARE.copy()]

    shapes = calls_of(pipe.vae.quant_conv, pipe, image=images, prompt=[PROMPT] * 3, seeds=(0, 1, 2))

    assert len(shapes) == 2


def test_schedule_when_jd_then_same_as_even_sigmas(pipe: Any) -> None:
    image = run(pipe, image=SQUARE, schedule="jd", num_inference_steps=4)

    sigmas = [1.0, 0.75, 0.5, 0.25]
    assert np.array_equal(image, run(pipe, image=SQUARE, sigmas=sigmas))
    assert not np.array_equal(image, run(pipe, image=SQUARE, num_inference_steps=4))


def test_reference_latents_when_mode_then_only_the_noise_is_drawn(pipe: Any) -> None:
    arguments = (1, 16, BASE, BASE, 1, torch.float32, torch.device("cpu"))
    image = SQUARE.resize((BASE, BASE))

    latents = [
        pipe.prepare_latents(
            *arguments, torch.Generator().manual_seed(seed), image=[image], reference_latents=how
        )[1]
        for how in ("mode", "sample")
        for seed in (0, 1)
    ]

    assert torch.equal(latents[0], latents[1])
    assert not torch.equal(latents[2], latents[3])


def test_latents_dtype_when_float32_then_steps_are_not_rounded() -> None:
    pipe = random_models.make_pipeline()
    pipe.register_to_config(base_size=BASE)
    expected = run(pipe, image=SQUARE, output_type="latent", num_inference_steps=8)
    pipe.to(torch.bfloat16)
    dtypes = set()

    def look(_pipe: object, _step: int, _time: object, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        dtypes.add(tensors["latents"].dtype)
        return {}

    noise = torch.randn(1, 1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    arguments = {"image": SQUARE, "latents": noise, "output_type": "latent", "num_inference_steps": 8}
    rounded = run(pipe, **arguments, callback_on_step_end=look)
    assert dtypes == {torch.bfloat16}
    dtypes.clear()
    exact = run(pipe, **arguments, callback_on_step_end=look, latents_dtype="float32")

    assert dtypes == {torch.float32}
    assert exact.shape == rounded.shape == expected.shape
    assert not np.array_equal(exact, rounded)


def test_prepare_latents_when_generators_do_not_match_then_rejected(pipe: Any) -> None:
    with pytest.raises(ValueError, match="`generator`"):
        pipe.prepare_latents(2, 16, BASE, BASE, 1, torch.float32, torch.device("cpu"), [torch.Generator()])


def test_offload_hooks_when_call_fails_then_freed(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    freed = []
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: freed.append(True))

    def fail(*_arguments: object) -> dict[str, Any]:
        raise RuntimeError("the callback failed")

    with pytest.raises(RuntimeError, match="the callback failed"):
        run(pipe, image=SQUARE, callback_on_step_end=fail)

    assert freed == [True]
    assert pipe.model_cpu_offload_seq == "text_encoder->transformer->vae"
