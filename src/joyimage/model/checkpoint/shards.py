"""Weights in files: which files hold a model's weights, reading them and writing them."""

import errno
import json
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from joyimage.errors import CheckpointError, InvalidInputError
from joyimage.model.checkpoint.headers import StoredTensor, read_header, read_json

STEM = "diffusion_pytorch_model"
"""What the names of diffusers' weight files start with."""

PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
"""How the names of pickled weights end."""

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def find_weight_files(folder: Path, stem: str, variant: str | None = None) -> list[Path]:
    """Return the safetensors files of one model: one file, or the shards that an index names.

    Args:
        folder: The model's own folder.
        stem: What the names start with: "diffusion_pytorch_model" or "model".
        variant: Such as "fp16"; where there are no files of that variant the plain ones are taken.

    Returns:
        The files; the shards are known to exist.

    Raises:
        CheckpointError: No weights, only pickled ones, or a shard that is missing; the message names the
        file.
    """
    infix, suffix = (f".{variant}", f"{variant}.json") if variant else ("", "json")
    index_path = folder / f"{stem}.safetensors.index.{suffix}"
    path = folder / f"{stem}{infix}.safetensors"
    if path.is_file() and not index_path.is_file():
        return [path]
    if index_path.is_file():
        return list(_read_index(index_path))
    if variant:
        return find_weight_files(folder, stem)
    pickles = [entry.name for entry in sorted(folder.glob(f"*{stem}*")) if entry.suffix in PICKLE_SUFFIXES]
    if pickles:
        raise CheckpointError(
            f"{folder} holds its weights as a pickle ({pickles[0]}) only, and reading one can run code: use"
            " safetensors, or give use_safetensors=False if you trust its source."
        )
    raise CheckpointError(f"{path} is missing, and so is {index_path.name}: the folder holds no weights.")


def _read_index(path: Path) -> dict[Path, list[str]]:
    """Return the shards that an index names, and the keys that it expects in each.

    Raises:
        CheckpointError: The index cannot be read.
    """
    weight_map: object = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} lacks the key `weight_map`, which names a file for each weight.")
    shards: dict[Path, list[str]] = {}
    for key, name in cast("dict[str, object]", weight_map).items():
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{path} must name a file beside it for `{key}`: got {name!r}.")
        shard = path.parent / name
        if shard not in shards and not shard.is_file():
            raise CheckpointError(
                f"{shard} is missing, where {path.name} says `{key}` is: download the file again."
            )
        shards.setdefault(shard, []).append(key)
    return shards


def read_headers(folder: Path, stem: str, variant: str | None = None) -> dict[str, StoredTensor]:
    """Return what a model's files hold together, without reading the weights.

    Args:
        folder: The model's own folder.
        stem: What the names start with: "diffusion_pytorch_model" or "model".
        variant: Such as "fp16"; where there are no files of that variant the plain ones are taken.

    Returns:
        Shape and file of each weight.

    Raises:
        CheckpointError: A file is missing, cut short, or lacks a key that the index says it has.
    """
    paths = find_weight_files(folder, stem, variant)
    tensors: dict[str, StoredTensor] = {}
    for path in paths:
        tensors.update(read_header(path))
    for index_path in folder.glob(f"{stem}.safetensors.index*.json"):
        for shard, keys in _read_index(index_path).items():
            for key in keys:
                if shard in paths and (key not in tensors or tensors[key].path != shard):
                    raise CheckpointError(f"{shard} lacks `{key}`, which {index_path.name} says it has.")
    return tensors


