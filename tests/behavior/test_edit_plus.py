"""Where diffusers' Edit-Plus falls short, ours doesn't: images of any kind, masks, batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tests import random_models

if TYPE_CHECKING:
    from PIL import Image

PROMPT = "Make the car red"
SQUARE, WIDE = random_models.make_image(0), random_models.make_image(1, 200, 333)
GRAY = SQUARE.convert("L")
SIZE: dict[str, Any] = {"height": 208, "width": 304}


@pytest.fixture(scope="module")
def pipe() -> Any:
    """Our tiny pipeline for several references."""
    return random_models.make_plus_pipeline()


def run(pipe: Any, seeds: tuple[int, ...] = (0,), **arguments: Any) -> np.ndarray:
    """Run two steps with one generator an output."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    settings = {"prompt": PROMPT, "num_inference_steps": 2, "output_type": "np", "generator": generators}
    return np.asarray(pipe(**{**settings, **arguments}).images)


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        pytest.param(SQUARE.convert("RGBA"), SQUARE, id="RGBA"),
        pytest.param(GRAY, GRAY.convert("RGB"), id="gray"),
        pytest.param(np.asarray(SQUARE), SQUARE, id="numpy"),
        pytest.param(torch.from_numpy(np.array(SQUARE)).permute(2, 0, 1), SQUARE, id="tensor"),
    ],
)
def test_reference_when_other_type_then_same_as_rgb(pipe: Any, given: Any, plain: Image.Image) -> None:
    image = run(pipe, images=[given, WIDE], **SIZE)

    assert np.abs(image - run(pipe, images=[plain, WIDE], **SIZE)).max() < 1e-5


def attention_masks(pipe: Any, **arguments: Any) -> list[torch.Tensor | None]:
    """Run the pipeline and return the mask that each pass hands to the first block's attention."""
    masks = []

    def keep(_module: object, _arguments: object, keywords: dict[str, Any]) -> None:
        masks.append(keywords["encoder_hidden_states_mask"])

    handle = pipe.transformer.double_blocks[0].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        run(pipe, **arguments)
    finally:
        handle.remove()
    return masks


