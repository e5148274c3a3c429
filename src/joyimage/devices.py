"""Choose the device and precision of a pipeline, and turn what torch says about them into our errors."""

from __future__ import annotations

import functools
import gc
import re
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joyimage.errors import DeviceError, InvalidInputError, OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

DEVICE_TYPES = ("cuda", "xpu", "mps", "cpu")
"""Device types in the order in which they are preferred."""

DTYPES = ("float32", "float16", "bfloat16")
AUTO = "auto"
"""Stands for the precision that is fastest where the model runs; on a CPU it is measured."""
DTYPE_CHOICES = (*DTYPES, AUTO)
GPUS_CHOICES = (1, 2, 4, 8)
"""Numbers of devices that can share an edit: one, or one, two or four for each guidance branch."""
GUIDANCE, TENSOR = "guidance", "tensor"
GPU_LAYOUTS = (GUIDANCE, TENSOR)
"""How devices share an edit: each runs a guidance branch or a part of its tokens; or has a slice of the layers."""

CPU_PROCESSES = 2
"""Most processes that share an edit on a CPU: diffusers divides tokens between accelerators only."""

_SLOW = 3.0
"""How many times as long as in float32 a precision may take on the CPU before it is warned of."""

_CLEARLY_FASTER = 0.8
"""Share of float32's time below which bfloat16 is chosen on a CPU: less than that would not be worth its rounding."""

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


def check_device_name(device: str, argument: str = "device") -> None:
    """Reject what is not the name of a device on any machine, without torch.

    Args:
        device: Such as "cuda", "cuda:1", "mps" or "cpu".
        argument: What the message calls it.

    Raises:
        DeviceError: It is another kind of device, or has no valid index.
    """
    match = _DEVICE.fullmatch(device)
    if match is None or match["type"] not in DEVICE_TYPES:
        raise DeviceError(
            f"`{argument}` is {device!r}; expected {', '.join(DEVICE_TYPES)}, or with an index such as cuda:1."
        )


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
    if device is not None:
        check_device_name(str(device))
    counts = available_devices()
    requested = next(iter(counts)) if device is None else str(device)
    name, _, index = requested.partition(":")
    if name not in counts:
        raise DeviceError(
            f"`device` is {requested!r}, but {_why_missing(name)}. Devices of this machine: {_list(counts)}."
        )
    if index and int(index) >= counts[name]:
        raise DeviceError(
            f"`device` is {requested!r}, but this machine has {counts[name]} {name} device"
            f"{'s' if counts[name] > 1 else ''}. Devices of this machine: {_list(counts)}."
        )
    if not index and replica and name in {"cuda", "xpu"}:
        return f"{name}:{replica % counts[name]}"
    return requested


def choose_gpu_layout(layout: str | None) -> str:
    """Return how devices share an edit: as given, or each by its own guidance branch, the fastest.

    Args:
        layout: One of `GPU_LAYOUTS`; None where nothing was chosen.
    """
    return GUIDANCE if layout is None else layout


def check_gpus(num: int, device: str | None, layout: str = GUIDANCE) -> None:
    """Check that an edit can be shared by this many devices.

    Args:
        num: Number of devices.
        device: The requested device, without an index; None for the best one.
        layout: One of `GPU_LAYOUTS`.

    Raises:
        DeviceError: There are fewer devices.
        InvalidInputError: The number or the layout is not accepted, or the device has an index.
    """
    if num not in GPUS_CHOICES:
        raise InvalidInputError(f"`gpus` is {num}; expected {', '.join(map(str, GPUS_CHOICES))}.")
    if layout not in GPU_LAYOUTS:
        raise InvalidInputError(f"`gpu_layout` is {layout!r}; expected {', '.join(GPU_LAYOUTS)}.")
    if num == 1:
        if layout != GUIDANCE:
            raise InvalidInputError(
                f"`gpu_layout` is {layout!r}, which several devices share an edit by; give `gpus` too, such as 2."
            )
        return
    kind, _, index = (device or "").partition(":")
    if index:
        raise InvalidInputError(
            f"`gpus` is {num} and `device` is {device!r}, which is one; leave out its index."
        )
    counts = available_devices()
    kind = kind or next(iter(counts))
    if device is None and kind == "cpu":
        raise DeviceError(
            f"`gpus` is {num}, but torch sees no accelerator. `device` cpu shares each edit by processes on the CPU."
        )
    if kind == "cpu" and num > CPU_PROCESSES and layout == GUIDANCE:
        raise DeviceError(
            f"`gpus` is {num} and `device` is {device!r}, where at most {CPU_PROCESSES} processes can share an edit,"
            " one for each guidance branch."
        )
    if kind != "cpu" and counts.get(kind, 0) < num:
        raise DeviceError(f"`gpus` is {num}, but this machine has {counts.get(kind, 0)} {kind} devices.")


def choose_dtype(dtype: str | None, device: str) -> str:
    """Check a requested precision, or choose the usual one of a device.

    Args:
        dtype: One of `DTYPE_CHOICES`; float32 on the CPU and bfloat16 elsewhere if None.
        device: The device's name, such as "cuda:1".

    Returns:
        The name of a torch dtype.

    Raises:
        InvalidInputError: The precision is not one of `DTYPES`.
    """
    if dtype is None:
        return "float32" if device == "cpu" else "bfloat16"
    name = str(dtype).removeprefix("torch.")
    if name == AUTO:
        return fastest_dtype() if device == "cpu" else "bfloat16"
    if name not in DTYPES:
        raise InvalidInputError(f"`dtype` is {name!r}; expected {', '.join(DTYPE_CHOICES)}.")
    return name


