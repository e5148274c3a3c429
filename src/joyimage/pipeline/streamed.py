"""Build a pipeline whose large parts stay in their files or in host memory while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from joyimage.acceleration.plans import BYTES_PER_WEIGHT, DECODING_BYTES, PartSize, PipelineSize
from joyimage.acceleration.quantization import QUANTIZATIONS, choose_matmuls, format_for, stored_tensors
from joyimage.acceleration.sources import DiskSource, HostSource
from joyimage.acceleration.streaming import (
    BlockStream,
    find_blocks,
    list_name,
    stream_of,
    streamed_tensors,
)
from joyimage.model.checkpoint.headers import read_json
from joyimage.model.checkpoint.parts import PARTS
from joyimage.pipeline.components import build_component, build_empty_part, open_part
from joyimage.pipeline.settings import CheckpointSettings

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping
    from pathlib import Path

    import torch

    from joyimage.model.checkpoint.grouping import StoredWeight
    from joyimage.model.checkpoint.source import WeightSource

STREAMED = ("transformer", "text_encoder")
"""Parts whose blocks are streamed; the VAE's weights are a quarter of a GB."""


def load_from_disk(
    folder: Path,
    files: Mapping[str, Path],
    *,
    dtype: torch.dtype,
    device: torch.device,
    quantization: str | None = None,
    parts: Iterable[str] = STREAMED,
) -> dict[str, nn.Module]:
    """Load transformer and text encoder with their blocks left in the weight files.

    Args:
        folder: A folder in the published layout, checked.
        files: Part → weight file, for the parts that do not come from the folder.
        dtype: Precision of the weights that are not kept quantized.
        device: Where the parts run.
        quantization: None keeps linear layers as the files store them, and "none" decodes all weights.
        parts: Names of the parts to load.

    Raises:
        CheckpointError: A file cannot be read, or does not fit the config.
    """
    loaded: dict[str, nn.Module] = {}
    for part in parts:
        weights = open_part(files.get(part, folder / part), part)
        model = build_component(
            weights,
            folder / part,
            dtype=dtype,
            device=device,
            quantization=quantization,
            are_blocks_left_out=True,
        )
        BlockStream(model, DiskSource(weights, stored_tensors(model)), device=device)
        loaded[part] = model
    return loaded


def stream_from_disk(pipe: Any, folder: Path, files: Mapping[str, Path], device: torch.device) -> None:
    """Release the blocks of a loaded pipeline, and read them from its weight files from now on.

    Args:
        pipe: A pipeline whose other weights are on the device; its blocks may be streamed from host memory.
        folder: Folder that it was loaded from.
        files: Part → weight file, for the parts that did not come from the folder.
        device: Where it runs.
    """
    for name in STREAMED:
        part = getattr(pipe, name)
        source = DiskSource(open_part(files.get(name, folder / name), name), stored_tensors(part))
        stream = stream_of(part)
        if stream is None:
            BlockStream(part, source, device=device)
        else:
            stream.source = source


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
        choose_matmuls(part, device)
        tensors = {
            key: tensor
            for prefix, block in find_blocks(part)
            for key, _, _, tensor in streamed_tensors(block, prefix)
        }
        if is_pinned:
            for tensor in tensors.values():
                tensor.data = tensor.data.pin_memory()  # one at a time: no second copy of the model
        _move_others(part, {id(tensor) for tensor in tensors.values()}, device)
        BlockStream(part, HostSource({key: tensor.data for key, tensor in tensors.items()}), device=device)


def measure(
    folder: Path,
    dtype: torch.dtype,
    *,
    files: Mapping[str, Path] | None = None,
    quantization: str | None = None,
    base_size: int | None = None,
) -> PipelineSize:
    """Return what decides how much memory an edit by a model takes, from its configs and the tables of its files.

    Args:
        folder: A folder in the published layout; without weight files sizes follow from the configs.
        dtype: Precision in which the parts run.
        files: Part → weight file, for the parts that do not come from the folder.
        quantization: Format into which the streamed parts are quantized, "none" for files that are decoded, or
            None for the format of the files.
        base_size: Side in pixels of the square bucket that all buckets derive from; the checkpoint's own if
            None.

    Raises:
        CheckpointError: A config or file cannot be read.
    """
    models = {part: build_empty_part(folder / part, part) for part in PARTS}
    own = read_json(folder / "model_index.json").get("base_size")
    return PipelineSize(
        parts={
            part: _measure_part(model, part, _weights(folder, files or {}, part), dtype, quantization)
            for part, model in models.items()
        },
        base_size=base_size or own or CheckpointSettings().base_size,
        hidden_size=models["transformer"].config.hidden_size,
        vae_width=models["vae"].config.base_dim,
        dtype_bytes=dtype.itemsize,
    )


