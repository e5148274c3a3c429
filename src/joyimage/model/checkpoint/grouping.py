"""Which tensors of a file belong to one weight, and how they store it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from joyimage.errors import CheckpointError
from joyimage.model.checkpoint.encodings.base import WEIGHT, EncodedWeight, Encoding, Plain, marker_tensor
from joyimage.model.checkpoint.encodings.float4 import NF4_STATE, Nf4, Nvfp4
from joyimage.model.checkpoint.encodings.float8 import Float8, MicroscalingFloat8
from joyimage.model.checkpoint.encodings.ggml import GgmlBlocks
from joyimage.model.checkpoint.encodings.int8 import Int8
from joyimage.model.checkpoint.gguf import BLOCK_SIZES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from joyimage.model.checkpoint.files import FileTensor, WeightFile

_MARKER = ".comfy_quant"
_HEADER_MARKERS = "_quantization_metadata"
_OLD_SENTINEL = "scaled_fp8"
_ORIGINAL_SHAPE = "comfy.gguf.orig_shape."

_LAYER_SUFFIXES = {
    ".weight_scale": "_scale",
    ".scale_weight": "_scale",
    ".weight_scale_2": "_scale_2",
    ".input_scale": ".input_scale",
    ".scale_input": ".input_scale",
    ".pre_quant_scale": ".pre_quant_scale",
}
"""Suffix to a layer's name → key of the part."""

_WEIGHT_SUFFIXES = (
    ".absmax",
    ".quant_map",
    ".nested_absmax",
    ".nested_quant_map",
    NF4_STATE,
)
"""Suffixes to a weight's name that bitsandbytes uses; they are the keys of the parts too."""

_FLOATS = {"F16", "BF16", "F32", "F64"}
_FP8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
MARKED_FORMATS = ("int8_tensorwise", "int8_blockwise", "float8_e4m3fn", "float8_e5m2", "mxfp8", "nvfp4")


