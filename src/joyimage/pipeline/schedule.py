"""Noise levels: diffusers' list, the original code's, or the caller's."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import torch
    from torch import Tensor

SCHEDULES = ("diffusers", "jd")
TURBO_SCHEDULE = "jd"
"""Schedule of turbo adapters: none of its steps is nearly empty, as the last one of diffusers' list is."""


class Scheduler(Protocol):
    """What the loop needs of a flow-matching scheduler of diffusers.

    Attributes:
        timesteps: Timesteps of the running call, `[steps]`.
        sigmas: Noise levels of the running call, `[steps + 1]`; the last one is 0.
    """

    timesteps: Tensor
    sigmas: Tensor

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: torch.device | None = None, **levels: Any
    ) -> None:
        """Set the steps of a call."""
        ...

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start at a step, so that the first one is not searched for."""
        ...

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, *, return_dict: bool
    ) -> tuple[Tensor, ...]:
        """Return the latents after a step, the only element of a tuple."""
        ...


@contextmanager
def shifted(scheduler: Scheduler, shift: float | None) -> Generator[None]:
    """Give the noise levels another shift inside the `with`.

    Args:
        scheduler: The pipeline's scheduler.
        shift: The shift; None changes nothing.

    Raises:
        InvalidInputError: The scheduler has no shift that can be set.
    """
    own: Any = scheduler
    before = getattr(own, "shift", None)
    if shift is None or shift == before:
        yield
        return
    if before is None or not hasattr(own, "set_shift"):
        raise InvalidInputError(
            f"The active turbo adapter sets the shift {shift:g}, which `scheduler`, a {type(own).__name__}, does not "
            "take; expected FlowMatchEulerDiscreteScheduler."
        )
    own.set_shift(shift)
    try:
        yield
    finally:
        own.set_shift(before)


def set_schedule(
    scheduler: Scheduler,
    num_inference_steps: int,
    device: torch.device,
    *,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    schedule: str = "diffusers",
) -> Tensor:
    """Set the scheduler's steps and return its timesteps.

    Args:
        scheduler: The pipeline's scheduler.
        num_inference_steps: Number of steps, where neither `timesteps` nor `sigmas` is given.
        device: Device of the timesteps.
        timesteps: Custom timesteps.
        sigmas: Custom noise levels, before the shift.
        schedule: "diffusers" uses FlowMatchEuler's own list, whose last step is nearly empty; "jd" the
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
