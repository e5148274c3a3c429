"""`joyimage doctor`: what this machine has, what fits on it, and which command to use."""

from __future__ import annotations

import dataclasses
import functools
import json as json_format
import os
import platform
import shutil
import sys
import textwrap
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from joyimage import __version__
from joyimage.devices import available_devices
from joyimage.errors import JoyImageError, OutOfMemoryError

if TYPE_CHECKING:
    from joyimage.acceleration.plans import Machine, MemoryPlan, PipelineSize

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "pillow", "numpy")
_EDIT = "joyimage edit IMAGE PROMPT -o OUTPUT"
_MBIT_PER_SECOND = (100, 1000)


def doctor(*, json: Annotated[bool, Parameter(negative=[])] = False) -> None:
    """Show device, memory and versions, what fits, and which settings to use.

    Args:
        json: Print the report as JSON.
    """
    report = examine()
    if json:
        print(json_format.dumps(report))
        return
    width = max(map(len, report))
    for name, value in report.items():
        show = {"acceleration": _acceleration_lines, "download": _download_lines}.get(name)
        print(f"{name:<{width}}  {_shown(value) if show is None else show(value, width)}")


def examine() -> dict[str, Any]:
    """Return what `joyimage doctor` prints; sizes are in GB of 10^9 bytes."""
    import psutil

    device, name, total_gb, free_gb = _accelerator()
    memory = psutil.virtual_memory()
    fits, command = advise(device, free_gb, memory.available / 1e9)
    cache = _cache_folder()
    return {
        "joyimage": __version__,
        "python": sys.version.split()[0],
        "versions": {package: _version(package) for package in PACKAGES},
        "device": f"{device} ({name})",
        "devices": available_devices(),
        "device memory": {"total": round(total_gb, 1), "free": round(free_gb, 1)} if total_gb else None,
        "memory": {"total": round(memory.total / 1e9, 1), "free": round(memory.available / 1e9, 1)},
        "disk": {"cache": str(cache), "free": round(shutil.disk_usage(_existing(cache)).free / 1e9, 1)},
        "download": _downloads(),
        "cores": os.cpu_count(),
        "acceleration": _acceleration(),
        "fits": fits,
        "use": command,
    }


def advise(device: str, device_gb: float, memory_gb: float) -> tuple[str, str]:
    """Return what fits, as a sentence, and a command that uses it.

    The plan is the one that `load_pipeline` chooses by default; it is predicted, not measured.

    Args:
        device: "cuda", "xpu", "mps" or "cpu".
        device_gb: Free memory of the accelerator; 0 without one.
        memory_gb: Free memory of the machine.
    """
    import torch

    from joyimage.acceleration.plans import Machine, choose_plan
    from joyimage.compat.torch import has_fast_bf16

    machine = Machine(device=device, device_bytes=round(device_gb * 1e9), host_bytes=round(memory_gb * 1e9))
    try:
        plan = choose_plan(_published_size(None), machine)
    except OutOfMemoryError as error:
        return f"The tiny model. The published one: {error}", f"{_EDIT} --model tiny"
    if device == "cpu":
        is_fast = has_fast_bf16(torch.device("cpu"))
        how = "" if is_fast else ", very slowly: this processor has no bfloat16 instructions"
        return (
            "The tiny model. An edit by the published one takes 16,000 TFLOP, which is hours on a CPU. It would"
            f" run with --dtype bfloat16{how}. {plan}",
            f"{_EDIT} --model tiny",
        )
    option = "" if plan.offload == "none" else f" --offload {plan.offload}"
    return f"The published model. {plan}{_quantized_advice(machine, plan)}", f"{_EDIT}{option}"


@functools.cache
def _published_size(quantization: str | None) -> PipelineSize:
    """Return what decides how much memory the published model takes in bfloat16, quantized or not."""
    import torch

    from joyimage.pipeline.components import PUBLISHED_FOLDER
    from joyimage.pipeline.streamed import measure

    return measure(PUBLISHED_FOLDER, torch.bfloat16, quantization=quantization)


def _quantized_advice(machine: Machine, plan: MemoryPlan) -> str:
    """Return what a quantized model would gain on a machine: a faster plan; nothing where there is none."""
    from joyimage.acceleration.plans import OFFLOADS, choose_plan

    faster = OFFLOADS[: OFFLOADS.index(plan.offload)]
    if not faster:
        return ""
    for quantization in ("int8", "nf4"):
        try:
            found = choose_plan(_published_size(quantization), machine, faster[:2])
        except OutOfMemoryError:
            continue
        return f" With --quantize {quantization}: {dataclasses.replace(found, reason='')}"
    return ""


def _accelerator() -> tuple[str, str, float, float]:
    """Return type, name, total and free memory (GB) of the device that is used by default."""
    import torch

    device = next(iter(available_devices()))
    if device == "cuda":
        free, total = torch.cuda.mem_get_info(0)
        return device, torch.cuda.get_device_name(0), total / 1e9, free / 1e9
    if device == "xpu":
        free, total = torch.xpu.mem_get_info(0)
        return device, torch.xpu.get_device_name(0), total / 1e9, free / 1e9
    if device == "mps":
        total = torch.mps.recommended_max_memory()
        return device, "Apple GPU", total / 1e9, (total - torch.mps.driver_allocated_memory()) / 1e9
    return device, platform.processor() or platform.machine(), 0.0, 0.0


def _downloads() -> dict[str, dict[str, Any]]:
    """Return size in GB and time in minutes of each download of the published model, by its name.

    The times are those of the transfer alone, at `_MBIT_PER_SECOND`.
    """
    from joyimage.pipeline.download import VARIANTS

    sizes = {name: sum(variant.gigabytes.values()) for name, variant in VARIANTS.items()}
    return {
        name: {
            "size": round(size, 1),
            "minutes": {f"{speed} Mbit/s": round(size * 8000 / speed / 60, 1) for speed in _MBIT_PER_SECOND},
        }
        for name, size in sizes.items()
    }


def _download_lines(found: dict[str, dict[str, Any]], width: int) -> str:
    """Return a line for each download, all but the first indented like a value."""
    lines = [
        f"joyimage download {name:<10}  {one['size']} GB: "
        + ", ".join(f"{minutes:.0f} min at {speed}" for speed, minutes in one["minutes"].items())
        for name, one in found.items()
    ]
    return textwrap.indent("\n".join(lines), " " * (width + 2)).lstrip()


def _acceleration() -> dict[str, Any]:
    """Return what runs in an edit on this machine, by the embedded model; or why that cannot be loaded."""
    from joyimage.acceleration import report
    from joyimage.cli.runners import hide_loading_bars
    from joyimage.loading import load_pipeline

    hide_loading_bars()
    try:
        return report(load_pipeline("tiny").pipe).to_dict()
    except JoyImageError as error:
        return {"error": str(error)}


def _acceleration_lines(found: dict[str, Any], width: int) -> str:
    """Return the lines of an acceleration report, all but the first indented like a value."""
    from joyimage.acceleration import Report

    if "error" in found:
        return f"the embedded model cannot be loaded: {found['error']}"
    return textwrap.indent(str(Report(**found)), " " * (width + 2)).lstrip()


def _cache_folder() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        unit = " GB" if "free" in value else ""
        return ", ".join(
            f"{key} {item}{unit if isinstance(item, float) else ''}" for key, item in value.items()
        )
    return str(value)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
