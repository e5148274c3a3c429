"""Which noise levels the steps visit."""

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Schedule = Literal["diffusers", "jd"]

SCHEDULES: tuple[Schedule, ...] = ("diffusers", "jd")
"""The scheduler's own list, whose last step is nearly empty, or the one of JD's original code."""


def set_schedule(
    scheduler: Any,  # noqa: ANN401 - any of diffusers' flow-matching schedulers
    num_inference_steps: int,
    *,
    device: torch.device,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    schedule: Schedule = "diffusers",
) -> Tensor:
    """Prepare the scheduler for one run.

    Args:
        scheduler: Changed in place.
        num_inference_steps: Used where no list is given.
        device: Where the times go.
        timesteps: Own scheduler times in (0, 1000].
        sigmas: Own noise levels in (0, 1], before the scheduler's shift.
        schedule: Used where no list is given.

    Returns:
        The scheduler's times, one per step.

    Raises:
        ValueError: The scheduler takes no such list.

    Source: "jd" is shift(linspace(1, 0, N + 1)) of JD's code.
    """
    if timesteps is None and sigmas is None:
        if schedule == "diffusers":
            scheduler.set_timesteps(num_inference_steps, device=device)
            return scheduler.timesteps
        sigmas = np.linspace(1, 1 / num_inference_steps, num_inference_steps).tolist()
    name, values = ("timesteps", timesteps) if sigmas is None else ("sigmas", sigmas)
    if name not in inspect.signature(scheduler.set_timesteps).parameters:
        raise ValueError(f"`{name}` can't be used with {type(scheduler).__name__}, which takes no list of them.")
    scheduler.set_timesteps(device=device, **{name: list(values or ())})
    return scheduler.timesteps
