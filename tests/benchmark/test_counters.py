"""The budgets on what an edit costs: exact numbers, the same on every machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from joyimage.benchmark.counters import EditCounts, budgets, count
from joyimage.benchmark.models import SCALED

Both = tuple[EditCounts, EditCounts]


@pytest.fixture(scope="module")
def both() -> Both:
    """Ours and diffusers' at the published sizes."""
    return count()


def test_bars_when_published_sizes_then_all_hold(both: Both) -> None:
    missed = [budget for budget in budgets(*both) if not budget.holds]

    assert missed == []


def test_reference_when_counted_then_as_worked_out_by_hand(both: Both) -> None:
    _, reference = both

    assert reference.encoder_tflop == pytest.approx(45.4, abs=0.1)
    assert reference.vae_encode_tflop == pytest.approx(7.4, abs=0.05)
    assert reference.vae_decode_tflop == pytest.approx(23.4, abs=0.05)
    assert reference.forward_tflop == pytest.approx(204.6, abs=0.1)
    assert reference.eager_block_gb == pytest.approx(8.15, abs=0.05)


def test_forward_when_summed_by_formula_then_counted_the_same(both: Both) -> None:
    tokens, text, width, layers = 8192 + 1040, 1040, 4096, 40
    block = 2 * tokens * 12 * width**2 + 4 * tokens**2 * width
    text_embedder, patches, head = 4 * text * width**2, 2 * 8192 * 64 * width, 2 * 8192 * 64 * width

    worked_out = (layers * block + text_embedder + patches + head) / 1e12

    # The negative prompt is seven tokens shorter, hence 0.1 % less than for two of 1,040.
    assert both[1].forward_tflop == pytest.approx(worked_out, rel=1e-3)


def test_passes_when_edit_has_two_prompts_then_image_is_read_and_decoded_once(both: Both) -> None:
    ours, reference = both

    assert (ours.vision_passes, reference.vision_passes) == (1, 2)
    assert (ours.vae_frames_decoded, reference.vae_frames_decoded) == (1, 2)
    assert ours.vae_frames_encoded == 1
    # 1,062 of system message and image; then 12 of the prompt and 5 of the empty one.
    assert (ours.encoder_tokens, reference.encoder_tokens) == (1062 + 12 + 5, 2 * 1062 + 12 + 5)
    assert ours.transformer_forwards == reference.transformer_forwards == 80


def test_loop_when_it_runs_then_nothing_goes_to_the_device_or_comes_from_it_in_any_step(both: Both) -> None:
    ours, reference = both

    assert (ours.first_step_copies, ours.first_step_syncs) == (0, 0)
    assert (ours.step_copies, ours.step_syncs, ours.step_host_tensors) == (0, 0, 0)
    # Two tables for each of 40 blocks, twice.
    assert reference.step_copies == 160
    assert reference.step_copy_mb == pytest.approx(2 * 335.5, abs=0.1)


def test_traffic_when_fused_then_less_than_operator_by_operator(both: Both) -> None:
    ours, reference = both

    assert ours.compiled_block_gb < ours.eager_block_gb < reference.eager_block_gb
    if ours.kernel_block_gb is not None:
        assert ours.kernel_block_gb < ours.compiled_block_gb


def test_count_when_no_block_is_between_first_and_last_then_rejected() -> None:
    with pytest.raises(ValueError, match="`layers` is 2"):
        count(replace(SCALED, num_layers=2))
