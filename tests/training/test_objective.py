"""The flow-matching objective: straight paths, noise levels of the schedule, changes weigh more."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from joyimage.training.objective import add_noise, draw_sigmas, velocity_loss, weigh_changes


def test_add_noise_when_followed_back_along_the_velocity_then_ends_at_the_data() -> None:
    target = torch.randn(5, 3, 4, 4)

    noisy = add_noise(target, shift=3.0, shifted_share=0.75)

    recovered = noisy.latents - noisy.sigma.view(-1, 1, 1, 1) * noisy.velocity
    assert torch.allclose(recovered, target, atol=1e-5)
    assert len(set(noisy.sigma.tolist())) == 5


@given(shift=st.floats(1, 10), share=st.floats(0, 1))
def test_sigmas_when_drawn_then_lie_between_0_and_1(shift: float, share: float) -> None:
    sigmas = draw_sigmas(50, shift=shift, shifted_share=share, device=torch.device("cpu"))

    assert sigmas.shape == (50,)
    assert 0 <= sigmas.min() <= sigmas.max() <= 1


@pytest.mark.parametrize(("share", "mean"), [(0.0, 0.5), (1.0, 0.6479)])
def test_sigmas_when_many_then_their_mean_is_that_of_the_schedule(share: float, mean: float) -> None:
    torch.manual_seed(0)

    sigmas = draw_sigmas(100_000, shift=3.0, shifted_share=share, device=torch.device("cpu"))

    # Shift 3 maps u to 3u / (1 + 2u), whose mean over [0, 1] is 1.5 - 0.75 ln 3.
    expected = 1.5 - 0.75 * torch.tensor(3.0).log().item() if share else 0.5
    assert expected == pytest.approx(mean, abs=0.03)
    assert sigmas.mean().item() == pytest.approx(expected, abs=0.005)


def test_weights_when_one_cell_changes_then_it_weighs_more() -> None:
    source = torch.zeros(1, 2, 2, 2)
    target = source.clone()
    target[0, :, 1, 0] = 1

    weight = weigh_changes(source, target, threshold=0.2, extra=3.0)

    assert weight.tolist() == [[[[1, 1], [4, 1]]]]


def test_velocity_loss_when_only_one_cell_is_wrong_then_is_its_share_of_the_weight() -> None:
    expected = torch.zeros(1, 1, 1, 2)
    velocity = torch.tensor([[[[2.0, 0.0]]]], requires_grad=True)

    loss, mse = velocity_loss(velocity, expected, torch.tensor([[[[3.0, 1.0]]]]))

    assert loss.item() == pytest.approx(3 * 4 / 4)
    assert mse.item() == pytest.approx(2)
    assert not mse.requires_grad
    loss.backward()
    assert velocity.grad is not None
