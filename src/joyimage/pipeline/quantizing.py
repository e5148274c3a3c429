"""Write a weight file in another format: one tensor at a time, resumable, and whole or not at all.

Each tensor is written to a folder beside the output first. A run that is interrupted continues with the tensors
that the folder lacks. Each is removed when the output has it, so that the disk holds one copy.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from typing import IO, TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

from joyimage.acceleration.quantization import format_for, quantized
from joyimage.errors import InvalidInputError
from joyimage.imaging.atomic import clear_partial, write_whole
from joyimage.model.checkpoint.encodings.base import WEIGHT
from joyimage.model.checkpoint.encodings.ggml import encode_q4_0, encode_q8_0
from joyimage.model.checkpoint.files import WeightFile
from joyimage.model.checkpoint.gguf import MAGIC
from joyimage.model.checkpoint.grouping import name_parts
from joyimage.model.checkpoint.parts import PARTS
from joyimage.model.file_kind import part_of_file
from joyimage.pipeline.components import open_part
from joyimage.pipeline.repacking import PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

    from joyimage.model.checkpoint.source import WeightSource

FORMATS = (
    "int8_convrot",
    "int8_blockwise",
    "fp8",
    "mxfp8",
    "nvfp4",
    "nf4",
    "gguf-q8_0",
    "gguf-q4_0",
)
"""Quantized formats that can be written; those of four bits keep sensitive weights in eight."""

_PREFIX = {"transformer": "model.diffusion_model.", "text_encoder": "", "vae": ""}
"""What ComfyUI's files have before the names of a part's weights."""

_ALIGNMENT = 32
_GGUF_BLOCK = 32
_GGUF_TYPES = {"F32": 0, "F16": 1, "BF16": 30, "Q4_0": 2, "Q8_0": 8}
"""Type of a tensor → its number in a GGUF."""


def quantize_file(
    model: Path,
    output: Path,
    *,
    format: str,
    part: str = "transformer",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Quantize one part of a model into one file.

    Args:
        model: A weight file, or a checkpoint folder that has the part.
        output: File to write; it must not exist. It appears when all of it is written.
        format: One of `FORMATS`.
        part: "transformer" or "text_encoder".
        progress: Called with the number of tensors that are done, and that of all.

    Returns:
        `output`.

    Raises:
        CheckpointError: The weights cannot be read.
        ImageError: The output cannot be written.
        InvalidInputError: The format or the part is not known, or `output` exists or has another suffix.
    """
    if format not in FORMATS:
        raise InvalidInputError(f"`format` is {format!r}; expected {', '.join(FORMATS)}.")
    if part not in {"transformer", "text_encoder"}:
        raise InvalidInputError(f"`part` is {part!r}; expected transformer or text_encoder.")
    return _write_file(model, output, format, part, progress)


