"""Build a pipeline whose large parts stay in their files or in host memory while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate import init_empty_weights  # pyright: ignore[reportMissingTypeStubs]
from accelerate.utils.modeling import set_module_tensor_to_device  # pyright: ignore[reportMissingTypeStubs]
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import nn
from transformers import GenerationConfig
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from joyimage.acceleration.plans import PartSize, PipelineSize
from joyimage.acceleration.sources import FileSource, HostSource
from joyimage.acceleration.streaming import BlockStream, find_blocks, list_name
from joyimage.model.checkpoint.headers import read_json
from joyimage.model.checkpoint.shards import STEM, read_headers
from joyimage.model.transformer import JoyImageEditTransformer3DModel
from joyimage.pipeline.settings import CheckpointSettings

if TYPE_CHECKING:
    from pathlib import Path

STREAMED = ("transformer", "text_encoder")
"""Parts whose blocks are streamed; the VAE's weights are a quarter of a GB."""

_STEMS = {"transformer": STEM, "text_encoder": "model"}


def build_empty_parts(folder: Path, dtype: torch.dtype) -> dict[str, nn.Module]:
    """Build transformer and text encoder of a checkpoint folder, their weights on the meta device.

    Args:
        folder: A folder in the published layout, checked.
        dtype: Precision of the weights. What the transformer keeps in fp32 stays in fp32.
    """
    config_path = folder / "transformer" / "config.json"
    transformer = JoyImageEditTransformer3DModel.build_empty(read_json(config_path), str(config_path))
    path = folder / "text_encoder"
    with init_empty_weights():
        text_encoder = Qwen3VLForConditionalGeneration(
            cast("Any", Qwen3VLConfig).from_dict(read_json(path / "config.json"))
        )
    if (path / "generation_config.json").is_file():
        text_encoder.generation_config = cast("Any", GenerationConfig).from_pretrained(path)
    kept = transformer._keep_in_fp32_modules or ()
    for model in (transformer, text_encoder):
        for name, parameter in model.named_parameters():
            is_kept = model is transformer and any(part in name.split(".") for part in kept)
            parameter.data = parameter.data.to(torch.float32 if is_kept else dtype)
    return {"transformer": transformer.eval(), "text_encoder": text_encoder.eval()}


def load_from_disk(folder: Path, dtype: torch.dtype, device: torch.device) -> dict[str, nn.Module]:
    """Load transformer and text encoder with their blocks left in the weight files.

    Args:
        folder: A folder in the published layout, checked.
        dtype: Precision of the weights.
        device: Where the parts run.
    """
    parts = build_empty_parts(folder, dtype)
    for name, model in parts.items():
        files = {key: stored.path for key, stored in read_headers(folder / name, _STEMS[name]).items()}
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
    parts = build_empty_parts(folder, dtype)
    with init_empty_weights():
        vae: Any = cast("Any", AutoencoderKLWan).from_config(read_json(folder / "vae" / "config.json"))
    for parameter in vae.parameters():
        parameter.data = parameter.data.to(dtype)
    parts["vae"] = vae
    transformer: Any = parts["transformer"]
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