def test_mask_when_one_prompt_then_none(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joyimage.pipeline.guidance.MAX_BATCHED_TOKENS", 0)  # as for large images

    masks = attention_masks(
        pipe, images=[SQUARE, WIDE], negative_prompt="a much longer negative prompt", **SIZE
    )

    assert masks == [None] * 4


def test_mask_when_prompts_of_unlike_length_then_only_padding_is_shut_out(pipe: Any) -> None:
    arguments = {"images": [[SQUARE]] * 2, "prompt": [PROMPT, "blue"], "guidance_scale": 1.0, "seeds": (0, 1)}

    masks = attention_masks(pipe, **arguments, **SIZE)

    assert len(masks) == 2
    for mask in masks:
        assert mask is not None
        assert mask[0].all()
        assert not mask[1].all()


@pytest.mark.parametrize(
    ("images", "prompts"),
    [
        pytest.param([[SQUARE], [SQUARE]], [PROMPT, "blue"], id="prompts of different lengths"),
        pytest.param([[SQUARE, WIDE], [WIDE, SQUARE]], [PROMPT, "blue"], id="sizes in another order"),
        pytest.param([[SQUARE], [WIDE, SQUARE]], [PROMPT, "blue"], id="unlike number of references"),
    ],
)
def test_batch_when_samples_differ_then_same_as_single_runs(
    pipe: Any, images: list[list[Image.Image]], prompts: list[str]
) -> None:
    batch = run(pipe, seeds=(3, 4), images=images, prompt=prompts, **SIZE)

    for index, seed in enumerate((3, 4)):
        single = run(pipe, seeds=(seed,), images=images[index], prompt=prompts[index], **SIZE)
        assert np.abs(batch[index] - single[0]).max() < 1e-4


def test_several_images_when_two_prompts_then_each_belongs_to_its_prompt(pipe: Any) -> None:
    images, prompts = [[SQUARE], [WIDE, SQUARE]], [PROMPT, "blue"]

    batch = run(pipe, seeds=(1, 2, 3, 4), images=images, prompt=prompts, num_images_per_prompt=2, **SIZE)

    assert batch.shape == (4, SIZE["height"], SIZE["width"], 3)
    for output, (sample, seed) in enumerate([(0, 1), (0, 2), (1, 3), (1, 4)]):
        single = run(pipe, seeds=(seed,), images=images[sample], prompt=prompts[sample], **SIZE)
        assert np.abs(batch[output] - single[0]).max() < 1e-4


def test_flat_list_when_two_prompts_then_both_get_all_references(pipe: Any) -> None:
    flat = run(pipe, seeds=(1, 2), images=[SQUARE, WIDE], prompt=[PROMPT, "blue"], **SIZE)

    nested = run(pipe, seeds=(1, 2), images=[[SQUARE, WIDE]] * 2, prompt=[PROMPT, "blue"], **SIZE)
    assert np.array_equal(flat, nested)


def test_vae_when_references_are_equal_then_each_distinct_one_is_encoded_once(pipe: Any) -> None:
    encoded: list[int] = []
    handle = pipe.vae.quant_conv.register_forward_hook(lambda *_: encoded.append(1))

    try:
        run(pipe, seeds=(1, 2), images=[[SQUARE, WIDE], [WIDE.copy()]], prompt=[PROMPT, "blue"], **SIZE)
    finally:
        handle.remove()

    assert len(encoded) == 2


def test_output_when_latent_then_target_latents_as_edit_gives_them(pipe: Any) -> None:
    latents = run(pipe, images=[SQUARE, WIDE], output_type="latent", **SIZE)

    decoded = pipe.vae.decode(
        pipe.denormalize_latents(torch.from_numpy(latents).unsqueeze(2)), return_dict=False
    )[0]
    expected = (decoded[:, :, 0].permute(0, 2, 3, 1).numpy() / 2 + 0.5).clip(0, 1)
    assert latents.shape == (1, 16, SIZE["height"] // 8, SIZE["width"] // 8)
    assert np.abs(run(pipe, images=[SQUARE, WIDE], **SIZE) - expected).max() < 1e-4


def test_embeddings_when_given_then_same_as_prompt(pipe: Any) -> None:
    images = [random_models.make_image(0), random_models.make_image(1, 192, 320)]
    embeds, mask = pipe.encode_prompt_multiple_images(PROMPT, images=[images])
    negative_embeds, negative_mask = pipe.encode_prompt_multiple_images(" ", images=[images])
    given = {
        "prompt": None,
        "prompt_embeds": embeds,
        "prompt_embeds_mask": mask,
        "negative_prompt_embeds": negative_embeds,
        "negative_prompt_embeds_mask": negative_mask,
    }

    assert np.abs(run(pipe, images=images, **given) - run(pipe, images=images)).max() < 1e-4


def test_callback_when_asked_then_target_latents_and_both_embeddings(pipe: Any) -> None:
    shapes = {}

    def look(
        _pipe: object, _step: int, _timestep: object, tensors: dict[str, torch.Tensor]
    ) -> dict[str, Any]:
        shapes.update({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        return {}

    names = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    run(
        pipe,
        images=[SQUARE, WIDE],
        callback_on_step_end=look,
        callback_on_step_end_tensor_inputs=names,
        **SIZE,
    )

    assert list(shapes) == names
    assert shapes["prompt_embeds"][0] == shapes["negative_prompt_embeds"][0] == 1


def test_interrupt_when_set_then_loop_ends(pipe: Any) -> None:
    steps = []

    def stop(pipe: Any, step: int, _timestep: object, _tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        pipe._interrupt = True
        return {}

    run(pipe, images=[SQUARE, WIDE], num_inference_steps=4, callback_on_step_end=stop, **SIZE)

    assert steps == [0]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        pytest.param({"height": 208}, "width", id="height alone"),
        pytest.param({"height": 200, "width": 304}, "height", id="not divisible by 16"),
        pytest.param({"images": [[SQUARE]] * 3}, "images", id="more samples than prompts"),
        pytest.param({"images": "image.png"}, "images", id="a path"),
        pytest.param({"num_inference_steps": 0}, "num_inference_steps", id="no steps"),
        pytest.param({"negative_prompt": ["a", "b"]}, "negative_prompt", id="too many negative prompts"),
        pytest.param({"latents": torch.zeros(1, 16, 2, 2)}, "latents", id="latents of another size"),
        pytest.param({"prompt": None}, "prompt", id="no prompt"),
    ],
)
def test_arguments_when_wrong_then_rejected_by_name(pipe: Any, arguments: dict[str, Any], name: str) -> None:
    with pytest.raises((ValueError, TypeError), match=name):
        run(pipe, **{"images": [SQUARE, WIDE], **arguments})


def test_defaults_when_read_then_those_of_edit_plus(pipe: Any) -> None:
    import inspect

    defaults = {
        name: parameter.default for name, parameter in inspect.signature(pipe.__call__).parameters.items()
    }

    assert defaults["num_inference_steps"] == 30
    assert defaults["guidance_scale"] == 4.0
    assert defaults["num_images_per_prompt"] == 1