def convert_file(
    model: Path,
    output: Path,
    *,
    format: str = "bf16",
    part: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write one part of a model as one file, in a plain or quantized format.

    Args:
        model: A weight file in any format, or a checkpoint folder that has the part.
        output: File to write; it must not exist. It appears when all of it is written.
        format: One of `PRECISIONS` or of `FORMATS`.
        part: "transformer", "text_encoder" or "vae"; what the file holds, or the transformer of a folder, if None.
        progress: Called with the number of tensors that are done, and that of all.

    Returns:
        `output`.

    Raises:
        CheckpointError: The weights cannot be read.
        ImageError: The output cannot be written.
        InvalidInputError: The format or the part is not known, or `output` exists or has another suffix.
    """
    part = part or ("transformer" if model.is_dir() else part_of_file(model))
    if format not in PRECISIONS:
        return quantize_file(model, output, format=format, part=part, progress=progress)
    if part not in PARTS:
        raise InvalidInputError(f"`part` is {part!r}; expected {', '.join(PARTS)}.")
    return _write_file(model, output, format, part, progress)


def _write_file(
    model: Path, output: Path, format: str, part: str, progress: Callable[[int, int], None] | None
) -> Path:
    """Write a file tensor by tensor; see `quantize_file`.

    Raises:
        InvalidInputError: `output` exists or has another suffix.
    """
    suffix = ".gguf" if format.startswith("gguf") else ".safetensors"
    if output.suffix != suffix:
        raise InvalidInputError(f"`output` is {output}; expected a name that ends with {suffix}.")
    if output.exists():
        raise InvalidInputError(
            f"`output` is {output}, which exists already. Remove it, or give another name."
        )
    source = open_part(model / part if model.is_dir() else model, part)
    folder = output.with_name(f".{output.name}-{_identity(source, format)}.partial")
    folder.mkdir(parents=True, exist_ok=True)
    clear_partial(output)
    stored = _write_tensors(source, folder, format, progress)
    if suffix == ".gguf":
        write_whole(output, lambda file: _join_gguf(file, source, stored))
    else:
        write_whole(output, lambda file: _join_safetensors(file, stored))
    shutil.rmtree(folder)
    return output


def _identity(source: WeightSource, format: str) -> str:
    """Return what tells a run from one of other weights or another format: only the same run is continued."""
    files = sorted({weight.file.path for weight in source.weights.values()})
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr((states, format)).encode("utf-8")).hexdigest()[:12]


def _write_tensors(
    source: WeightSource, folder: Path, format: str, progress: Callable[[int, int], None] | None
) -> list[Path]:
    """Write a small file for each weight, but for those that an earlier run wrote, and return the files."""
    paths: list[Path] = []
    for number, name in enumerate(source.weights):
        path = folder / f"{number:05d}.safetensors"
        if not path.is_file():
            tensors = _tensors(source, name, format)
            # Renamed when it is whole: what has the name is complete.
            save_file(
                {key: value.contiguous().clone() for key, value in tensors.items()}, path.with_suffix(".new")
            )
            path.with_suffix(".new").rename(path)
        paths.append(path)
        if progress is not None:
            progress(number + 1, len(source.weights))
    return paths


def _tensors(source: WeightSource, name: str, format: str) -> dict[str, Tensor]:
    """Return the tensors that the output holds for one weight."""
    encoded = source.read(name)
    if format in PRECISIONS:
        return {_PREFIX[source.part] + name: encoded.decode(PRECISIONS[format])}
    is_plain = encoded.encoding.name == "plain"
    values = encoded.parts[WEIGHT] if is_plain else encoded.decode(torch.bfloat16)
    values = values.reshape(encoded.shape)
    chosen = format_for(format.replace("int8_convrot", "int8"), source.part, name, encoded.shape)
    if format.startswith("gguf"):
        if chosen is not None and values.shape[-1] % _GGUF_BLOCK == 0:
            return {name: encode_q4_0(values) if chosen == "gguf-q4_0" else encode_q8_0(values)}
        # llama.cpp's rule: one-dimensional weights stay in fp32.
        return {name: values.float() if values.ndim == 1 else values}
    output_name = _PREFIX[source.part] + name
    return {output_name: values} if chosen is None else name_parts(output_name, quantized(values, chosen))


def _join_safetensors(file: IO[bytes], paths: list[Path]) -> None:
    """Write the tensors of several safetensors files as one."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for path in paths:
        for name, entry in WeightFile(path).tensors.items():
            header[name] = {
                "dtype": entry.dtype,
                "shape": list(entry.shape),
                "data_offsets": [place, place + entry.num_bytes],
            }
            place += entry.num_bytes
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for data in _data(paths):
        file.write(data)


def _join_gguf(file: IO[bytes], source: WeightSource, paths: list[Path]) -> None:
    """Write the tensors of several safetensors files as a GGUF."""
    settings = [
        _setting("general.architecture", 8, _text("joyimage")),
        _setting("general.alignment", 4, _int(32)),
    ]
    infos: list[bytes] = []
    place = 0
    for path in paths:
        for name, entry in WeightFile(path).tensors.items():
            shape = source.weights[name].shape
            kind = entry.dtype
            if kind == "U8":  # blocks, which their sizes tell apart
                per_block = entry.num_bytes * _GGUF_BLOCK // torch.Size(shape).numel()
                kind = {18: "Q4_0", 34: "Q8_0"}[per_block]
            if len(shape) > 4:
                sizes = b"".join(map(_int, shape))
                array = _int(4) + struct.pack("<Q", len(shape)) + sizes
                settings.append(_setting(f"comfy.gguf.orig_shape.{name}", 9, array))
                shape = (shape[0], torch.Size(shape[1:]).numel())
            dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
            infos.append(_text(name) + dims + struct.pack("<IQ", _GGUF_TYPES[kind], place))
            place += -(-entry.num_bytes // _ALIGNMENT) * _ALIGNMENT
    file.write(MAGIC + struct.pack("<IQQ", 3, len(infos), len(settings)) + b"".join(settings + infos))
    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
    for data in _data(paths):
        file.write(data + b"\0" * (-len(data) % _ALIGNMENT))


def _data(paths: list[Path]) -> Iterator[bytes]:
    """Yield the bytes of each tensor, one at a time, and remove each file when its tensors are taken."""
    for path in paths:
        opened = WeightFile(path)
        for name in opened.tensors:
            yield opened.read(name).contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        path.unlink()


def _int(value: int) -> bytes:
    return struct.pack("<I", value)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode("utf-8"))) + text.encode("utf-8")


def _setting(key: str, kind: int, value: bytes) -> bytes:
    return _text(key) + _int(kind) + value
