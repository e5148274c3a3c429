"""Noise levels: diffusers' list, the original code's, or the caller's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

SCHEDULES = ("diffusers", "jd")


def set_schedule(
    scheduler: Any,
    num_inference_steps: int,
    device: torch.device,
    *,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    schedule: str = "diffusers",
) -> Tensor:
    """Set the scheduler's steps and return its timesteps.

    Args:
        scheduler: FlowMatchEuler.
        num_inference_steps: Number of steps without a list.
        device: Where the timesteps go.
        timesteps: Custom timesteps.
        sigmas: Custom noise levels, before the shift.
        schedule: "diffusers" takes FlowMatchEuler's own list, whose last step is nearly empty; "jd" the
            original code's shift(linspace(1, 0, N + 1)).

    Returns:
        Timesteps, `[steps]`.
    """
    if timesteps is not None:
        scheduler.set_timesteps(timesteps=list(timesteps), device=device)
    elif sigmas is not None:
        scheduler.set_timesteps(sigmas=list(sigmas), device=device)
    elif schedule == "jd":
        levels = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
        scheduler.set_timesteps(sigmas=levels.tolist(), device=device)
    else:
        scheduler.set_timesteps(num_inference_steps, device=device)
    return scheduler.timesteps
