"""Choose the device and precision of a pipeline, and turn what torch says about them into our errors."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from joyimage.errors import DeviceError, InvalidInputError, OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Iterator

DEVICE_TYPES = ("cuda", "xpu", "mps", "cpu")
"""Device types in the order in which they are preferred."""

DTYPES = ("float32", "float16", "bfloat16")

_DEVICE = re.compile(r"(?P<type>[a-z]+)(?::(?P<index>\d{1,4}))?")
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|cannot allocate memory", re.IGNORECASE)


def available_devices() -> dict[str, int]:
    """Return the device types of this machine and how many devices each has, the preferred type first."""
    import torch

    counts = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "xpu": torch.xpu.device_count() if torch.xpu.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    return {name: count for name, count in counts.items() if count}


def choose_device(device: str | None = None, *, replica: int = 0) -> str:
    """Check a requested device, or choose the best one of this machine.

    Args:
        device: Such as "cuda", "cuda:1", "mps" or "cpu"; the first accelerator if None, else the CPU.
        replica: Number of the replica that the device is for: replicas on "cuda" or "xpu" without an index
            take the devices in turn.

    Returns:
        The device's name for `torch.device`.

    Raises:
        DeviceError: There is no such device on this machine.
    """
    counts = available_devices()
    requested = next(iter(counts)) if device is None else str(device)
    match = _DEVICE.fullmatch(requested)
    if match is None or match["type"] not in DEVICE_TYPES:
        raise DeviceError(
            f"`device` is {requested!r}; expected {', '.join(DEVICE_TYPES)}, or with an index such as cuda:1."
        )
    name, index = match["type"], match["index"]
    if name not in counts:
        raise DeviceError(
            f"`device` is {requested!r}, but {_why_missing(name)}. Devices of this machine: {_list(counts)}."
        )
    if index is not None and int(index) >= counts[name]:
        raise DeviceError(
            f"`device` is {requested!r}, but this machine has {counts[name]} {name} device"
            f"{'s' if counts[name] > 1 else ''}. Devices of this machine: {_list(counts)}."
        )
    if index is None and replica and name in {"cuda", "xpu"}:
        return f"{name}:{replica % counts[name]}"
    return requested


def choose_dtype(dtype: str | None, device: str) -> str:
    """Check a requested precision, or choose the usual one of a device.

    Args:
        dtype: One of `DTYPES`; float32 on the CPU and bfloat16 elsewhere if None.
        device: The device's name, such as "cuda:1".

    Returns:
        The name of a torch dtype.

    Raises:
        InvalidInputError: The precision is not one of `DTYPES`.
    """
    if dtype is None:
        return "float32" if device == "cpu" else "bfloat16"
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise InvalidInputError(f"`dtype` is {name!r}; expected {', '.join(DTYPES)}.")
    return name


def as_out_of_memory(error: BaseException) -> OutOfMemoryError | None:
    """Return our error for one of torch or Python that says memory ran out, or None for any other error."""
    is_allocation = isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None
    )
    if not is_allocation:
        return None
    return OutOfMemoryError(
        "Out of memory. Try fewer images at once, a smaller size, `dtype` bfloat16, or `offload` model or"
        " group; `joyimage doctor` shows what fits."
    )


@contextmanager
def typed_device_errors() -> Iterator[None]:
    """Raise `OutOfMemoryError` where torch or Python runs out of memory inside the block.

    Raises:
        OutOfMemoryError: Memory ran out.
        RuntimeError: Any other error of the block, unchanged.
        MemoryError: Never; it is raised as `OutOfMemoryError`.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        ours = as_out_of_memory(error)
        if ours is None:
            raise
        raise ours from error


def _why_missing(name: str) -> str:
    import torch

    if name == "cuda" and not torch.backends.cuda.is_built():
        return f"torch {torch.__version__} is built without CUDA"
    if name == "mps" and not torch.backends.mps.is_built():
        return f"torch {torch.__version__} is built without MPS"
    return f"torch finds no {name} device"


def _list(counts: dict[str, int]) -> str:
    shown: list[Any] = [
        name if count == 1 else f"{name}:0 to {name}:{count - 1}" for name, count in counts.items()
    ]
    return ", ".join(shown)
