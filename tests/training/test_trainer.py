"""A training stage: resumable to the bit, honest log, averaged weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from joyimage.errors import CheckpointError
from joyimage.training.optimizer import orthogonalize
from joyimage.training.trainer import StageSettings, averaged_weights, rate_factor, run_stage

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def make_settings(steps: int) -> StageSettings:
    return StageSettings(name="fit", steps=steps, muon_lr=0.02, adam_lr=1e-2, seed=3, save_every=2)


def train(run_path: Path, steps: int, width: int = 8) -> nn.Module:
    """Fit a small network to random targets, which are drawn anew in each step."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, width), nn.GELU(), nn.Linear(width, 4))

    def compute_loss(_step: int) -> tuple[Tensor, dict[str, float]]:
        inputs = torch.randn(16, 6)
        loss = (network(inputs) - inputs[:, :4].sin()).square().mean()
        return loss, {"mse": float(loss.detach())}

    run_stage(run_path, make_settings(steps), {"network": network}, compute_loss, progress=False)
    return network


def test_stage_when_stopped_and_resumed_then_same_as_unbroken(tmp_path: Path) -> None:
    (tmp_path / "unbroken").mkdir()
    (tmp_path / "broken").mkdir()
    expected = train(tmp_path / "unbroken", 8)

    class StopError(Exception):
        pass

    def stop_after(steps: int) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4))

        def compute_loss(step: int) -> tuple[Tensor, dict[str, float]]:
            if step == steps:
                raise StopError
            inputs = torch.randn(16, 6)
            return (network(inputs) - inputs[:, :4].sin()).square().mean(), {}

        with pytest.raises(StopError):
            run_stage(
                tmp_path / "broken", make_settings(8), {"network": network}, compute_loss, progress=False
            )

    stop_after(3)
    stop_after(5)
    got = train(tmp_path / "broken", 8)

    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, got.state_dict()[name]), name


def test_stage_when_done_then_modules_and_file_hold_the_average(tmp_path: Path) -> None:
    network = train(tmp_path, 6)

    average = averaged_weights(tmp_path, "fit", "network")

    assert set(average) == set(network.state_dict())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, average[name])
    assert not list(tmp_path.glob("*.partial"))


def test_stage_when_trained_then_loss_falls_and_log_is_json_lines(tmp_path: Path) -> None:
    train(tmp_path, 300)

    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [50, 100, 150, 200, 250, 300]
    assert {"stage", "loss", "lr_factor", "seconds", "mse"} <= set(entries[0])
    assert entries[-1]["loss"] < entries[0]["loss"] / 2


def test_stage_when_checkpoint_belongs_to_other_modules_then_rejected(tmp_path: Path) -> None:
    run_stage(
        tmp_path,
        make_settings(2),
        {"other": nn.Linear(3, 3)},
        lambda _step: (torch.zeros((), requires_grad=True) * 0, {}),
        progress=False,
    )

    with pytest.raises(CheckpointError, match=r"network\.0\.weight"):
        train(tmp_path, 4)


def test_stage_when_it_never_ran_then_its_weights_are_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="run the fit stage first"):
        averaged_weights(tmp_path, "fit", "network")


@given(steps=st.integers(100, 100_000), share=st.floats(0, 1))
def test_rate_when_any_step_then_between_0_and_1_and_falls_after_half(steps: int, share: float) -> None:
    step = min(int(share * steps), steps - 1)

    factor = rate_factor(step, steps)

    assert 0 < factor <= 1
    if step >= max(steps / 2, 50):
        assert factor == pytest.approx(2 * (1 - step / steps))


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 40), (2, 40, 8)])
def test_orthogonalize_when_random_matrices_then_singular_values_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    values = torch.linalg.svdvals(orthogonalize(matrices))

    assert values.min() > 0.3
    assert values.max() < 1.4
