"""Speed presets: what each leaves out, that outputs decide for themselves, and that "exact" changes nothing."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig

from joyimage.acceleration import report
from joyimage.acceleration.presets import PRESETS, SpeedPreset
from joyimage.edits.parts import SPEEDS
from joyimage.errors import InvalidInputError
from joyimage.pipeline.guidance import combine
from tests import random_models

SQUARE, WIDE = random_models.make_image(0, 64, 64), random_models.make_image(1, 48, 96)
STEPS = 8
REUSE_ALL = SpeedPreset(threshold=1e9, max_reused_steps=2)


@pytest.fixture(scope="module")
def pipe() -> Any:
    """An edit pipeline with random weights."""
    pipe = random_models.make_pipeline()
    pipe.register_to_config(base_size=64)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def plus() -> Any:
    """An Edit-Plus pipeline with random weights."""
    pipe = random_models.make_plus_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe: Any, seeds: tuple[int, ...] = (0,), **call: Any) -> torch.Tensor:
    """Run a guided edit and return its latents."""
    name = "images" if pipe.takes_several_images else "image"
    settings = {
        name: [SQUARE],
        "prompt": "make it blue",
        "num_inference_steps": STEPS,
        "guidance_scale": 4.0,
        "output_type": "latent",
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
    }
    return pipe(**{**settings, **call}).images


def count(pipe: Any, **call: Any) -> tuple[list[str], torch.Tensor]:
    """Run an edit; return the cache context of each forward that computed the last block, and the latents."""
    found: list[str] = []
    plain = pipe.transformer.cache_context
    current = [""]

    def context(name: str, **position: Any) -> Any:
        current[0] = name
        return plain(name, **position)

    block = pipe.transformer.double_blocks[-1].attn
    handle = block.register_forward_hook(lambda *_: found.append(current[0]))
    pipe.transformer.cache_context = context
    try:
        return found, run(pipe, **call)
    finally:
        handle.remove()
        del pipe.transformer.cache_context


def use(pipe: Any, monkeypatch: pytest.MonkeyPatch, preset: SpeedPreset) -> None:
    monkeypatch.setattr(pipe, "speed_presets", {**PRESETS, "fast": preset})


def test_names_when_listed_then_edits_offer_all_presets_and_turbo() -> None:
    assert (*PRESETS, "turbo") == SPEEDS


@pytest.mark.parametrize("name", ["pipe", "plus"])
def test_speed_when_exact_then_bitwise_as_not_given(name: str, request: pytest.FixtureRequest) -> None:
    pipe = request.getfixturevalue(name)

    assert torch.equal(run(pipe, speed="exact"), run(pipe))


def test_speed_when_a_preset_has_run_then_the_next_exact_edit_is_bitwise_as_before(pipe: Any) -> None:
    before = run(pipe)

    changed = run(pipe, speed="fast")

    assert not torch.equal(changed, before)
    assert torch.equal(run(pipe), before)
    assert not pipe.transformer.is_cache_enabled


def test_preset_when_nothing_is_reused_then_as_exact(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use(pipe, monkeypatch, SpeedPreset(threshold=0.0))

    exact, found = run(pipe), run(pipe, speed="fast")

    assert (found - exact).abs().max() < 1e-4 * exact.abs().max()


def test_preset_when_steps_are_reused_then_both_branches_compute_in_the_same_steps(
    pipe: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use(pipe, monkeypatch, REUSE_ALL)

    with caplog.at_level(logging.WARNING):
        contexts, _ = count(pipe, speed="fast")

    # Of 8 steps: the first, then one after two that reuse it, and the last.
    assert contexts == ["cond", "uncond"] * 4
    assert not caplog.records


def test_preset_when_guidance_has_an_interval_then_the_unconditional_branch_runs_in_it_alone(
    pipe: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use(pipe, monkeypatch, SpeedPreset(guidance_sigmas=(0.2, 0.8)))

    contexts, _ = count(pipe, speed="fast")

    sigmas = pipe.scheduler.sigmas[:-1]
    guided = int(((sigmas >= 0.2) & (sigmas <= 0.8)).sum())
    assert 0 < guided < STEPS
    assert len(contexts) == STEPS  # one forward each, of one or two branches
    use(pipe, monkeypatch, replace(REUSE_ALL, guidance_sigmas=(0.2, 0.8)))
    with caplog.at_level(logging.WARNING):
        contexts, _ = count(pipe, speed="fast")
    # The unconditional branch computes when it starts, though the conditional one reuses in that step.
    assert contexts.count("cond") == 4
    assert contexts.count("uncond") >= 2
    assert not caplog.records


def test_preset_when_the_unconditional_branch_skips_steps_then_its_difference_stays(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joyimage.pipeline.guidance.MAX_BATCHED_TOKENS", 0)
    use(pipe, monkeypatch, SpeedPreset(guidance_period=3))
    velocities: list[torch.Tensor] = []
    taken: list[torch.Tensor] = []
    handle = pipe.transformer.register_forward_hook(lambda _m, _i, found: velocities.append(found[0]))
    step = pipe.scheduler.step
    monkeypatch.setattr(pipe.scheduler, "step", lambda v, *a, **k: taken.append(v) or step(v, *a, **k))

    contexts, _ = count(pipe, speed="fast")

    handle.remove()
    assert contexts == ["cond", "uncond", "cond", "cond"] * 2 + ["cond", "uncond", "cond"]
    difference = velocities[0] - velocities[1]
    for number, cond in ((1, velocities[2]), (2, velocities[3])):
        expected = combine(cond[:, None], (cond - difference)[:, None], 4.0)
        assert torch.equal(taken[number], expected)


@pytest.mark.parametrize("name", ["pipe", "plus"])
def test_preset_when_outputs_share_a_call_then_each_as_in_a_call_of_its_own(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = request.getfixturevalue(name)
    use(pipe, monkeypatch, SpeedPreset(threshold=0.15, max_reused_steps=3))
    prompts = ["make it blue", "a red car in the snow"]

    batch = run(pipe, seeds=(0, 1), prompt=prompts, speed="fast")

    for seed, prompt in enumerate(prompts):
        single = run(pipe, seeds=(seed,), prompt=[prompt], speed="fast")
        assert (batch[seed] - single[0]).abs().max() < 1e-4 * single.abs().max()


def test_preset_when_guidance_is_off_then_runs_without_a_second_branch(pipe: Any) -> None:
    contexts, latents = count(pipe, speed="balanced", guidance_scale=1.0)

    assert set(contexts) == {"cond"}
    assert latents.isfinite().all()


def test_preset_when_a_callback_ends_guidance_then_the_rest_runs_without(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(pipe, monkeypatch, REUSE_ALL)

    def stop(pipe: Any, step: int, _time: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 3:
            pipe._guidance_scale = 1.0
        return {}

    contexts, _ = count(pipe, speed="fast", callback_on_step_end=stop)

    assert contexts == ["cond", "uncond", "cond", "uncond", "cond", "cond"]


def test_preset_when_an_edit_is_interrupted_then_the_next_one_starts_anew(pipe: Any) -> None:
    expected = run(pipe, speed="fast")

    def stop(pipe: Any, *_: Any) -> dict[str, Any]:
        pipe._interrupt = True
        return {}

    run(pipe, speed="fast", callback_on_step_end=stop)

    assert torch.equal(run(pipe, speed="fast"), expected)


def test_report_when_a_preset_has_run_then_names_it_and_what_it_leaves_out(pipe: Any) -> None:
    run(pipe, speed="balanced")

    shown = report(pipe).speed

    assert shown is not None
    assert shown.startswith("balanced (SeaCache with threshold")
    run(pipe)
    assert report(pipe).speed == "exact (all blocks in every step)"


@pytest.mark.parametrize(
    ("speed", "message"),
    [
        ("turbo", r"`speed` is \"turbo\", which needs a turbo adapter, and none is active"),
        ("quick", r"`speed` is 'quick'; expected one of exact, balanced, fast, turbo"),
    ],
)
def test_speed_when_the_model_has_no_such_preset_then_rejected_before_any_work(
    pipe: Any, speed: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe.text_encoder, "forward", None)

    with pytest.raises(InvalidInputError, match=message):
        run(pipe, speed=speed)


def test_speed_when_the_caller_has_a_step_cache_then_rejected_and_the_cache_stays(pipe: Any) -> None:
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    try:
        with pytest.raises(InvalidInputError, match="FirstBlockCacheConfig enabled; call"):
            run(pipe, speed="balanced")
        assert pipe.transformer.is_cache_enabled
        run(pipe)
    finally:
        pipe.transformer.disable_cache()
