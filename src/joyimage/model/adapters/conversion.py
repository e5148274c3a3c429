"""Convert an adapter file from any layout to another, without the model that it is for."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch

from joyimage.errors import CheckpointError
from joyimage.model.adapters.files import find_adapter_file, read_adapter
from joyimage.model.adapters.layouts import save_adapter, save_lokr
from joyimage.model.adapters.mixin import check_values
from joyimage.model.adapters.names import adaptable_layers
from joyimage.model.adapters.strength import CONFIG_FILE, HEADER_CONFIG, read_statement
from joyimage.model.adapters.updates import read_updates, rename_lokr
from joyimage.model.transformer import JoyImageEditTransformer3DModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import Tensor

    from joyimage.model.adapters.updates import LayerUpdate

_BLOCK = re.compile(r"double_blocks[._](\d+)")
_MOST_BLOCKS = 1000
# What the header of the source says about its layout; the output's header says it anew.
_LAYOUT_ENTRIES = (HEADER_CONFIG, "format", "ss_network_dim", "ss_network_alpha", "ss_network_module")


def convert_adapter(
    source: Path, output: Path, layout: str = "comfyui", *, weight_name: str | None = None
) -> Path:
    """Write an adapter in another layout, at the same strength.

    Args:
        source: The adapter's file, or a folder with one.
        output: File to write; with "peft" a folder.
        layout: "comfyui", "diffusers", "peft" or "kohya".
        weight_name: Name of the file in the folder; None takes the only safetensors file.

    Returns:
        The file that was written.

    Raises:
        CheckpointError: The source is not a LoRA adapter for this model, or the layout has no place for a part of it.
        ImageError: The output cannot be written.
        InvalidInputError: There is no such layout.
    """
    if not source.exists():
        raise CheckpointError(
            f"There is no adapter {source}: expected a safetensors file, or a folder with one."
        )
    found, header = _read(find_adapter_file(source, weight_name))
    kept = {key: value for key, value in header.items() if key not in _LAYOUT_ENTRIES}
    if isinstance(found, Lokr):
        return save_lokr(found.tensors, output, layout, kept)
    return save_adapter(found, output, layout, kept)


def check_adapter(source: Path) -> None:
    """Reject an adapter that cannot be used with this architecture, whatever the sizes of the model.

    Args:
        source: The adapter's file, or a folder with one.

    Raises:
        CheckpointError: It is damaged, of another kind, or for another architecture.
    """
    path = find_adapter_file(source)
    files = (path, path.parent / CONFIG_FILE)
    _check_once(path, tuple(file.stat().st_mtime_ns for file in files if file.is_file()))


@dataclass(frozen=True, kw_only=True)
class Lokr:
    """A LoKr adapter: tensors named `<layer>.lokr_w1`, `<layer>.alpha` and so on."""

    tensors: Mapping[str, Tensor]


@cache
def _check_once(path: Path, _times: tuple[int, ...]) -> None:
    """Check a file; rows of a batch that share an adapter check it once, and again when it has changed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said when the adapter is loaded
        _read(path)


def _read(path: Path) -> tuple[Mapping[str, LayerUpdate] | Lokr, dict[str, str]]:
    """Return what an adapter's file holds, and its header.

    Raises:
        CheckpointError: It is damaged, of another kind, or for another architecture.
    """
    tensors, header = read_adapter(path)
    label = f"The adapter {path}"
    check_values(tensors, label)
    if any(".lokr_" in key for key in tensors):
        return Lokr(tensors=rename_lokr(tensors, layers_in(tensors), label)), header
    return read_updates(tensors, layers_in(tensors), read_statement(path, header), label), header


def layers_in(keys: Iterable[str]) -> list[str]:
    """Return the names of the layers of a transformer that has as many blocks as the keys name.

    Args:
        keys: Keys of an adapter.
    """
    numbers = [int(match[1]) for key in keys if (match := _BLOCK.search(key))]
    num_blocks = min(max(numbers, default=0) + 1, _MOST_BLOCKS)
    with torch.device("meta"):
        block = JoyImageEditTransformer3DModel(
            hidden_size=16, num_attention_heads=1, text_dim=8, num_layers=1, rope_dim_list=(4, 6, 6)
        )
    first = "double_blocks.0."
    names: list[str] = []
    for name in adaptable_layers(block):
        if name.startswith(first):
            names += [f"double_blocks.{number}.{name.removeprefix(first)}" for number in range(num_blocks)]
        else:
            names.append(name)
    return names