def _weights(folder: Path, files: Mapping[str, Path], part: str) -> WeightSource | None:
    """Return the weights of a part, or None where the folder has configs only."""
    has_files = part in files or any((folder / part).glob("*.safetensors"))
    return open_part(files.get(part, folder / part), part) if has_files else None


def _measure_part(
    model: Any, part: str, weights: WeightSource | None, dtype: torch.dtype, quantization: str | None
) -> PartSize:
    """Return the size of a part, from the names and shapes of its weights."""
    stored = {} if weights is None else weights.weights
    sizes, decoded = _measure_weights(model, part, stored, dtype, quantization)
    if part not in STREAMED:
        return PartSize(num_bytes=sum(sizes.values()), resident_bytes=sum(sizes.values()))
    blocks = {
        prefix: [name for name in sizes if name.startswith(f"{prefix}.")] for prefix, _ in find_blocks(model)
    }
    # What is cast or decoded is mapped from its file meanwhile; what runs as it is stored is mapped only.
    sources = {
        name: stored[name].num_bytes if name in stored and stored[name].num_bytes != size else 0
        for name, size in sizes.items()
    }
    # A layer outside of any list, such as the vocabulary, has no next one that is fetched while it runs.
    listed = [names for prefix, names in blocks.items() if list_name(prefix) is not None]
    alone = [names for prefix, names in blocks.items() if list_name(prefix) is None]
    in_blocks = [name for names in blocks.values() for name in names]
    vocabularies = [name for names in alone for name in names]

    def largest(groups: list[list[str]], numbers: dict[str, int]) -> int:
        return max((sum(numbers[name] for name in names) for names in groups), default=0)

    return PartSize(
        num_bytes=sum(sizes.values()),
        resident_bytes=sum(sizes.values()) - sum(sizes[name] for name in in_blocks),
        window_bytes=2 * largest(listed, sizes),
        layer_bytes=largest(alone, sizes),
        decoded_bytes=decoded,
        window_source_bytes=largest(listed, sources),
        layer_source_bytes=largest(alone, sources),
        read_bytes=sum(stored[name].num_bytes if name in stored else sizes[name] for name in in_blocks),
        mapped_bytes=sum(
            sizes[name] for name in vocabularies if name in stored and stored[name].num_bytes == sizes[name]
        ),
    )


def _measure_weights(
    model: Any,
    part: str,
    stored: Mapping[str, StoredWeight],
    dtype: torch.dtype,
    quantization: str | None,
) -> tuple[dict[str, int], int]:
    """Return the bytes of each weight as it runs, and what decoding the largest quantized one takes."""
    linear = {f"{name}.weight" for name, module in model.named_modules() if type(module) is nn.Linear}
    sizes: dict[str, int] = {}
    decoded = 0
    for name, parameter in model.named_parameters():
        weight = stored.get(name)
        sizes[name] = parameter.numel() * dtype.itemsize
        if weight is not None and weight.encoding.name != "plain":
            if name in linear and quantization != "none":
                sizes[name] = weight.num_bytes
        elif quantization in QUANTIZATIONS:
            chosen = format_for(quantization, part, name, tuple(parameter.shape))
            sizes[name] = round(
                sizes[name] if chosen is None else parameter.numel() * BYTES_PER_WEIGHT[chosen]
            )
        if sizes[name] < parameter.numel() * dtype.itemsize:
            extra = (
                0 if _is_cast(weight, quantization, part, name, tuple(parameter.shape)) else DECODING_BYTES
            )
            decoded = max(decoded, parameter.numel() * (extra + dtype.itemsize))
    return sizes, decoded


def _is_cast(
    weight: StoredWeight | None, quantization: str | None, part: str, name: str, shape: tuple[int, ...]
) -> bool:
    """Return whether a quantized weight is only cast where it runs: int8 with scales by rows."""
    if weight is not None and weight.encoding.name != "plain":
        return weight.encoding.name in {"int8_tensorwise", "int8_convrot"}
    return quantization is not None and format_for(quantization, part, name, shape) == "int8"


def _move_others(model: nn.Module, streamed: Container[int], device: torch.device) -> None:
    """Move the tensors of a model to a device, but for those whose ids are given."""
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in streamed:
                parameter.data = parameter.data.to(device)
        for key, buffer in list(module.named_buffers(recurse=False)):
            if id(buffer) not in streamed:
                setattr(module, key, buffer.to(device))
