"""Convert an adapter file from any layout to another, without the model that it is for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from joyimage.errors import CheckpointError
from joyimage.model.adapters.files import find_adapter_file, read_adapter
from joyimage.model.adapters.layouts import save_adapter, save_lokr
from joyimage.model.adapters.mixin import check_values
from joyimage.model.adapters.names import adaptable_layers
from joyimage.model.adapters.strength import HEADER_CONFIG, read_statement
from joyimage.model.adapters.updates import read_updates, rename_lokr
from joyimage.model.transformer import JoyImageEditTransformer3DModel

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

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
    path = find_adapter_file(source, weight_name)
    tensors, header = read_adapter(path)
    label = f"The adapter {path}"
    check_values(tensors, label)
    kept = {key: value for key, value in header.items() if key not in _LAYOUT_ENTRIES}
    if any(".lokr_" in key for key in tensors):
        return save_lokr(rename_lokr(tensors, layers_in(tensors), label), output, layout, kept)
    updates = read_updates(tensors, layers_in(tensors), read_statement(path, header), label)
    return save_adapter(updates, output, layout, kept)


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
