"""Both guidance branches in one pass, where that is quicker, give what two passes give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
from diffusers.models.attention_dispatch import attention_backend

from tests import random_models

if TYPE_CHECKING:
    from collections.abc import Callable

SQUARE, WIDE = random_models.make_image(0, 64, 64), random_models.make_image(1, 48, 96)
STEPS = 2
NEVER, ALWAYS = 0, 10**9


def make_pipe() -> Any:
    pipe = random_models.make_pipeline()
    pipe.register_to_config(base_size=64)
    return pipe


def run(pipe: Any, seeds: tuple[int, ...] = (0,), **call: Any) -> tuple[torch.Tensor, list[int]]:
    """Run a guided edit and return its latents and the rows of each pass."""
    rows: list[int] = []
    handle = pipe.transformer.register_forward_pre_hook(
        lambda _module, _inputs, keywords: rows.append(len(keywords["encoder_hidden_states"])),
        with_kwargs=True,
    )
    settings = {
        "prompt": "make it blue",
        "num_inference_steps": STEPS,
        "guidance_scale": 4.0,
        "output_type": "latent",
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
    }
    try:
        return pipe(**{**settings, **call}).images, rows
    finally:
        handle.remove()


@pytest.mark.parametrize(
    "call",
    [
        pytest.param({"image": SQUARE}, id="edit"),
        pytest.param({"image": None, "height": 64, "width": 96}, id="text-to-image"),
        pytest.param({"image": SQUARE, "negative_prompt": "make it gray"}, id="texts of one length"),
        pytest.param({"image": SQUARE, "prompt": ["a", "make it all blue"], "seeds": (0, 1)}, id="prompts"),
        pytest.param({"image": SQUARE, "num_images_per_prompt": 2, "seeds": (0, 1)}, id="several outputs"),
    ],
)
def test_branches_when_in_one_pass_then_as_in_two(
    call: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = make_pipe()
    outputs = len(call.get("seeds", (0,)))
    monkeypatch.setattr("joyimage.pipeline.guidance.MAX_BATCHED_TOKENS", NEVER)
    expected, rows = run(pipe, **call)
    assert rows == [outputs] * 2 * STEPS
    monkeypatch.setattr("joyimage.pipeline.guidance.MAX_BATCHED_TOKENS", ALWAYS)

    latents, rows = run(pipe, **call)

    assert rows == [2 * outputs] * STEPS
    assert (latents - expected).abs().max() < 1e-4 * expected.abs().max()


def test_branches_when_references_are_unlike_then_one_pass_for_each_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe = random_models.make_plus_pipeline()
    call = {
        "images": [[SQUARE], [WIDE, SQUARE], [SQUARE]],
        "prompt": ["blue", "make the car red", "red"],
        "height": 64,
        "width": 96,
        "seeds": (0, 1, 2),
    }
    monkeypatch.setattr("joyimage.pipeline.guidance.MAX_BATCHED_TOKENS", NEVER)
    expected, rows = run(pipe, **call)
    assert rows == [2, 1, 2, 1] * STEPS
    monkeypatch.setattr("joyimage.pipeline.guidance.MAX_BATCHED_TOKENS", ALWAYS)

    latents, rows = run(pipe, **call)

    assert rows == [4, 2] * STEPS
    assert (latents - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(("size", "rows"), [(256, [2] * STEPS), (512, [1] * 2 * STEPS)])
def test_branches_when_image_is_small_or_large_then_one_pass_or_two(size: int, rows: list[int]) -> None:
    pipe = random_models.make_pipeline()
    pipe.register_to_config(base_size=size)

    assert run(pipe, image=SQUARE)[1] == rows


def group_offload(pipe: Any) -> None:
    pipe.transformer.enable_group_offload(
        onload_device=torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1
    )


@pytest.mark.parametrize(
    "offload",
    [
        pytest.param(group_offload, id="group"),
        pytest.param(lambda pipe: cpu_offload(pipe.transformer, torch.device("cpu")), id="sequential"),
    ],
)
def test_branches_when_blocks_are_streamed_then_each_comes_once_a_step(
    offload: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joyimage.pipeline.guidance.MAX_BATCHED_TOKENS", NEVER)
    expected, _ = run(make_pipe(), image=SQUARE)
    pipe = make_pipe()
    offload(pipe)

    latents, rows = run(pipe, image=SQUARE)

    assert rows == [2] * STEPS
    assert (latents - expected).abs().max() < 1e-4 * expected.abs().max()


def test_branches_when_whole_parts_are_offloaded_then_two_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joyimage.pipeline.guidance.MAX_BATCHED_TOKENS", NEVER)
    pipe = make_pipe()
    pipe.enable_model_cpu_offload(device="cpu:0")

    assert run(pipe, image=SQUARE)[1] == [1] * 2 * STEPS


def test_branches_when_a_step_cache_is_on_then_two_passes() -> None:
    pipe = make_pipe()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))

    assert run(pipe, image=SQUARE)[1] == [1] * 2 * STEPS


def test_branches_when_attention_may_not_take_masks_then_two_passes() -> None:
    pipe = make_pipe()

    with attention_backend("_native_math"):
        assert run(pipe, image=SQUARE)[1] == [1] * 2 * STEPS
    assert run(pipe, image=SQUARE)[1] == [2] * STEPS
