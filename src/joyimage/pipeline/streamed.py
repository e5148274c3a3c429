"""Build a pipeline whose large parts stay in their files or in host memory while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.utils.modeling import set_module_tensor_to_device  # pyright: ignore[reportMissingTypeStubs]
from torch import nn

from joyimage.acceleration.plans import PartSize, PipelineSize
from joyimage.acceleration.sources import FileSource, HostSource
from joyimage.acceleration.streaming import BlockStream, find_blocks, list_name
from joyimage.model.checkpoint.headers import read_json
from joyimage.model.checkpoint.parts import PARTS
from joyimage.model.checkpoint.shards import read_headers
from joyimage.pipeline.components import STEMS, build_empty_part
from joyimage.pipeline.settings import CheckpointSettings

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

STREAMED = ("transformer", "text_encoder")
"""Parts whose blocks are streamed; the VAE's weights are a quarter of a GB."""


def build_empty_parts(
    folder: Path, dtype: torch.dtype, names: Iterable[str] = STREAMED
) -> dict[str, nn.Module]:
    """Build parts of a checkpoint folder, their weights on the meta device.

    Args:
        folder: A folder in the published layout, checked.
        dtype: Precision of the weights. What the transformer keeps in fp32 stays in fp32.
        names: Names of the parts.
    """
    parts: dict[str, nn.Module] = {}
    for part in names:
        model = build_empty_part(folder / part, part)
        kept = model._keep_in_fp32_modules or () if part == "transformer" else ()
        for name, parameter in model.named_parameters():
            is_kept = any(module in name.split(".") for module in kept)
            parameter.data = parameter.data.to(torch.float32 if is_kept else dtype)
        parts[part] = model.eval()
    return parts


def load_from_disk(folder: Path, dtype: torch.dtype, device: torch.device) -> dict[str, nn.Module]:
    """Load transformer and text encoder with their blocks left in the weight files.

    Args:
        folder: A folder in the published layout, checked.
        dtype: Precision of the weights.
        device: Where the parts run.
    """
    parts = build_empty_parts(folder, dtype)
    for name, model in parts.items():
        files = {key: stored.path for key, stored in read_headers(folder / name, STEMS[name]).items()}
        source = FileSource(files)
        in_blocks = {
            f"{prefix}.{key}" for prefix, block in find_blocks(model) for key, _ in block.named_parameters()
        }
        for key, parameter in list(model.named_parameters()):
            if key in files and key not in in_blocks:
                weight = source.read([key])[key]
                set_module_tensor_to_device(model, key, device, weight, dtype=parameter.dtype)
        _move_buffers(model, device)
        BlockStream(model, source, device=device)
    return parts


def stream_from_host(pipe: Any, device: torch.device) -> None:
    """Keep the blocks of a loaded pipeline in host memory, and everything else on the device.

    Args:
        pipe: A pipeline on the CPU; changed in place.
        device: Where it runs.
    """
    is_pinned = device.type == "cuda"
    for name, part in pipe.components.items():
        if not isinstance(part, nn.Module):
            continue
        if name not in STREAMED:
            part.to(device)
            continue
        weights: dict[str, torch.Tensor] = {}
        for prefix, block in find_blocks(part):
            for key, parameter in block.named_parameters():
                if is_pinned:
                    parameter.data = parameter.data.pin_memory()  # one at a time: no second copy of the model
                weights[f"{prefix}.{key}"] = parameter.data
        in_blocks = set(weights)
        for key, parameter in part.named_parameters():
            if key not in in_blocks:
                parameter.data = parameter.data.to(device)
        _move_buffers(part, device)
        BlockStream(part, HostSource(weights), device=device)


def measure_folder(folder: Path, dtype: torch.dtype, *, base_size: int | None = None) -> PipelineSize:
    """Return what decides how much memory an edit by a checkpoint takes, from its configs alone.

    Args:
        folder: A folder in the published layout, checked.
        dtype: Precision in which the parts run.
        base_size: Side in pixels of the square bucket that all buckets derive from; the checkpoint's own if
            None.
    """
    parts = build_empty_parts(folder, dtype, PARTS)
    transformer, vae = cast("Any", parts["transformer"]), cast("Any", parts["vae"])
    own = read_json(folder / "model_index.json").get("base_size")
    return PipelineSize(
        parts={name: _measure(part, is_streamed=name in STREAMED) for name, part in parts.items()},
        base_size=base_size or own or CheckpointSettings().base_size,
        hidden_size=transformer.config.hidden_size,
        vae_width=vae.config.base_dim,
        dtype_bytes=dtype.itemsize,
    )


def _measure(part: nn.Module, *, is_streamed: bool) -> PartSize:
    whole = _num_bytes(part)
    if not is_streamed:
        return PartSize(num_bytes=whole, resident_bytes=whole)
    # A layer outside of any list, such as the vocabulary, has no next one that is fetched while it runs.
    sizes = [(1 if list_name(name) is None else 2, _num_bytes(block)) for name, block in find_blocks(part)]
    return PartSize(
        num_bytes=whole,
        resident_bytes=whole - sum(size for _, size in sizes),
        window_bytes=max((count * size for count, size in sizes), default=0),
    )


def _num_bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def _move_buffers(model: nn.Module, device: torch.device) -> None:
    for module in model.modules():
        for key, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, key, buffer.to(device))
