"""`joyimage doctor`: what this machine has, what fits on it, and which settings to use."""

from __future__ import annotations

import json as json_format
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from joyimage import __version__

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "pillow", "numpy")
# Weights of the published checkpoint in bf16: transformer 16.26 B, text encoder 8.8 B, VAE 0.13 B parameters.
WHOLE_GB = 50.4
TRANSFORMER_GB = 32.5
# Room for one 1024 x 1024 edit, by arithmetic: 9,232 tokens of width 4096 are 76 MB a tensor, 300 MB in the
# MLP; the VAE's largest feature map is 400 MB, and a few of each live at once.
ACTIVATIONS_GB = 6.0


def doctor(*, json: bool = False) -> None:
    """Show device, memory and versions, what fits, and which settings to use.

    Args:
        json: Print it as JSON.
    """
    report = examine()
    if json:
        print(json_format.dumps(report))
        return
    width = max(len(name) for name in report)
    for name, value in report.items():
        shown = (
            ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else value
        )
        print(f"{name:<{width}}  {shown}")


def examine() -> dict[str, Any]:
    """Return what `joyimage doctor` prints."""
    import torch

    device, device_gb = "cpu", 0.0
    name = platform.processor() or platform.machine()
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        device, name, device_gb = "cuda", properties.name, properties.total_memory / 1e9
    elif torch.backends.mps.is_available():
        device, name, device_gb = "mps", "Apple GPU", torch.mps.recommended_max_memory() / 1e9
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    fits, settings = advise(device, device_gb, memory_gb)
    return {
        "joyimage": __version__,
        "python": sys.version.split()[0],
        "versions": {package: _version(package) for package in PACKAGES},
        "device": f"{device} ({name})",
        "device memory": f"{device_gb:.0f} GB" if device_gb else "shared with the machine",
        "memory": f"{memory_gb:.0f} GB",
        "cores": os.cpu_count(),
        "fits": fits,
        "use": settings,
    }


def advise(device: str, device_gb: float, memory_gb: float) -> tuple[str, str]:
    """Say what fits and which settings to use.

    Args:
        device: "cuda", "mps" or "cpu".
        device_gb: Memory of the accelerator, 0 without one.
        memory_gb: Memory of the machine.

    Returns:
        Two sentences.
    """
    if device == "cpu":
        return (
            "The embedded model; an edit by the published one is 16,000 TFLOP, hours on a CPU.",
            "joyimage edit PICTURE PROMPT -o OUT --model tiny",
        )
    if device_gb >= WHOLE_GB + ACTIVATIONS_GB:
        return "The published model, all parts on the device.", "pipe.to(device), bfloat16"
    if memory_gb < WHOLE_GB:
        return (
            f"The embedded model; the published one needs {WHOLE_GB:.0f} GB of memory to load.",
            "joyimage edit PICTURE PROMPT -o OUT --model tiny",
        )
    if device_gb >= TRANSFORMER_GB + ACTIVATIONS_GB:
        return "The published model, one part at a time.", "pipe.enable_model_cpu_offload(), bfloat16"
    return (
        "The published model, a few blocks at a time; slow.",
        'pipe.enable_group_offload(torch.device("cuda"), offload_type="leaf_level"), bfloat16',
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