def read_weights(paths: Iterable[Path], *, allow_pickle: bool = False) -> dict[str, Any]:
    """Read the weights of several files as one dict; the tensors are mapped into memory, not copied.

    Args:
        paths: Safetensors files, or pickles.
        allow_pickle: Read pickles too, as tensors and plain containers only (`weights_only`).

    Returns:
        What the files hold, usually tensors by name.

    Raises:
        CheckpointError: A pickle that is not allowed, a file that cannot be read, or a key in two files.
    """
    weights: dict[str, Any] = {}
    for path in paths:
        content = (
            _read_pickle(path) if path.suffix in PICKLE_SUFFIXES and allow_pickle else _read_safetensors(path)
        )
        for key, value in content.items():
            if key in weights:
                raise CheckpointError(f"{path} has `{key}`, which another file of this model has too.")
            weights[key] = value
    return weights


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if path.suffix in PICKLE_SUFFIXES:
        raise CheckpointError(pickle_message(path))
    read_header(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as a safetensors file: {error}.") from error


def pickle_message(path: Path) -> str:
    """Return why a pickle is not read, and how to allow it."""
    return (
        f"{path} is a pickle, and reading one can run code: use safetensors, or allow it"
        " (`allow_pickle=True`, `--allow-pickle`) if you trust its source."
    )


def _read_pickle(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing.")
    try:
        # Only the zip format of torch >= 1.6 can be mapped into memory.
        content: object = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} holds objects other than weights, which are never read.") from error
    except (RuntimeError, EOFError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} cannot be read as a pickle of weights: {reason}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold weights by name: got a {type(content).__name__}.")
    return cast("dict[str, Any]", content)


def write_weights(
    weights: Mapping[str, Tensor], folder: Path, stem: str, max_shard_size: str | int = "5GB"
) -> None:
    """Write weights as one safetensors file, or as shards with an index.

    Args:
        weights: Tensors by name; they are read one shard at a time.
        folder: Where to; created where missing.
        stem: What the names start with: "diffusion_pytorch_model" or "model".
        max_shard_size: Largest file, such as "5GB" (10^9 bytes each) or a number of bytes; one tensor is
            never split.

    Raises:
        OSError: A file cannot be written.
        InvalidInputError: `max_shard_size` cannot be read.
    """
    sizes = {key: tensor.numel() * tensor.element_size() for key, tensor in weights.items()}
    write_shards(sizes, weights.__getitem__, folder, stem, max_shard_size)


def write_shards(
    sizes: Mapping[str, int],
    read: Callable[[str], Tensor],
    folder: Path,
    stem: str,
    max_shard_size: str | int = "5GB",
) -> None:
    """Write weights, made when their shard is written, as one safetensors file or as shards with an index.

    Args:
        sizes: Number of bytes of each weight by name.
        read: Returns a weight by its name.
        folder: Where to; created where missing.
        stem: What the names start with: "diffusion_pytorch_model" or "model".
        max_shard_size: Largest file, such as "5GB" (10^9 bytes each) or a number of bytes; one tensor is
            never split.

    Raises:
        OSError: A file cannot be written.
        InvalidInputError: `max_shard_size` cannot be read.
    """
    limit_bytes = parse_size(max_shard_size)
    shards: list[list[str]] = [[]]
    used_bytes = 0
    for key, num_bytes in sizes.items():
        if shards[-1] and used_bytes + num_bytes > limit_bytes:
            shards.append([])
            used_bytes = 0
        shards[-1].append(key)
        used_bytes += num_bytes

    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = [f"{stem}.safetensors"]
    for name, keys in zip(names, shards, strict=True):
        try:
            # Copies: safetensors rejects tensors that share memory, as those of one mapped file do.
            shard = {key: read(key).clone(memory_format=torch.contiguous_format) for key in keys}
            save_file(shard, folder / name, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error), str(folder / name)) from error
    if len(shards) > 1:
        weight_map = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
        index = {
            "metadata": {"total_size": sum(sizes.values())},
            "weight_map": dict(sorted(weight_map.items())),
        }
        (folder / f"{stem}.safetensors.index.json").write_text(
            json.dumps(index, indent=2) + "\n", encoding="utf-8"
        )


def parse_size(size: str | int) -> int:
    """Return the number of bytes that "5GB", "300 MB" or a number means.

    Raises:
        InvalidInputError: Neither.
    """
    if isinstance(size, int):
        return size
    number, unit = size.strip()[:-2].strip(), size.strip()[-2:].upper()
    if unit not in _UNITS or not number.replace(".", "", 1).isdigit():
        raise InvalidInputError(
            f"`max_shard_size` must be a number and one of KB, MB and GB, such as '5GB': got {size!r}."
        )
    return int(float(number) * _UNITS[unit])
