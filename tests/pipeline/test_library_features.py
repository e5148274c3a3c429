"""What diffusers offers for every pipeline works on both of ours: callbacks, parts, caches, casting, saving."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.hooks.faster_cache import FasterCacheConfig
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
from diffusers.hooks.mag_cache import MagCacheConfig
from diffusers.hooks.pyramid_attention_broadcast import PyramidAttentionBroadcastConfig
from diffusers.hooks.taylorseer_cache import TaylorSeerCacheConfig

from joyimage.errors import InvalidInputError
from tests import random_models

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KINDS = ("edit", "plus")
STEPS = 4
IMAGE = random_models.make_image(0, 64, 64)


def make_pipe(kind: str) -> Any:
    pipe = random_models.make_plus_pipeline() if kind == "plus" else random_models.make_pipeline()
    pipe.register_to_config(base_size=64)
    return pipe


def call(pipe: Any, kind: str, **settings: Any) -> Any:
    inputs = {"images": [IMAGE]} if kind == "plus" else {"image": IMAGE}
    given = {
        "prompt": "blue",
        "num_inference_steps": STEPS,
        "guidance_scale": 3.0,
        "output_type": "np",
        "generator": torch.Generator().manual_seed(0),
        **settings,
    }
    return pipe(**inputs, **given)


def image_of(pipe: Any, kind: str, **settings: Any) -> np.ndarray:
    return np.asarray(call(pipe, kind, **settings).images)


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return {kind: image_of(make_pipe(kind), kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_output_when_a_tuple_is_asked_for_then_the_same_images(
    kind: str, expected: dict[str, np.ndarray]
) -> None:
    images = call(make_pipe(kind), kind, return_dict=False)[0]

    assert np.array_equal(np.asarray(images), expected[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_callback_when_it_lists_every_tensor_then_it_gets_them_at_every_step_and_they_are_used(
    kind: str, expected: dict[str, np.ndarray]
) -> None:
    pipe = make_pipe(kind)
    seen: list[tuple[int, set[str]]] = []

    def note(_pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append((step, {name for name, tensor in tensors.items() if tensor is not None}))
        return tensors

    names = list(pipe._callback_tensor_inputs)
    unchanged = image_of(pipe, kind, callback_on_step_end=note, callback_on_step_end_tensor_inputs=names)

    assert np.array_equal(unchanged, expected[kind])
    assert [step for step, _ in seen] == list(range(STEPS))
    assert all("latents" in tensors and tensors <= set(names) for _, tensors in seen)

    def clear(_pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": torch.zeros_like(tensors["latents"])} if step == STEPS - 1 else {}

    latents = call(
        pipe,
        kind,
        callback_on_step_end=clear,
        callback_on_step_end_tensor_inputs=["latents"],
        output_type="latent",
    ).images
    assert float(torch.as_tensor(np.asarray(latents)).abs().max()) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_callback_when_it_lists_an_unknown_tensor_then_rejected_by_name_before_work(kind: str) -> None:
    pipe = make_pipe(kind)
    pipe.transformer.forward = lambda *_, **__: pytest.fail("the transformer ran")

    with pytest.raises(InvalidInputError, match="nonsense"):
        call(
            pipe,
            kind,
            callback_on_step_end=lambda *_: {},
            callback_on_step_end_tensor_inputs=["nonsense"],
        )


@pytest.mark.parametrize("kind", KINDS)
def test_callbacks_when_several_are_given_as_one_then_all_act_in_turn(kind: str) -> None:
    calls: list[tuple[str, int]] = []

    class Note(PipelineCallback):
        @property
        def tensor_inputs(self) -> list[str]:
            return ["latents"]

        def __init__(self, name: str) -> None:
            super().__init__(cutoff_step_ratio=1.0)
            self.name = name

        def callback_fn(
            self, pipeline: Any, step_index: int, timesteps: Any, callback_kwargs: dict[str, Any]
        ) -> dict[str, Any]:
            calls.append((self.name, step_index))
            assert 0 < pipeline.num_timesteps == STEPS
            return callback_kwargs

    image_of(make_pipe(kind), kind, callback_on_step_end=MultiPipelineCallbacks([Note("a"), Note("b")]))

    assert calls == [(name, step) for step in range(STEPS) for name in "ab"]


CACHES: dict[str, Callable[[Any], Any]] = {
    "first block": lambda _pipe: FirstBlockCacheConfig(threshold=1e9),
    "mag": lambda _pipe: MagCacheConfig(num_inference_steps=STEPS, mag_ratios=[1.0] * STEPS),
    "taylorseer": lambda _pipe: TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=1),
    "pyramid": lambda pipe: PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 1001),
        current_timestep_callback=lambda: pipe.current_timestep,
    ),
    "faster": lambda pipe: FasterCacheConfig(
        is_guidance_distilled=True,
        spatial_attention_timestep_skip_range=(-1, 700),  # its first steps have to be computed
        current_timestep_callback=lambda: pipe.current_timestep,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CACHES)
def test_cache_when_enabled_and_disabled_then_it_acts_repeats_and_leaves_nothing(
    kind: str, name: str, expected: dict[str, np.ndarray]
) -> None:
    pipe = make_pipe(kind)

    pipe.transformer.enable_cache(CACHES[name](pipe))
    first, second = image_of(pipe, kind), image_of(pipe, kind)
    pipe.transformer.disable_cache()

    assert np.isfinite(first).all()
    assert not np.array_equal(first, expected[kind])
    assert np.array_equal(first, second)  # the second edit starts without states of the first
    assert np.abs(image_of(pipe, kind) - expected[kind]).max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_parts_when_handed_to_a_new_pipeline_then_the_same_images(
    kind: str, expected: dict[str, np.ndarray]
) -> None:
    pipe = make_pipe(kind)

    copies = {
        "components": type(pipe)(**pipe.components, base_size=64),
        "from_pipe": type(pipe).from_pipe(pipe),
    }

    for copy in copies.values():
        copy.set_progress_bar_config(disable=True)
        assert np.array_equal(image_of(copy, kind), expected[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype_when_the_pipeline_is_moved_then_images_stay_near(
    kind: str, dtype: torch.dtype, expected: dict[str, np.ndarray]
) -> None:
    pipe = make_pipe(kind).to(dtype)

    image = image_of(pipe, kind)

    assert pipe.transformer.dtype == dtype
    assert np.abs(image - expected[kind]).mean() < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_casting_and_offload_when_both_are_enabled_then_images_stay_near(
    kind: str, expected: dict[str, np.ndarray]
) -> None:
    pipe = make_pipe(kind)
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    pipe.enable_group_offload(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level"
    )

    first, second = image_of(pipe, kind), image_of(pipe, kind)

    assert np.array_equal(first, second)
    assert np.abs(first - expected[kind]).mean() < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_when_encoded_apart_then_the_same_images(kind: str) -> None:
    pipe = make_pipe(kind)
    embeds, mask = pipe.encode_prompt_multiple_images("blue", images=[IMAGE])
    negative, negative_mask = pipe.encode_prompt_multiple_images(" ", images=[IMAGE])

    image = image_of(
        pipe,
        kind,
        prompt=None,
        prompt_embeds=embeds,
        prompt_embeds_mask=mask,
        negative_prompt_embeds=negative,
        negative_prompt_embeds_mask=negative_mask,
    )

    assert np.abs(image - image_of(pipe, kind, negative_prompt=" ")).max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_save_pretrained_when_loaded_then_the_same_images(
    kind: str, tmp_path: Path, expected: dict[str, np.ndarray], checkpoint: Path, plus_checkpoint: Path
) -> None:
    from joyimage import JoyImageEditPipeline, JoyImageEditPlusPipeline

    cls = JoyImageEditPlusPipeline if kind == "plus" else JoyImageEditPipeline
    pipe = cls.from_pretrained(plus_checkpoint if kind == "plus" else checkpoint, base_size=64)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path)

    again = cls.from_pretrained(tmp_path)

    again.set_progress_bar_config(disable=True)
    assert again.config["base_size"] == 64
    assert np.array_equal(image_of(again, kind), image_of(pipe, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num", [1, 2])
def test_images_per_prompt_when_several_then_each_as_its_generator_alone(kind: str, num: int) -> None:
    pipe = make_pipe(kind)
    generators = [torch.Generator().manual_seed(seed) for seed in range(num)]

    together = image_of(pipe, kind, num_images_per_prompt=num, generator=generators)

    assert len(together) == num
    for seed, image in enumerate(together):
        alone = image_of(pipe, kind, generator=torch.Generator().manual_seed(seed))
        assert np.abs(alone[0] - image).max() < 1e-4
