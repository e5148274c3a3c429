"""diffusers' step caches: they find the blocks, reuse something, and never mix the guidance branches up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers.hooks.faster_cache import FasterCacheConfig
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
from diffusers.hooks.layer_skip import LayerSkipConfig, apply_layer_skip
from diffusers.hooks.mag_cache import MagCacheConfig
from diffusers.hooks.pyramid_attention_broadcast import PyramidAttentionBroadcastConfig
from diffusers.hooks.sea_cache import SeaCacheConfig
from diffusers.hooks.taylorseer_cache import TaylorSeerCacheConfig
from diffusers.hooks.text_kv_cache import TextKVCacheConfig

from tests import random_models
from tests.model.drive import assert_close, draw, inputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

NUM_STEPS = 6
BRANCHES = {
    "cond": 5,
    "uncond": 9,
}  # texts of different lengths: one branch's states don't even fit the other's


clock = {"timestep": 0}


def now() -> int:
    """Return the time of the step that runs, as `pipe.current_timestep` does."""
    return clock["timestep"]


CACHES: dict[str, Callable[[], Any]] = {
    "first block": lambda: FirstBlockCacheConfig(threshold=10.0),
    "mag": lambda: MagCacheConfig(num_inference_steps=NUM_STEPS, mag_ratios=[1.0] * NUM_STEPS),
    "taylorseer": lambda: TaylorSeerCacheConfig(cache_interval=3, disable_cache_before_step=2),
    "taylorseer lite": lambda: TaylorSeerCacheConfig(
        cache_interval=3, disable_cache_before_step=2, use_lite_mode=True
    ),
    "sea": lambda: SeaCacheConfig(threshold=10.0),
    "pyramid": lambda: PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=now
    ),
    "pyramid, our name": lambda: PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_block_identifiers=("double_blocks",),
        current_timestep_callback=now,
    ),
    "faster": lambda: FasterCacheConfig(is_guidance_distilled=True, current_timestep_callback=now),
    "faster, guided": lambda: FasterCacheConfig(current_timestep_callback=now),
}


@torch.no_grad()
def denoise(model: Any, branches: dict[str, int]) -> dict[str, list[Tensor]]:
    """Run steps whose latents move a little, in all branches given, and return their velocities."""
    velocities: dict[str, list[Tensor]] = {name: [] for name in branches}
    start, drift = draw(1, 2, 16, 1, 4, 6), draw(1, 2, 16, 1, 4, 6, seed=1)
    for step in range(NUM_STEPS):
        clock["timestep"] = 900 if step == 0 else 600 - 10 * step
        for name, text_length in branches.items():
            arguments = inputs(text_length=text_length, seed=text_length)
            arguments["hidden_states"] = start + 0.02 * step * drift
            arguments["timestep"] = torch.tensor([float(now())])
            sigma = 0.6 - 0.01 * step
            with model.cache_context(name, step_index=step, sigma=sigma, num_inference_steps=NUM_STEPS):
                velocities[name].append(model(**arguments).sample)
    return velocities


@pytest.mark.parametrize("name", CACHES)
def test_cache_when_branches_alternate_then_each_is_as_if_alone(name: str) -> None:
    together = random_models.make_transformer(num_layers=3)
    together.enable_cache(CACHES[name]())
    both = denoise(together, BRANCHES)

    for branch, text_length in BRANCHES.items():
        alone = random_models.make_transformer(num_layers=3)
        alone.enable_cache(CACHES[name]())
        single = denoise(alone, {branch: text_length})[branch]
        assert all(torch.equal(got, expected) for got, expected in zip(both[branch], single, strict=True))


@pytest.mark.parametrize("name", CACHES)
def test_cache_when_enabled_then_attention_runs_less_often(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from joyimage.model import attention

    calls: list[str] = []
    attend = attention.attend
    monkeypatch.setattr(
        attention, "attend", lambda *args, **kwargs: (calls.append(""), attend(*args, **kwargs))[1]
    )
    model = random_models.make_transformer(num_layers=3)
    exact = denoise(model, BRANCHES)
    num_exact_calls = len(calls)
    calls.clear()

    model.enable_cache(CACHES[name]())
    cached = denoise(model, BRANCHES)

    assert num_exact_calls == 3 * NUM_STEPS * 2
    assert len(BRANCHES) * 3 <= len(calls) < num_exact_calls
    for branch in BRANCHES:
        assert torch.equal(cached[branch][0], exact[branch][0])
        # Reused velocities reach the output; SeaCache's last step is exact, so not in every step.
        reused = [not torch.equal(*pair) for pair in zip(cached[branch], exact[branch], strict=True)]
        assert any(reused)
        assert reused[-1] or name == "sea"
        assert all(torch.isfinite(velocity).all() for velocity in cached[branch])


@pytest.mark.parametrize("name", CACHES)
def test_cache_when_disabled_then_exact_again(name: str) -> None:
    model = random_models.make_transformer(num_layers=3)
    exact = denoise(model, BRANCHES)
    model.enable_cache(CACHES[name]())
    denoise(model, BRANCHES)

    model.disable_cache()

    again = denoise(model, BRANCHES)
    for branch in BRANCHES:
        assert all(
            torch.equal(got, expected) for got, expected in zip(again[branch], exact[branch], strict=True)
        )
    assert [name for name, _ in model.named_children() if "blocks" in name] == ["double_blocks"]


@pytest.mark.parametrize("name", CACHES)
def test_cache_when_reset_between_runs_then_a_second_run_equals_the_first(name: str) -> None:
    model = random_models.make_transformer(num_layers=3)
    model.enable_cache(CACHES[name]())
    first = denoise(model, BRANCHES)

    model._reset_stateful_cache()  # what diffusers' pipelines do at the end of a call

    second = denoise(model, BRANCHES)
    for branch in BRANCHES:
        assert all(
            torch.equal(got, expected) for got, expected in zip(second[branch], first[branch], strict=True)
        )


@torch.no_grad()
def test_cache_when_no_context_is_given_then_runs() -> None:
    model = random_models.make_transformer()
    expected = model(**inputs()).sample
    model.enable_cache(CACHES["pyramid"]())

    got = [model(**inputs()).sample for _ in range(3)]

    assert_close(got[2], expected, "forward")


def test_cache_when_it_has_nothing_to_hold_then_value_error() -> None:
    with pytest.raises(ValueError, match="TextKVCacheConfig"):
        random_models.make_transformer().enable_cache(TextKVCacheConfig())


@torch.no_grad()
def test_layer_skip_when_all_attention_is_skipped_then_references_have_no_say() -> None:
    model = random_models.make_transformer()
    config = LayerSkipConfig(indices=[0, 1], fqn="double_blocks", skip_attention=True, skip_ff=False)
    apply_layer_skip(model, config)
    arguments = inputs()
    changed = {**arguments, "hidden_states": arguments["hidden_states"].clone()}
    changed["hidden_states"][:, 0] += 1

    target, other_target = (model(**given).sample[:, -1] for given in (arguments, changed))

    assert torch.equal(target, other_target)
