"""The table of a GGUF file: settings, and names, types, shapes and places of tensors.

Source: docs/gguf.md of ggml, versions 2 and 3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from joyimage.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = b"GGUF"

_PLAIN_TYPES = {0: ("F32", 4), 1: ("F16", 2), 24: ("I8", 1), 26: ("I32", 4), 30: ("BF16", 2)}
"""Number of a type → (safetensors' name, bytes of a value)."""

BLOCK_NUMBERS = {
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
}
"""Number of a type → name of its blocks."""

BLOCK_SIZES = {
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}
"""Name of the blocks → (values, bytes) of a block."""

_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_MAX_STRING_BYTES = 2**26
_MAX_ITEMS = 2**24
_MAX_DIMS = 8
_DEFAULT_ALIGNMENT = 32


class _DamagedTableError(Exception):
    """A number in a file's table is out of range; `read_gguf_table` names the file instead."""


@dataclass(frozen=True)
class GgufEntry:
    """One tensor of a GGUF file.

    Attributes:
        dtype: Safetensors' name of the stored type, "U8" for blocks.
        shape: Shape as stored: of blocks, the last dimension counts bytes.
        start: Place of the first byte in the file.
        num_bytes: Number of bytes.
        block_type: Type of the blocks, or None for plain tensors.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    num_bytes: int
    block_type: str | None


@dataclass(frozen=True)
class GgufTable:
    """Settings and tensors of a GGUF file.

    Attributes:
        metadata: Settings by key, such as "general.architecture".
        entries: Tensors by name.
    """

    metadata: dict[str, Any]
    entries: dict[str, GgufEntry]


def read_gguf_table(path: Path) -> GgufTable:
    """Read the table of a GGUF file, without the weights.

    Args:
        path: A file that begins with "GGUF".

    Raises:
        CheckpointError: The file is cut short, damaged, or of a version or type that is not known.
    """
    num_file_bytes = path.stat().st_size
    with path.open("rb") as file:
        try:
            file.seek(len(MAGIC))
            (version,) = _unpack(file, "<I")
            if version not in {2, 3}:
                raise CheckpointError(
                    f"{path} is a GGUF file of version {version}; expected version 2 or 3, little-endian."
                )
            num_tensors, num_settings = _unpack(file, "<QQ")
            metadata: dict[str, Any] = {}
            for _ in range(_checked(num_settings)):
                key = _string(file)
                (kind,) = _unpack(file, "<I")
                metadata[key] = _value(file, kind)
            infos = [_tensor_info(file, path) for _ in range(_checked(num_tensors))]
            alignment = int(metadata.get("general.alignment", _DEFAULT_ALIGNMENT))
            first = -(-file.tell() // alignment) * alignment
        except CheckpointError:
            raise
        except (struct.error, _DamagedTableError, ValueError, KeyError, ZeroDivisionError) as error:
            raise CheckpointError(
                f"{path} is a GGUF file with a damaged or incomplete table. Download it again."
            ) from error
    entries = {
        name: GgufEntry(dtype, shape, first + offset, num_bytes, block_type)
        for name, dtype, shape, offset, num_bytes, block_type in infos
    }
    end = max((entry.start + entry.num_bytes for entry in entries.values()), default=0)
    if end > num_file_bytes:
        raise CheckpointError(
            f"{path} has {num_file_bytes} bytes, but its table needs {end}: download the file again."
        )
    return GgufTable(metadata, entries)


def _tensor_info(file: IO[bytes], path: Path) -> tuple[str, str, tuple[int, ...], int, int, str | None]:
    """Read name, type, stored shape, offset, size and block type of the next tensor.

    Raises:
        CheckpointError: The type is not known, or rows are not whole blocks.
        _DamagedTableError: A number in it is out of range.
    """
    name = _string(file)
    (num_dims,) = _unpack(file, "<I")
    if num_dims > _MAX_DIMS:
        raise _DamagedTableError(num_dims)
    shape = _unpack(file, f"<{num_dims}Q")[::-1]  # stored with the fastest dimension first
    number, offset = _unpack(file, "<IQ")
    num_values = 1
    for size in shape:
        num_values *= size
    if number in _PLAIN_TYPES:
        dtype, num_value_bytes = _PLAIN_TYPES[number]
        return name, dtype, shape, offset, num_values * num_value_bytes, None
    if number not in BLOCK_NUMBERS:
        raise CheckpointError(
            f"{path}: `{name}` has the GGUF type number {number}, which joyimage cannot read; expected F32, F16,"
            f" BF16, {', '.join(BLOCK_SIZES)}."
        )
    num_block_values, num_block_bytes = BLOCK_SIZES[BLOCK_NUMBERS[number]]
    if not shape or shape[-1] % num_block_values:
        raise CheckpointError(
            f"{path}: `{name}` of shape {list(shape)} is not a whole number of {BLOCK_NUMBERS[number]} blocks."
            " Download the file again."
        )
    stored = (*shape[:-1], shape[-1] // num_block_values * num_block_bytes)
    num_bytes = num_values // num_block_values * num_block_bytes
    return name, "U8", stored, offset, num_bytes, BLOCK_NUMBERS[number]


def _unpack(file: IO[bytes], layout: str) -> tuple[Any, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _checked(count: int) -> int:
    if count > _MAX_ITEMS:
        raise _DamagedTableError(count)
    return count


def _string(file: IO[bytes]) -> str:
    (num_bytes,) = _unpack(file, "<Q")
    if num_bytes > _MAX_STRING_BYTES:
        raise _DamagedTableError(num_bytes)
    text = file.read(num_bytes)
    if len(text) < num_bytes:
        raise _DamagedTableError(num_bytes)
    return text.decode("utf-8")


def _value(file: IO[bytes], kind: int) -> Any:
    """Read one setting: a number, a string, or an array of either."""
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        item_kind, count = _unpack(file, "<IQ")
        return [_value(file, item_kind) for _ in range(_checked(count))]
    return _unpack(file, _SCALARS[kind])[0]
