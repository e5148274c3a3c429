"""Write a model whose weights are in any format as a folder in the published layout, with plain weights."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from joyimage.errors import InvalidInputError
from joyimage.model.checkpoint.headers import shapes_of
from joyimage.model.checkpoint.parts import PARTS
from joyimage.model.checkpoint.shards import parse_size, write_shards
from joyimage.pipeline.components import PUBLISHED_FOLDER, STEMS, build_empty_part, open_part
from joyimage.pipeline.conversion import TOKENIZER_FILES, copy_files, write_json
from joyimage.pipeline.folder_checks import CHECKS, check_folder, read_index

if TYPE_CHECKING:
    from collections.abc import Mapping

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""Precisions of plain weights."""


def write_folder(
    base: Path | None,
    files: Mapping[str, Path],
    output: Path,
    *,
    precision: str = "bf16",
    plus: bool = False,
    max_shard_size: str = "5GB",
) -> Path:
    """Decode a model and write it in the published layout, completely or not at all.

    Args:
        base: A folder in the published layout; None for the configs of the published model, which ship with
            this package.
        files: Part → weight file in any format, for the parts that do not come from the folder.
        output: Folder to write; it must not exist.
        precision: One of `PRECISIONS`.
        plus: Without `base`: the model takes several references.
        max_shard_size: Largest weight file, such as "5GB" or "500MB".

    Returns:
        `output`.

    Raises:
        CheckpointError: A file cannot be read, or does not fit its config.
        InvalidInputError: The output exists, or an argument has a value that is not accepted.
    """
    parse_size(max_shard_size)
    if precision not in PRECISIONS:
        raise InvalidInputError(
            f"`format` is {precision!r}; expected {', '.join(PRECISIONS)} for a folder. A quantized format is written"
            " as one file: give an output that ends with .safetensors or .gguf."
        )
    if output.exists():
        raise InvalidInputError(f"`output` must be a new folder: {output} exists.")
    if base is not None:
        check_folder(base, without=files, with_weights=False)
    folder = base or PUBLISHED_FOLDER
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as scratch:
        written = Path(scratch) / output.name
        _copy_small_files(folder, written)
        if base is None:
            index = read_index(folder / "model_index.json")
            kind = "JoyImageEditPlus" if plus else "JoyImageEdit"
            index |= {
                "_class_name": f"{kind}Pipeline",
                "transformer": ["diffusers", f"{kind}Transformer3DModel"],
            }
            write_json(written / "model_index.json", index)
            copy_files(folder / "processor", written / "tokenizer", TOKENIZER_FILES)
        for part in PARTS:
            _write_part(
                files.get(part, folder / part), part, written / part, PRECISIONS[precision], max_shard_size
            )
            CHECKS[part](written / part, None)
        written.rename(output)
    return output


def _copy_small_files(folder: Path, output: Path) -> None:
    """Copy everything of a checkpoint folder but its weights."""
    for path in folder.glob("*"):
        if path.is_dir():
            names = [one.name for one in path.glob("*") if one.suffix in {".json", ".jinja", ".txt"}]
            copy_files(path, output / path.name, [name for name in names if ".index." not in name])
    shutil.copyfile(folder / "model_index.json", output / "model_index.json")


def _write_part(path: Path, part: str, output: Path, dtype: torch.dtype, max_shard_size: str) -> None:
    """Decode the weights of a part, one shard at a time."""
    source = open_part(path, part)
    model = build_empty_part(output, part)
    source.check(shapes_of(model), ("lm_head.weight",) if part == "text_encoder" else ())
    sizes = {name: torch.Size(shape).numel() * dtype.itemsize for name, shape in source.shapes.items()}
    write_shards(sizes, lambda name: source.read(name).decode(dtype), output, STEMS[part], max_shard_size)
