"""Write an adapter in the layout that another program reads.

Source: key rules as read in ComfyUI (`comfy/lora.py`), diffusers (`loaders/lora_base.py`), peft
(`utils/save_and_load.py`) and kohya-ss (`networks/lora.py`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save as serialize

from joyimage.errors import CheckpointError, InvalidInputError
from joyimage.imaging.atomic import write_text, write_whole
from joyimage.model.adapters.strength import CONFIG_FILE, HEADER_CONFIG
from joyimage.model.adapters.updates import LayerUpdate, peft_form

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

LAYOUTS = ("comfyui", "diffusers", "peft", "kohya")
"""Layouts that an adapter can be written in."""

_PEFT_FILE = "adapter_model.safetensors"


def save_adapter(
    updates: Mapping[str, LayerUpdate],
    path: Path,
    layout: str = "comfyui",
    header: Mapping[str, str] | None = None,
) -> Path:
    """Write an adapter, whole or not at all.

    Args:
        updates: Updates by layer.
        path: File to write; with "peft" a folder, which gets the matrices and `adapter_config.json`.
        layout: One of `LAYOUTS`.
        header: Further entries for the file's header.

    Returns:
        The file with the matrices.

    Raises:
        CheckpointError: The layout has no place for a part of the adapter.
        ImageError: The file cannot be written.
        InvalidInputError: There is no such layout.
    """
    if layout not in LAYOUTS:
        raise InvalidInputError(f"`layout` is {layout!r}; expected one of {', '.join(LAYOUTS)}.")
    tensors = adapter_tensors(updates, layout)
    entries = {**(header or {}), **adapter_header(updates, layout)}
    path.parent.mkdir(parents=True, exist_ok=True)
    target = path
    if layout == "peft":
        path.mkdir(parents=True, exist_ok=True)
        target = path / _PEFT_FILE
        config = {"peft_type": "LORA", "bias": "none", "inference_mode": True, **peft_form(updates)[1]}
        write_text(path / CONFIG_FILE, json.dumps(config, indent=2, sort_keys=True) + "\n")
    _write(target, tensors, entries)
    return target


def save_lokr(
    tensors: Mapping[str, Tensor],
    path: Path,
    layout: str = "comfyui",
    header: Mapping[str, str] | None = None,
) -> Path:
    """Write a LoKr adapter under the names of a layout; its matrices stay as they are.

    Args:
        tensors: Tensors named `<layer>.lokr_w1`, `<layer>.alpha` and so on.
        path: File to write.
        layout: "comfyui", "diffusers" or "kohya".
        header: Further entries for the file's header.

    Returns:
        The file.

    Raises:
        CheckpointError: The layout is peft's, which names parts of LoKr otherwise.
        ImageError: The file cannot be written.
        InvalidInputError: There is no such layout.
    """
    if layout not in LAYOUTS:
        raise InvalidInputError(f"`layout` is {layout!r}; expected one of {', '.join(LAYOUTS)}.")
    if layout == "peft":
        raise CheckpointError(
            "The adapter is LoKr, which PEFT stores in another form; write comfyui, diffusers or kohya instead."
        )
    named: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        layer, _, matrix = key.rpartition(".")
        name = {
            "comfyui": f"diffusion_model.{layer}",
            "diffusers": f"transformer.{layer}",
            "kohya": f"lora_unet_{layer.replace('.', '_')}",
        }[layout]
        named[f"{name}.{matrix}"] = tensor
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, named, {**(header or {}), "format": "pt"})
    return path


def _write(path: Path, tensors: Mapping[str, Tensor], entries: Mapping[str, str]) -> None:
    """Write a safetensors file whose bytes follow from its content alone."""
    content = serialize(
        {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()},
        dict(sorted(entries.items())),
    )
    write_whole(path, lambda file: file.write(_with_sorted_header(content)))


def adapter_tensors(updates: Mapping[str, LayerUpdate], layout: str) -> dict[str, Tensor]:
    """Return an adapter's tensors under the names of a layout.

    Args:
        updates: Updates by layer.
        layout: One of `LAYOUTS`.

    Raises:
        CheckpointError: The layout has no place for a part of the adapter.
    """
    if layout in {"diffusers", "peft"}:
        prefix = {"diffusers": "transformer.", "peft": "base_model.model."}[layout]
        return {f"{prefix}{key}": tensor for key, tensor in peft_form(updates)[0].items()}
    tensors: dict[str, Tensor] = {}
    for layer, update in updates.items():
        if update.bias is not None:
            raise CheckpointError(
                f"The adapter has a bias for `{layer}`, which the layout {layout} has no place for; write diffusers or"
                " peft."
            )
        if layout == "kohya":
            name, down, up = f"lora_unet_{layer.replace('.', '_')}", "lora_down", "lora_up"
        else:
            name, down, up = f"diffusion_model.{layer}", "lora_A", "lora_B"
        tensors[f"{name}.{down}.weight"] = update.down
        tensors[f"{name}.{up}.weight"] = update.up
        # Every program takes a missing alpha as the rank, except that kohya-ss's own tools want to see it.
        if layout == "kohya" or update.alpha != update.rank:
            tensors[f"{name}.alpha"] = torch.tensor(float(update.alpha))
        if update.magnitude is not None:
            tensors[f"{name}.dora_scale"] = update.magnitude[:, None]
    return tensors


def adapter_header(updates: Mapping[str, LayerUpdate], layout: str) -> dict[str, str]:
    """Return the entries of a file's header that state what the adapter is.

    Args:
        updates: Updates by layer.
        layout: One of `LAYOUTS`.
    """
    header: dict[str, Any] = {"format": "pt"}
    config = peft_form(updates)[1]
    if layout == "peft":
        return header
    header[HEADER_CONFIG] = json.dumps(
        {f"transformer.{key}": value for key, value in config.items()}, sort_keys=True
    )
    ranks = {update.rank for update in updates.values()}
    alphas = {update.alpha for update in updates.values()}
    if layout != "diffusers":
        header |= {
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": "joyai-image-edit/lora",
            "modelspec.implementation": "https://huggingface.co/jdopensource/JoyAI-Image-Edit",
        }
        if len(ranks) == len(alphas) == 1:
            header |= {"ss_network_dim": str(*ranks), "ss_network_alpha": f"{next(iter(alphas)):g}"}
    if layout == "kohya":
        header["ss_network_module"] = "networks.lora"
    return header


def _with_sorted_header(content: bytes) -> bytes:
    """Return a safetensors file with its header in one order: the library's order of metadata is random."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    metadata = dict(sorted(header.pop("__metadata__", {}).items()))
    text = json.dumps(
        {"__metadata__": metadata, **header}, separators=(",", ":"), ensure_ascii=False
    ).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + content[8 + length :]
