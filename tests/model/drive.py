"""Inputs for a small transformer, and one way to run it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

TEXT_DIM = 48

# Largest difference relative to the size of the expected values, in fp32.
RELATIVE_TOLERANCES = {
    "forward": 1e-5,  # agreement of whole models: order of sums only
    "batch": 1e-5,  # a batch and its single runs: other shapes, other matmul kernels
    "gradients": 1e-5,  # with and without checkpointing: the same operations twice
    "adapter": 1e-5,  # fused weights: one matmul in place of three
}


def assert_close(got: Tensor, expected: Tensor, what: str) -> None:
    """Check shape, finiteness and relative difference."""
    assert got.shape == expected.shape
    assert torch.isfinite(got).all()
    difference, size = (got - expected).norm().item(), expected.norm().item()
    assert difference <= RELATIVE_TOLERANCES[what] * size, (
        f"{what}: differs by {difference:.1e} of {size:.1e}"
    )


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Draw a standard normal tensor."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(
    batch_size: int = 1,
    text_length: int = 7,
    size: tuple[int, int] = (4, 6),
    num_items: int = 2,
    seed: int = 0,
) -> dict[str, Any]:
    """Draw the arguments of one forward pass with items of one size."""
    return {
        "hidden_states": draw(batch_size, num_items, 16, 1, *size, seed=seed),
        "timestep": torch.linspace(700.0, 300.0, batch_size),
        "encoder_hidden_states": draw(batch_size, text_length, TEXT_DIM, seed=seed + 1),
    }


def list_inputs(
    sizes: Sequence[tuple[int, int]], batch_size: int = 1, text_length: int = 7
) -> dict[str, Any]:
    """Draw the arguments of one forward pass with items of different sizes, target last."""
    arguments = inputs(batch_size, text_length)
    arguments["hidden_states"] = [
        draw(batch_size, 16, 1, *size, seed=index) for index, size in enumerate(sizes)
    ]
    return arguments


def gradients_of(model: Any, arguments: dict[str, Any]) -> dict[str, Tensor]:
    """Return the gradients of one loss, by parameter name.

    The last block's text output goes nowhere, so what computes it alone has none.
    """
    model.requires_grad_(True)
    model.zero_grad()
    with torch.enable_grad():
        model(**arguments).sample.square().mean().backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
