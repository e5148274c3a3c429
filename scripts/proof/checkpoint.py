"""Write a checkpoint of the published shapes, or smaller ones, with random weights: one tensor at a time."""

from __future__ import annotations

import json
import re
import shutil
import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from joyimage.benchmark.models import draw_weight
from joyimage.imaging.atomic import write_text, write_whole
from joyimage.model.checkpoint.files import WeightFile
from joyimage.model.checkpoint.headers import read_json
from joyimage.model.checkpoint.parts import PARTS
from joyimage.pipeline.components import PUBLISHED_FOLDER, STEMS, build_empty_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import IO

    from torch import Tensor

SHARD_BYTES = 5 * 10**9
"""Largest weight file, as in the published checkpoint."""

STD = 0.02

_BLOCK_NUMBER = re.compile(r"\b(double_blocks|language_model\.layers)\.\d+\.")
"""Where a name has the number of a block: all blocks get the weights of the first one, as drawing takes longest."""


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What differs from the published configs; by default nothing.

    Attributes:
        transformer: Settings of the transformer, such as `num_layers`.
        text: Settings of the text encoder's language half.
        vision: Settings of its vision tower.
        vae: Settings of the VAE.
    """

    transformer: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)
    vae: dict[str, Any] = field(default_factory=dict)

    def with_layers(self, num_blocks: int, num_text_layers: int) -> Shapes:
        """Return shapes of the same width with another number of layers.

        Args:
            num_blocks: Blocks of the transformer.
            num_text_layers: Layers of the text encoder's language half.
        """
        return replace(
            self,
            transformer={**self.transformer, "num_layers": num_blocks},
            text={**self.text, "num_hidden_layers": num_text_layers},
        )


def write_checkpoint(
    folder: Path,
    shapes: Shapes,
    *,
    parts: tuple[str, ...] = PARTS,
    shard_bytes: int = SHARD_BYTES,
    log: Callable[[str], None] = print,
) -> None:
    """Write a folder in the published layout; files that are there from an earlier run are kept.

    Args:
        folder: Folder to write.
        shapes: What differs from the published configs.
        parts: Parts whose weights are written; configs and tokenizer always are.
        shard_bytes: Largest weight file.
        log: Called with the path of each file that is written.
    """
    _write_configs(folder, shapes)
    for part in parts:
        model = build_empty_part(folder / part, part)
        weights = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        shards = list(_split(weights, shard_bytes))
        stem = STEMS[part]
        names = [f"{stem}-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
        if len(shards) == 1:
            names = [f"{stem}.safetensors"]
        for name, shard in zip(names, shards, strict=True):
            path = folder / part / name
            if not path.exists():
                write_whole(path, lambda file, shard=shard: _write_shard(file, shard))
                log(str(path))
        if len(shards) > 1:
            _write_index(folder / part / f"{stem}.safetensors.index.json", names, shards)


def _write_configs(folder: Path, shapes: Shapes) -> None:
    shutil.copytree(PUBLISHED_FOLDER, folder, dirs_exist_ok=True)
    shutil.copytree(
        PUBLISHED_FOLDER / "processor",
        folder / "tokenizer",
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("*preprocessor_config.json", "chat_template.jinja"),
    )
    for part, changes in (
        ("transformer", shapes.transformer),
        ("text_encoder", {"text_config": shapes.text, "vision_config": shapes.vision}),
        ("vae", shapes.vae),
    ):
        path = folder / part / "config.json"
        config = read_json(path)
        for key, value in changes.items():
            config[key] = {**config[key], **value} if isinstance(value, dict) else value
        write_text(path, json.dumps(config, indent=2) + "\n")


def _split(weights: dict[str, tuple[int, ...]], shard_bytes: int) -> Iterator[dict[str, tuple[int, ...]]]:
    """Yield names and shapes of the weights of each file."""
    shard: dict[str, tuple[int, ...]] = {}
    used = 0
    for name, shape in weights.items():
        size = _num_bytes(shape)
        if shard and used + size > shard_bytes:
            yield shard
            shard, used = {}, 0
        shard[name] = shape
        used += size
    yield shard


def _write_shard(file: IO[bytes], shapes: dict[str, tuple[int, ...]]) -> None:
    """Write a safetensors file in bf16, drawing each weight when it is its turn."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, shape in shapes.items():
        end = place + _num_bytes(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    block: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        first = _BLOCK_NUMBER.sub(r"\1.0.", name)
        values = block.get(first)
        if values is None:
            values = _draw(first, shape)
        if _BLOCK_NUMBER.search(name):
            block[first] = values
        file.write(values.view(torch.uint8).numpy().data)


def repeat_block(source: Path, output: Path, count: int) -> None:
    """Write a file whose blocks all have the weights of the first one.

    Args:
        source: A safetensors file with one block.
        output: File to write.
        count: Number of blocks.
    """
    small = WeightFile(source)
    names = {
        name: [_BLOCK_NUMBER.sub(rf"\g<1>.{number}.", name) for number in range(count)]
        if _BLOCK_NUMBER.search(name)
        else [name]
        for name in small.tensors
    }
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, copies in names.items():
        entry = small.tensors[name]
        for copy in copies:
            end = place + entry.num_bytes
            header[copy] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [place, end]}
            place = end
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-len(text) % 8)

    def write(file: IO[bytes]) -> None:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, copies in names.items():
            data = small.read(name).contiguous().reshape(-1).view(torch.uint8).numpy().data
            for _ in copies:
                file.write(data)

    write_whole(output, write)


def _draw(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return a weight as one row; the same for the same name, in whichever file and run it is written."""
    weight = torch.empty(shape, dtype=torch.bfloat16)
    draw_weight(weight, name, STD, torch.Generator().manual_seed(zlib.crc32(name.encode("utf-8"))))
    return weight.reshape(-1)


def _write_index(path: Path, names: list[str], shards: list[dict[str, tuple[int, ...]]]) -> None:
    weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    total = sum(_num_bytes(shape) for shard in shards for shape in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_text(path, json.dumps(index, indent=2) + "\n")


def _num_bytes(shape: tuple[int, ...]) -> int:
    return 2 * torch.Size(shape).numel()
