"""Turbo adapters, measured: on the embedded checkpoint, and on one for which few steps lose much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from joyimage.compat.torch import has_fast_bf16
from scripts.turbo_table import Recipe, score, train_adapter
from scripts.undertrained import TASK, undertrain

if TYPE_CHECKING:
    from pathlib import Path

NUM_PER_ROW = 60
NUM_DRAWINGS = 150
DTYPE = "bfloat16" if has_fast_bf16(torch.device("cpu")) else "float32"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_adapter_when_trained_for_two_steps_then_as_good_as_sixteen_and_better_than_two_without_it(
    tmp_path: Path,
) -> None:
    recipe = Recipe(steps=160, pairs=40, guidance=3.0, dtype=DTYPE)
    adapter = train_adapter(tmp_path, "tiny", 2, recipe)

    few = score("tiny", NUM_PER_ROW, num_inference_steps=2, guidance_scale=1.0)
    turbo = score("tiny", NUM_PER_ROW, adapter)
    many = score("tiny", NUM_PER_ROW, num_inference_steps=16, guidance_scale=3.0)

    print("without", few, "with", turbo, "sixteen", many)  # noqa: T201 - for the docs
    assert turbo["mean"] >= many["mean"] - 0.02
    assert turbo["text-to-image"] > few["text-to-image"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_adapter_when_the_base_needs_guidance_then_four_steps_win_back_what_they_lost(tmp_path: Path) -> None:
    model = str(undertrain(tmp_path / "base"))
    recipe = Recipe(
        steps=40,
        pairs=300,
        drawings_share=1,
        tasks=(TASK,),
        teacher_steps=8,
        guidance=6.0,
        own_share=1.0,
        batch_size=16,
        dtype=DTYPE,
    )
    adapter = train_adapter(tmp_path / "turbo", model, 4, recipe)

    def share_done(adapter: Path | None = None, **call: Any) -> float:
        return score(model, NUM_DRAWINGS, adapter, tasks=(TASK,), **call)[TASK]

    few = share_done(num_inference_steps=4, guidance_scale=1.0)
    turbo = share_done(adapter)
    many = share_done(num_inference_steps=16, guidance_scale=6.0)

    print("without", few, "with", turbo, "sixteen", many)  # noqa: T201 - for the docs
    # The standard error of a difference of two such shares is .057 at most.
    assert many - few >= 0.15
    assert turbo - few >= 0.15
