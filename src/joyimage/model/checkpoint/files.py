"""One file of weights, safetensors or GGUF: its table of tensors, and its tensors mapped into memory."""

from __future__ import annotations

import json
import mmap
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from joyimage.errors import CheckpointError
from joyimage.model.checkpoint.gguf import MAGIC, read_gguf_table
from joyimage.model.checkpoint.headers import read_header
from joyimage.model.checkpoint.shards import PICKLE_SUFFIXES, pickle_message

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
}


_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0
"""Map files that are larger than the machine's memory: Linux counts private mappings as memory otherwise.

Python names the flag from 3.13 on."""


@dataclass(frozen=True)
class FileTensor:
    """What a file's table says about one tensor.

    Attributes:
        dtype: Name of the stored type: a safetensors dtype such as "BF16", or "U8" for blocks of a GGUF.
        shape: Shape as stored.
        start: Place of the first byte in the file.
        num_bytes: Number of bytes.
        block_type: Type of the blocks of a GGUF, such as "Q4_K"; None for plain tensors.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    num_bytes: int
    block_type: str | None = None


class WeightFile:
    """A safetensors or GGUF file whose table has been read and checked.

    Attributes:
        path: The file.
        is_gguf: Whether the file is a GGUF.
        tensors: Table of the file.
        metadata: Text entries of a safetensors file, or the settings of a GGUF.
    """

    def __init__(self, path: Path) -> None:
        """Read the table of a file.

        Args:
            path: A safetensors or GGUF file.

        Raises:
            CheckpointError: The file is missing, cut short, or of another format.
        """
        if not path.is_file():
            raise CheckpointError(f"There is no file {path}: expected a safetensors or GGUF file.")
        if path.suffix in PICKLE_SUFFIXES:
            raise CheckpointError(pickle_message(path))
        self.path = path
        with path.open("rb") as file:
            self.is_gguf = file.read(len(MAGIC)) == MAGIC
        if self.is_gguf:
            table = read_gguf_table(path)
            self.metadata: dict[str, Any] = table.metadata
            self.tensors = {
                name: FileTensor(entry.dtype, entry.shape, entry.start, entry.num_bytes, entry.block_type)
                for name, entry in table.entries.items()
            }
        else:
            read_header(path)  # names what is wrong with the file
            self.metadata, self.tensors = _read_safetensors_table(path)

    @cached_property
    def _mapping(self) -> mmap.mmap:
        # A private mapping: torch requires memory that can be written, and the file never changes.
        with self.path.open("rb") as file:
            if sys.platform == "win32":
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            flags = mmap.MAP_PRIVATE | _MAP_NORESERVE
            return mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)

    def unmap(self) -> None:
        """Let go of the file: it is mapped anew by the next read, and tensors in use keep their mapping."""
        self.__dict__.pop("_mapping", None)

    def read(self, name: str) -> Tensor:
        """Return a tensor as stored; its memory is that of the file until it is written to.

        Args:
            name: Name in the file's table.

        Raises:
            CheckpointError: The type of the tensor is not known.
        """
        entry = self.tensors[name]
        dtype = _DTYPES.get(entry.dtype)
        if dtype is None:
            raise CheckpointError(
                f"{self.path}: `{name}` has the type {entry.dtype}, which joyimage cannot read; expected one of"
                f" {', '.join(_DTYPES)}."
            )
        if entry.num_bytes == 0:
            return torch.empty(entry.shape, dtype=dtype)
        stored = torch.frombuffer(self._mapping, dtype=torch.uint8, count=entry.num_bytes, offset=entry.start)
        if entry.start % dtype.itemsize:
            stored = stored.clone()  # torch requires aligned memory
        return stored.view(dtype).reshape(entry.shape)


def _read_safetensors_table(path: Path) -> tuple[dict[str, Any], dict[str, FileTensor]]:
    with path.open("rb") as file:
        num_header_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(num_header_bytes))
    metadata = header.pop("__metadata__", {})
    first = 8 + num_header_bytes
    tensors: dict[str, FileTensor] = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        tensors[name] = FileTensor(entry["dtype"], tuple(entry["shape"]), first + start, end - start)
        expected = _num_bytes(tensors[name])
        if expected is not None and expected != end - start:
            raise CheckpointError(
                f"{path}: `{name}` has {end - start} bytes, but its shape and type need {expected}. Download the"
                " file again."
            )
    return metadata, tensors


def _num_bytes(tensor: FileTensor) -> int | None:
    """Return the bytes that shape and type need, or None if the type is not known."""
    dtype = _DTYPES.get(tensor.dtype)
    return None if dtype is None else torch.Size(tensor.shape).numel() * dtype.itemsize
