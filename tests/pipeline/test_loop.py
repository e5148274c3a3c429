"""What enters the loop and what its guidance makes of it: noise, forwards, precision, order, step caches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
from diffusers.utils.torch_utils import randn_tensor

from joyimage.pipeline.guidance import combine
from tests import random_models

SQUARE, WIDE = random_models.make_image(0, 64, 64), random_models.make_image(1, 48, 96)
STEPS = 2
LATENT = (1, 1, 16, 1, 8, 8)


def make_pipe() -> Any:
    pipe = random_models.make_pipeline()
    pipe.register_to_config(base_size=64)
    return pipe


def run(pipe: Any, seeds: tuple[int, ...] = (0,), **call: Any) -> torch.Tensor:
    """Run a guided edit and return its latents."""
    settings = {
        "prompt": "make it blue",
        "num_inference_steps": STEPS,
        "guidance_scale": 4.0,
        "output_type": "latent",
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
    }
    return pipe(**{**settings, **call}).images


def forwards_of(pipe: Any, **call: Any) -> list[tuple[dict[str, Any], torch.Tensor]]:
    """Run an edit and return arguments and velocity of each of the transformer's forwards."""
    forwards: list[tuple[dict[str, Any], torch.Tensor]] = []
    handle = pipe.transformer.register_forward_hook(
        lambda _module, _inputs, keywords, result: forwards.append((keywords, result[0])), with_kwargs=True
    )
    try:
        run(pipe, **call)
    finally:
        handle.remove()
    return forwards


@pytest.mark.parametrize("reference_latents", ["sample", "mode"])
def test_noise_when_a_generator_is_given_then_its_first_draw(reference_latents: str) -> None:
    arguments, _ = forwards_of(
        make_pipe(),
        image=SQUARE,
        generator=torch.Generator().manual_seed(7),
        reference_latents=reference_latents,
    )[0]

    expected = randn_tensor(LATENT, generator=torch.Generator().manual_seed(7))[:, 0]
    for target in arguments["hidden_states"][-1].chunk(2):
        assert torch.equal(target, expected)


@pytest.mark.parametrize(
    ("returned", "error", "words"),
    [
        (5, TypeError, "5; expected a dict"),
        ({"latents": None}, TypeError, "`latents` of type NoneType"),
        ({"latents": torch.zeros(1)}, ValueError, r"`latents` of shape \[1\]; expected \[1, 2, 16"),
    ],
    ids=["number", "none", "shape"],
)
def test_callback_when_it_returns_something_else_then_rejected_by_name(
    returned: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=f"`callback_on_step_end` returned {words}"):
        forwards_of(make_pipe(), image=SQUARE, callback_on_step_end=lambda *_: returned)


@pytest.mark.parametrize(("guidance_scale", "rows"), [(0.0, 1), (1.0, 1), (1.01, 2)])
def test_guidance_when_at_most_1_then_no_negative_rows(guidance_scale: float, rows: int) -> None:
    forwards = forwards_of(make_pipe(), image=SQUARE, guidance_scale=guidance_scale)

    assert [len(arguments["encoder_hidden_states"]) for arguments, _ in forwards] == [rows] * STEPS


def test_batch_when_references_are_of_kinds_a_b_b_a_then_same_as_single_runs() -> None:
    pipe = random_models.make_plus_pipeline()
    images = [[SQUARE], [WIDE, SQUARE], [WIDE, SQUARE], [SQUARE]]
    prompts = ["blue", "make the car red", "red", "green"]
    size = {"height": 64, "width": 96}

    batch = run(pipe, seeds=(0, 1, 2, 3), images=images, prompt=prompts, **size)

    for seed, (given, prompt) in enumerate(zip(images, prompts, strict=True)):
        single = run(pipe, seeds=(seed,), images=[given], prompt=[prompt], **size)
        assert (batch[seed] - single[0]).abs().max() < 1e-4 * single.abs().max()


def test_guidance_when_latents_are_float32_on_a_bf16_model_then_combined_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("joyimage.pipeline.guidance.MAX_BATCHED_TOKENS", 0)  # one forward for each branch
    pipe = make_pipe().to(torch.bfloat16)
    steps: list[torch.Tensor] = []
    plain_step = pipe.scheduler.step

    def step(velocity: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        steps.append(velocity)
        return plain_step(velocity, *arguments, **keywords)

    monkeypatch.setattr(pipe.scheduler, "step", step)

    forwards = forwards_of(pipe, image=SQUARE, latents_dtype="float32")

    velocities = [velocity.unsqueeze(1) for _, velocity in forwards]
    assert {velocity.dtype for velocity in velocities} == {torch.bfloat16}
    for number, taken in enumerate(steps):
        cond, uncond = velocities[2 * number : 2 * number + 2]
        assert torch.equal(taken, combine(cond.float(), uncond.float(), 4.0))
        assert not torch.equal(taken, combine(cond, uncond, 4.0).float())


def test_guidance_when_a_step_cache_acts_then_each_branch_as_alone() -> None:
    """A cache that skips blocks reuses the states of its own branch, whose text is of another length."""
    always_reuse = FirstBlockCacheConfig(threshold=1e9)
    pipe = make_pipe()
    pipe.transformer.enable_cache(always_reuse)
    last_block: list[int] = []
    pipe.transformer.double_blocks[-1].attn.register_forward_hook(lambda *_: last_block.append(1))

    forwards = forwards_of(pipe, image=SQUARE, negative_prompt="a much longer negative prompt than that")

    assert len(forwards) == 2 * STEPS
    assert len(last_block) == 2  # once a branch: the second step is the cache's
    for number in range(2):
        alone = random_models.make_transformer()
        alone.load_state_dict(pipe.transformer.state_dict())
        alone.enable_cache(always_reuse)
        with torch.no_grad(), alone.cache_context("alone"):
            for arguments, velocity in forwards[number::2]:
                again = alone(**{**arguments, "plan": None})[0]
                assert (again - velocity).abs().max() < 1e-5 * velocity.abs().max()
