"""What an error of a device means: too little memory, a broken device, or neither."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
_FATAL = (
    "cuda error",
    "hip error",
    "device-side assert",
    "cublas_status_execution_failed",
    "cudnn_status_execution_failed",
    "nccl error",
    "level zero error",
    "ur error",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on a device or in the process."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(sign in str(error).lower() for sign in _NO_MEMORY)


def is_fatal(error: BaseException) -> bool:
    """Return whether a device stays broken until its process ends; CUDA repeats such an error."""
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _FATAL)


def computes(device: torch.device) -> bool:
    """Return whether a device still computes: after an unknown error, broken ones fail at whatever they are given."""
    import torch

    try:
        return torch.ones(8, device=device).sum().item() == 8
    except Exception as error:  # noqa: BLE001 - whatever a broken device raises
        # Memory that ran out is no sign of one.
        return is_out_of_memory(error)
