"""`joyimage doctor`: what this machine has, what fits on it, and which command to use."""

from __future__ import annotations

import json as json_format
import os
import platform
import shutil
import sys
import textwrap
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from joyimage import __version__
from joyimage.devices import available_devices
from joyimage.errors import JoyImageError

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "pillow", "numpy")
# Weights of the published checkpoint in bf16: transformer 16.26 B, text encoder 8.8 B, VAE 0.13 B parameters.
WHOLE_GB = 50.4
TRANSFORMER_GB = 32.5
# Room for one 1024 x 1024 edit, by arithmetic: 9,232 tokens of width 4096 are 76 MB a tensor, 300 MB in the
# MLP; the VAE's largest feature map is 400 MB, and a few of each live at once.
ACTIVATIONS_GB = 6.0

_EDIT = "joyimage edit IMAGE PROMPT -o OUTPUT"


def doctor(*, json: bool = False) -> None:
    """Show device, memory and versions, what fits, and which settings to use.

    Args:
        json: Print it as JSON.
    """
    report = examine()
    if json:
        print(json_format.dumps(report))
        return
    width = max(map(len, report))
    for name, value in report.items():
        shown = _acceleration_lines(value, width) if name == "acceleration" else _shown(value)
        print(f"{name:<{width}}  {shown}")


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
        "cores": os.cpu_count(),
        "acceleration": _acceleration(),
        "fits": fits,
        "use": command,
    }


def advise(device: str, device_gb: float, memory_gb: float) -> tuple[str, str]:
    """Return what fits, as a sentence, and a command that uses it.

    Args:
        device: "cuda", "xpu", "mps" or "cpu".
        device_gb: Free memory of the accelerator; 0 without one.
        memory_gb: Free memory of the machine.
    """
    if device == "cpu":
        return (
            "The tiny model. An edit by the published one takes 16,000 TFLOP, which is hours on a CPU.",
            f"{_EDIT} --model tiny",
        )
    # Only CUDA gets the weights without a copy in the machine's memory.
    if device_gb >= WHOLE_GB + ACTIVATIONS_GB and (device == "cuda" or memory_gb >= WHOLE_GB):
        return "The published model, all parts on the device.", _EDIT
    if memory_gb < WHOLE_GB:
        return (
            f"The tiny model. The published one needs {WHOLE_GB + ACTIVATIONS_GB:.0f} GB of free device"
            f" memory, or {WHOLE_GB:.0f} GB of free memory to offload to.",
            f"{_EDIT} --model tiny",
        )
    if device_gb >= TRANSFORMER_GB + ACTIVATIONS_GB:
        return "The published model, one part at a time on the device.", f"{_EDIT} --offload model"
    return (
        "The published model, a few layers at a time on the device. Each step moves"
        f" {TRANSFORMER_GB:.0f} GB of weights to it, which takes seconds.",
        f"{_EDIT} --offload group",
    )


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


def _acceleration() -> dict[str, Any]:
    """Return what runs in an edit on this machine, by the embedded model; or why that cannot be loaded."""
    from joyimage.acceleration import report
    from joyimage.loading import load_pipeline

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
