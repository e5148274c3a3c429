"""What weight files promise: names, shapes and places, read without the weights.

A safetensors file starts with a table of names, shapes and places. Reading these tables takes milliseconds
for any size of checkpoint, so files that are missing, cut short or of another model are rejected before any
weight is loaded.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from joyimage.errors import CheckpointError
from joyimage.model.file_kind import SCALE_NAMES, describe_file

Shape = tuple[int, ...]

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class StoredTensor:
    """What a file's header says about one tensor.

    Attributes:
        shape: Shape of the tensor.
        path: File that holds the tensor.
    """

    shape: Shape
    path: Path


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        CheckpointError: The file is missing, or is no such JSON.
    """
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: is {path.parent} the folder of a checkpoint?") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}): download the file again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object: got a {type(content).__name__}.")
    return cast("dict[str, Any]", content)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return what a safetensors file holds, without reading the weights.

    Raises:
        CheckpointError: The file is missing, cut short, or no safetensors file.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: download the file again.")
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if size_bytes < 8 or header_bytes > _MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{path} ({size_bytes} bytes) is {describe_file(path)}; expected a complete safetensors file."
                " Download it again."
            )
        text = file.read(header_bytes)
    if len(text) < header_bytes:
        raise CheckpointError(_cut_short(path, size_bytes, 8 + header_bytes))
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        tensors = {key: StoredTensor(tuple(entry["shape"]), path) for key, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{path} is {describe_file(path)}: its header cannot be read as that of a safetensors file."
            " Download it again."
        ) from error
    if size_bytes != 8 + header_bytes + end:
        raise CheckpointError(_cut_short(path, size_bytes, 8 + header_bytes + end))
    return tensors


def _cut_short(path: Path, size_bytes: int, promised_bytes: int) -> str:
    return f"{path} has {size_bytes} bytes, but its header says {promised_bytes}: download the file again."


def check_tensors(
    found: Mapping[str, StoredTensor],
    expected: Mapping[str, Shape],
    folder: Path,
    optional: Collection[str] = (),
) -> None:
    """Check that files hold exactly the weights that a model has.

    Args:
        found: Shape and file of each weight in the files.
        expected: Name and shape of each weight of the model.
        folder: Folder of the files, for the message.
        optional: Keys that may be missing.

    Raises:
        CheckpointError: A missing or unexpected key, or another shape; the message names the key and the
        file.
    """
    missing = [key for key in expected if key not in found and key not in optional]
    unexpected = [key for key in found if key not in expected]
    if missing:
        hint = f" It has `{unexpected[0]}`, which is not part of this model." if unexpected else ""
        raise CheckpointError(
            f"{folder} lacks `{missing[0]}`{_and_others(missing)}: the weights are incomplete.{hint}"
        )
    if unexpected:
        scales = [key for key in unexpected if key.endswith(SCALE_NAMES)]
        if scales:
            raise CheckpointError(
                f"{found[scales[0]].path} has `{scales[0]}`{_and_others(scales)}: these are scales of"
                " quantized weights, but the weights themselves are not quantized. Download the file again."
            )
        key = unexpected[0]
        raise CheckpointError(
            f"{found[key].path} has `{key}`{_and_others(unexpected)}, which the model of this config does not"
            " have: the config may belong to other weights."
        )
    for key, stored in found.items():
        if stored.shape != expected[key]:
            raise CheckpointError(
                f"{stored.path}: `{key}` has the shape {list(stored.shape)}, but the config asks for"
                f" {list(expected[key])}."
            )


def _and_others(keys: list[str]) -> str:
    return f" and {len(keys) - 1} other{'s' if len(keys) > 2 else ''}" if len(keys) > 1 else ""


def shapes_of(model: torch.nn.Module) -> dict[str, Shape]:
    """Return name and shape of each weight that a model keeps in files."""
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def tensor_shapes(weights: Mapping[str, Any], where: Path) -> dict[str, Shape]:
    """Return the shapes of weights that were read.

    Raises:
        CheckpointError: One of them is not a tensor.
    """
    for key, value in weights.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{where}: `{key}` must be a tensor: got a {type(value).__name__}.")
    return {key: tuple(value.shape) for key, value in weights.items()}