@functools.cache
def fastest_dtype() -> str:
    """Measure whether the CPU computes what a model is made of faster in bfloat16 than in float32; takes 50 ms.

    Processors differ, and not by name: one multiplies matrices in bfloat16 and convolves number by number.

    Returns:
        "bfloat16" where it is clearly faster, else "float32".
    """
    is_faster = _seconds_of_block("bfloat16") < _CLEARLY_FASTER * _seconds_of_block("float32")
    return "bfloat16" if is_faster else "float32"


@functools.cache
def slowdown(dtype: str) -> float:
    """Measure how many times as long as in float32 the CPU takes for a matrix product.

    Processors without instructions for bfloat16 and float16 compute them one number at a time.

    Args:
        dtype: Name of a torch dtype.
    """
    return _seconds_of_product(dtype) / _seconds_of_product("float32")


def warn_if_slow(dtype: str, device: str) -> None:
    """Warn of a precision in which the CPU computes far slower than in float32."""
    if device == "cpu" and dtype != "float32" and (factor := slowdown(dtype)) > _SLOW:
        warnings.warn(
            f"In {dtype}, this processor takes {factor:.0f} times as long as in float32 (measured); leave out `dtype`"
            " to compute in float32.",
            stacklevel=3,
        )


def _seconds_of_product(dtype: str) -> float:
    import torch

    from joyimage.compat.torch import fastest_product

    left, right = (torch.ones(shape, dtype=getattr(torch, dtype)) for shape in ((256, 512), (512, 512)))
    seconds: list[float] = []
    for _ in range(4):  # the first one prepares
        started = time.perf_counter()
        fastest_product(left, right)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _seconds_of_block(dtype: str) -> float:
    """Return the CPU time of a matrix product, a convolution and attention, the shortest of some tries."""
    import torch
    from torch.nn import functional

    from joyimage.compat.torch import fastest_product

    precision = getattr(torch, dtype)
    tokens, weight = torch.ones(256, 512, dtype=precision), torch.ones(512, 512, dtype=precision)
    image, kernel = torch.ones(1, 32, 32, 32, dtype=precision), torch.ones(32, 32, 3, 3, dtype=precision)
    heads = torch.ones(1, 2, 256, 64, dtype=precision)
    calls = (
        lambda: fastest_product(tokens, weight),
        lambda: functional.conv2d(image, kernel, padding=1),
        lambda: functional.scaled_dot_product_attention(heads, heads, heads),
    )
    shortest = 0.0
    with torch.no_grad():
        for call in calls:
            seconds: list[float] = []
            for _ in range(6):  # the first one prepares
                # CPU time: other processes on a busy machine must not decide.
                started = time.process_time()
                call()
                seconds.append(time.process_time() - started)
            shortest += min(seconds)
    return shortest


@dataclass(frozen=True)
class FreeMemory:
    """Free memory in bytes.

    Attributes:
        device: Free memory of the device; 0 on the CPU.
        host: Free memory of the machine, or what is left of the control group that the process is in.
    """

    device: int
    host: int


def free_memory(device: torch.device) -> FreeMemory:
    """Return the free memory of a device and of the machine.

    Args:
        device: Such as "cuda:1".
    """
    import torch

    if device.type == "cuda":
        free = _free_cuda_memory(device)
    elif device.type == "xpu":
        free = torch.xpu.mem_get_info(device)[0]
    elif device.type == "mps":
        free = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    else:
        free = 0
    return FreeMemory(device=int(free), host=_free_host_memory())


def free_cached_memory(device: torch.device) -> None:
    """Return memory that torch keeps for later to the device, and collect what nothing refers to."""
    import torch

    gc.collect()
    if device.type in {"cuda", "xpu", "mps"}:
        getattr(torch, device.type).empty_cache()


def _free_cuda_memory(device: torch.device) -> int:
    """Return the free memory of a CUDA device, or what the limit of this process leaves if that is less."""
    import torch

    free, total = torch.cuda.mem_get_info(device)
    share_of = getattr(torch.cuda, "get_per_process_memory_fraction", None)  # not before torch 2.8
    share = share_of(device) if share_of is not None else 1.0
    return min(free, int(share * total) - torch.cuda.memory_reserved(device))


def _free_host_memory() -> int:
    """Return the free memory of the machine, or what a control group of this process leaves if that is less.

    The limit of a container or service is not seen in the machine's own numbers. Page cache counts as used in a
    group but is given back when memory is short, so it is counted as free.
    """
    import psutil

    free = psutil.virtual_memory().available
    for folder in _group_folders():
        for limit, used in _GROUP_FILES:
            try:
                limit_bytes = int((folder / limit).read_text())
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                cache = int(stat.get("total_cache", stat.get("file", 0)))
                free = min(free, limit_bytes - int((folder / used).read_text()) + cache)
            except (OSError, ValueError):  # no such group, or "max": no limit
                continue
    return max(free, 0)


_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUP_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Limit and use of a control group: version 2, version 1."""


def _group_folders() -> Iterator[Path]:
    """Yield the folders of the control groups that this process is in, each of which can limit its memory."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in {"", "memory"}:  # version 2 has no name here
            group = _GROUPS / controllers / path.strip("/")
            yield from (group, *(parent for parent in group.parents if parent.is_relative_to(_GROUPS)))


def as_out_of_memory(error: BaseException) -> OutOfMemoryError | None:
    """Return our error for one of torch or Python that says memory ran out, or None for any other error."""
    is_allocation = isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None
    )
    if not is_allocation:
        return None
    return OutOfMemoryError(
        "Out of memory. Try fewer images at once, a smaller size, `dtype` bfloat16, or `offload` model, block"
        " or disk; `joyimage doctor` shows what fits."
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
