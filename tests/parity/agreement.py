"""How far two implementations may differ, and how both are run on the same draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# Largest absolute difference, in fp32. One float's rounding is 6e-8 of its size; what differs between the
# implementations is the order of sums (matmul for Conv3d, one sequence for another), never a formula.
TOLERANCES = {
    "prompt embeddings": 1e-3,  # values reach 80 (states before the final norm), summed in three layers
    "reference latents": 2e-5,  # values reach 5; one VAE encoder with the same draws
    "latents of a step": 2e-4,  # values reach 5; two transformer passes, their difference times 4
    "decoded image": 2e-5,  # in [0, 1]; one VAE decoder on the same latents
    "image": 2e-4,  # in [0, 1]: 0.05 of an 8-bit step, after all stages and a few steps
}


def assert_agree(got: ArrayLike | torch.Tensor, expected: ArrayLike | torch.Tensor, stage: str) -> None:
    """Check that two arrays have one shape and differ by no more than the stage's tolerance."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    assert np.isfinite(got).all()
    difference = np.abs(got - expected).max()
    assert difference <= TOLERANCES[stage], (
        f"{stage}: differs by {difference:.1e}, allowed {TOLERANCES[stage]:.0e}"
    )


def run(pipe: Any, seed: int = 7, **arguments: Any) -> np.ndarray:
    """Run a pipeline with all draws from the global generator, as diffusers' reference latents always are."""
    torch.manual_seed(seed)
    settings = {"num_inference_steps": 3, "output_type": "np", **arguments}
    return np.asarray(pipe(**settings).images)
