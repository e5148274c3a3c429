"""Write weight files as other programs do, with comfy-kitchen and gguf, and tell the values they hold."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import comfy_kitchen as ck
import gguf
import numpy as np
import torch
from comfy_kitchen import tensor as layouts
from comfy_kitchen.float_utils import from_blocked, swap_nibbles
from safetensors.torch import save_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

Parts = dict[str, "Tensor"]
Encoder = "Callable[[Tensor], tuple[Parts, Callable[[torch.dtype], Tensor]]]"

_MARKERS: dict[str, dict[str, Any]] = {
    "int8_convrot": {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256},
    "int8_tensorwise": {"format": "int8_tensorwise"},
    "float8_e4m3fn": {"format": "float8_e4m3fn"},
    "float8_e5m2": {"format": "float8_e5m2"},
    "mxfp8": {"format": "mxfp8"},
    "nvfp4": {"format": "nvfp4"},
}
MARKED = tuple(_MARKERS)
BLOCK_TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


def marker(name: str) -> dict[str, Any]:
    """Content of `.comfy_quant` for a format."""
    return dict(_MARKERS[name])


def as_bytes(content: dict[str, Any]) -> Tensor:
    """JSON object as a tensor of bytes."""
    return torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)


def encode(weight: Tensor, name: str) -> tuple[Parts, Callable[[torch.dtype], Tensor]]:
    """Quantize a matrix with comfy-kitchen.

    Args:
        weight: [N, K].
        name: One of `MARKED`.

    Returns:
        The stored tensors by suffix to the weight's name, and a function from a dtype to the values.
    """
    layout, settings = {
        "int8_convrot": (layouts.TensorWiseINT8Layout, {"per_channel": True, "convrot": True}),
        "int8_tensorwise": (layouts.TensorWiseINT8Layout, {}),
        "float8_e4m3fn": (layouts.TensorCoreFP8Layout, {"dtype": torch.float8_e4m3fn}),
        "float8_e5m2": (layouts.TensorCoreFP8Layout, {"dtype": torch.float8_e5m2}),
        "mxfp8": (layouts.TensorCoreMXFP8Layout, {}),
        "nvfp4": (layouts.TensorCoreNVFP4Layout, {}),
    }[name]
    with ck.use_backend("eager"):
        stored, params = layout.quantize(weight.float(), **settings)

    def values(dtype: torch.dtype) -> Tensor:
        with ck.use_backend("eager"):
            return layout.dequantize(stored, dataclasses.replace(params, orig_dtype=dtype))

    parts = layout.state_dict_tensors(stored, params)
    if name == "mxfp8":  # files hold the exponents as plain bytes
        parts["_scale"] = parts["_scale"].view(torch.uint8)
    return parts, values


def encode_modelopt(weight: Tensor) -> tuple[Parts, Callable[[torch.dtype], Tensor]]:
    """Quantize a matrix as `nvfp4` in ModelOpt's layout: low halves of bytes first, scales not in tiles."""
    parts, values = encode(weight, "nvfp4")
    scale = from_blocked(parts["_scale"].view(torch.uint8), weight.shape[0], weight.shape[1] // 16)
    return {
        "": swap_nibbles(parts[""]),
        "_scale": scale.contiguous().view(torch.float8_e4m3fn),
        "_scale_2": parts["_scale_2"],
    }, values


def block_bytes(weight: Tensor, block_type: str, seed: int = 0) -> tuple[np.ndarray, Tensor]:
    """Store a matrix in blocks of a GGUF type, and return the bytes and the values that gguf reads from them.

    gguf cannot write K-quants: their bytes are random, with fp16 scales that are finite.
    """
    kind = gguf.GGMLQuantizationType[block_type]
    if block_type.endswith("_K"):
        num_values, num_bytes = gguf.GGML_QUANT_SIZES[kind]
        num_rows, num_columns = weight.shape
        blocks = np.random.default_rng(seed).integers(
            0, 256, (num_rows * num_columns // num_values, num_bytes), dtype=np.uint8
        )
        places = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
        for place in places[block_type]:
            blocks[:, place + 1] &= 0b10111011  # no exponent is all ones
            blocks[:, place + 1] |= 0b00001000
            blocks[:, place + 1] &= 0b10011111  # below 2^-7
        stored = blocks.reshape(num_rows, -1)
    else:
        stored = gguf.quants.quantize(weight.float().numpy(), kind)
    return stored, torch.from_numpy(gguf.quants.dequantize(stored, kind).copy())


def is_quantizable(name: str, weight: Tensor) -> bool:
    """Whether published files quantize a weight: matrices of the blocks."""
    return weight.ndim == 2 and name.startswith("double_blocks.") and "norm" not in name


def write_marked(
    path: Path, weights: Mapping[str, Tensor], name: str, *, prefix: str = "", in_header: bool = False
) -> dict[str, Callable[[torch.dtype], Tensor]]:
    """Write a file with `.comfy_quant` tensors, or with the same in its header; return the values by name."""
    tensors: Parts = {}
    values: dict[str, Callable[[torch.dtype], Tensor]] = {}
    markers = {}
    for key, weight in weights.items():
        if not is_quantizable(key, weight):
            tensors[prefix + key] = weight.clone()
            values[key] = weight.to
            continue
        parts, values[key] = encode(weight, name)
        layer = prefix + key.removesuffix(".weight")
        tensors.update({f"{layer}.weight{suffix}": part.contiguous() for suffix, part in parts.items()})
        if in_header:
            markers[layer] = marker(name)
        else:
            tensors[f"{layer}.comfy_quant"] = as_bytes(marker(name))
    metadata = {"format": "pt"}
    if in_header:
        metadata["_quantization_metadata"] = json.dumps({"format_version": "1.0", "layers": markers})
    save_file(tensors, path, metadata=metadata)
    return values


def write_gguf(
    path: Path,
    weights: Mapping[str, Tensor],
    block_type: str,
    *,
    architecture: str = "wan",
    with_original_shapes: bool = True,
) -> dict[str, Tensor]:
    """Write a GGUF as the tools for diffusion models do, and return the values that gguf reads from it."""
    writer = gguf.GGUFWriter(path, architecture)
    values = {}
    for seed, (key, weight) in enumerate(weights.items()):
        array = weight.float().numpy()
        if array.ndim > 4:
            if with_original_shapes:
                writer.add_array(f"comfy.gguf.orig_shape.{key}", list(array.shape))
            array = array.reshape(array.shape[0], -1)
        if not is_quantizable(key, weight):
            writer.add_tensor(key, np.ascontiguousarray(array))
            values[key] = weight.float()
            continue
        if block_type in {"F16", "BF16"}:
            kind = gguf.GGMLQuantizationType[block_type]
            stored = gguf.quants.quantize(array, kind)
            values[key] = torch.from_numpy(gguf.quants.dequantize(stored, kind).copy())
        else:
            stored, values[key] = block_bytes(weight, block_type, seed)
        kind = gguf.GGMLQuantizationType[block_type]
        writer.add_tensor(key, stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values