@dataclass(frozen=True)
class StoredWeight:
    """One weight of a file, not read yet.

    Attributes:
        file: File that holds the weight.
        encoding: How the values are stored.
        names: Names of the stored tensors in the file, by part.
        shape: Shape of the values.
    """

    file: WeightFile
    encoding: Encoding
    names: dict[str, str]
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Number of bytes in the file."""
        return sum(self.file.tensors[name].num_bytes for name in self.names.values())

    def read(self) -> EncodedWeight:
        """Return the weight as stored; its memory is that of the file.

        Raises:
            CheckpointError: The type of a tensor is not known.
        """
        parts = {part: self.file.read(name) for part, name in self.names.items()}
        return EncodedWeight(self.encoding, parts, self.shape)


def group_weights(file: WeightFile) -> dict[str, StoredWeight]:
    """Return the weights of a file by their names in it.

    Args:
        file: A safetensors or GGUF file.

    Raises:
        CheckpointError: A weight is stored in a way that joyimage cannot read; the message names the weight.
    """
    markers = _markers(file)
    parts: dict[str, dict[str, str]] = {}
    weights: list[str] = []
    for name in file.tensors:
        if name.rpartition(".")[2] == _OLD_SENTINEL or name.endswith(_MARKER):
            continue
        owner = _owner(name, file.tensors)
        if owner is None:
            weights.append(name)
        else:
            parts.setdefault(owner[0], {})[owner[1]] = name
    grouped: dict[str, StoredWeight] = {}
    for name in weights:
        names = {WEIGHT: name, **parts.get(name, {})}
        encoding = _encoding(file, name, names, markers.get(name.removesuffix(".weight")))
        names.pop(NF4_STATE, None)
        shape = encoding.shape({part: file.tensors[one].shape for part, one in names.items()})
        shape = tuple(file.metadata.get(_ORIGINAL_SHAPE + name, shape)) if file.is_gguf else shape
        grouped[name] = StoredWeight(file, encoding, names, shape)
    return grouped


def name_parts(name: str, weight: EncodedWeight) -> dict[str, Tensor]:
    """Return the tensors that a file holds for a weight: the inverse of `group_weights`.

    Args:
        name: Name of the weight.
        weight: The weight as stored.
    """
    layer = name.removesuffix(".weight")
    suffixes = {"_scale": ".weight_scale", "_scale_2": ".weight_scale_2"}
    tensors: dict[str, Tensor] = {}
    for part, tensor in weight.parts.items():
        is_of_layer = part in suffixes or part in _LAYER_SUFFIXES.values()
        tensors[layer + suffixes.get(part, part) if is_of_layer else name + part] = tensor
    marker = weight.encoding.marker()
    if isinstance(weight.encoding, Nf4):
        tensors[name + NF4_STATE] = marker_tensor(weight.encoding.state())
    elif marker is not None:
        tensors[layer + _MARKER] = marker_tensor(marker)
    return tensors


def _markers(file: WeightFile) -> dict[str, dict[str, Any]]:
    """Return what the file says about its quantized layers, by the layer's name.

    Raises:
        CheckpointError: A marker is not valid JSON.
    """
    markers: dict[str, dict[str, Any]] = {}
    try:
        if not file.is_gguf and _HEADER_MARKERS in file.metadata:
            markers.update(json.loads(file.metadata[_HEADER_MARKERS])["layers"])
        for name in file.tensors:
            if name.endswith(_MARKER):
                content = json.loads(_text(file.read(name)))
                # Older files hold the settings of the format in an object of their own.
                markers[name.removesuffix(_MARKER)] = {**content, **content.get("params", {})}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file.path}: the description of its quantized layers is damaged. Download the file again."
        ) from error
    return markers


def _owner(name: str, tensors: Mapping[str, FileTensor]) -> tuple[str, str] | None:
    """Return the weight that a tensor is a part of and the key of the part, or None for a weight itself."""
    for suffix in _WEIGHT_SUFFIXES:
        if name.endswith(suffix) and name.removesuffix(suffix) in tensors:
            return name.removesuffix(suffix), suffix
    for suffix, part in _LAYER_SUFFIXES.items():
        weight = name.removesuffix(suffix) + ".weight"
        if name.endswith(suffix) and weight in tensors:
            return weight, part
    return None


def _encoding(
    file: WeightFile, name: str, names: Mapping[str, str], marker: Mapping[str, Any] | None
) -> Encoding:
    """Return how a weight is stored.

    Args:
        file: File that holds the weight.
        name: Name of the weight.
        names: Names of the stored tensors, by part.
        marker: What the file says about the layer, or None.

    Raises:
        CheckpointError: It is stored in a way that joyimage cannot read.
    """
    stored = file.tensors[name]
    if marker is not None:
        encoding = _marked(marker)
        if encoding is None:
            raise CheckpointError(
                f"{file.path}: the layer of `{name}` has the format {marker.get('format')!r}; expected one of"
                f" {', '.join(MARKED_FORMATS)}."
            )
        _check_parts(file, name, names, encoding)
        return encoding
    if NF4_STATE in names:
        return _nf4(file, name, names)
    if stored.block_type is not None:
        return GgmlBlocks(stored.block_type)
    scale = file.tensors[names["_scale"]].dtype if "_scale" in names else None
    if stored.dtype in _FP8:
        return MicroscalingFloat8() if scale in {"U8", "F8_E8M0"} else Float8(_FP8[stored.dtype])
    if stored.dtype == "I8" and scale is not None:
        return Int8()
    if stored.dtype == "U8" and {"_scale", "_scale_2"} <= names.keys():
        return Nvfp4(comfy=False)
    if stored.dtype in _FLOATS and scale is None:
        return Plain()
    if scale is not None:
        raise CheckpointError(
            f"{file.path} has `{names['_scale']}`, but `{name}` is stored as {stored.dtype}, which has no scale."
            " Download the file again."
        )
    raise CheckpointError(
        f"{file.path}: `{name}` is stored as {stored.dtype} without the scales that would tell its values. Use a"
        f" file in one of the formats {', '.join(MARKED_FORMATS)}, nf4, GGUF, bf16 or fp16."
    )


def _marked(marker: Mapping[str, Any]) -> Encoding | None:
    """Return the encoding that a marker describes, or None if joyimage does not know it."""
    name = marker.get("format")
    if name == "int8_tensorwise":
        return Int8(rotation=int(marker.get("convrot_groupsize", 256)) if marker.get("convrot") else None)
    if name == "int8_blockwise":
        return Int8(block_size=int(marker.get("group_size", 128)))
    if name in {"float8_e4m3fn", "float8_e5m2"}:
        return Float8(getattr(torch, name))
    if name == "mxfp8":
        return MicroscalingFloat8()
    if name == "gguf" and marker.get("block_type") in BLOCK_SIZES:  # what joyimage saves of a GGUF file
        return GgmlBlocks(marker["block_type"])
    return Nvfp4(comfy=True) if name == "nvfp4" else None


def _check_parts(file: WeightFile, name: str, names: Mapping[str, str], encoding: Encoding) -> None:
    """Reject a marked layer that lacks the scales of its format.

    Raises:
        CheckpointError: A scale is missing.
    """
    needed: set[str] = {"_scale", "_scale_2"} if isinstance(encoding, Nvfp4) else {"_scale"}
    needed = set[str]() if isinstance(encoding, Float8 | GgmlBlocks) else needed
    missing = needed - names.keys()
    if missing:
        raise CheckpointError(
            f"{file.path} lacks `{name}{min(missing)}`, which {encoding.name} weights need. Download the file"
            " again."
        )


def _text(stored: Tensor) -> bytes:
    """Return the JSON text that a file stores as a tensor of bytes."""
    return bytes(cast("list[int]", cast("Any", stored).tolist()))


def _nf4(file: WeightFile, name: str, names: Mapping[str, str]) -> Nf4:
    """Read the settings of an nf4 weight.

    Raises:
        CheckpointError: The settings are damaged, or a tensor is missing.
    """
    try:
        encoding = Nf4.from_state(json.loads(_text(file.read(names[NF4_STATE]))))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file.path}: the settings of the nf4 weight `{name}` are damaged. Download the file again."
        ) from error
    needed = {".absmax", ".quant_map"}
    needed |= {".nested_absmax", ".nested_quant_map"} if encoding.nested else set()
    if needed - names.keys():
        raise CheckpointError(
            f"{file.path} lacks `{name}{min(needed - names.keys())}`, which nf4 weights need. Download the file"
            " again."
        )
    return encoding
