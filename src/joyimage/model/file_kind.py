"""Tell what a single file of weights is, from its first bytes, so that a message can name it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_LFS = b"version https://git-lfs.github.com/spec"
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
SCALE_NAMES = (".weight_scale", ".scale_weight", ".scale_input", ".input_scale", "scaled_fp8")
"""How the names of the extra tensors in scaled fp8 files end."""

_QUANTIZED_TYPES = {"F8_E4M3": "fp8", "F8_E5M2": "fp8", "I8": "int8", "U8": "8-bit"}


def describe_file(path: Path) -> str:
    """Return what kind of file holds (or should hold) weights, as a noun phrase.

    Args:
        path: An existing file.
    """
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(_LFS):
        return "a Git LFS pointer, not the weights themselves"
    if start.startswith(b"GGUF"):
        return "a GGUF file"
    if start.startswith((b"PK\x03\x04", b"\x80\x02")):
        return "a pickled PyTorch checkpoint"
    header = _read_header(path)
    if header is None:
        return "not a file of weights that joyimage knows"
    if any(name.endswith(SCALE_NAMES) for name in header):
        return "a safetensors file with scaled fp8 weights"
    types = {entry.get("dtype") for entry in header.values() if isinstance(entry, dict)}
    for dtype, name in _QUANTIZED_TYPES.items():
        if dtype in types:
            return f"a safetensors file with {name} weights"
    return "a single safetensors file"


def describe_as_model(path: Path) -> str:
    """Return the message for a file that was given where a checkpoint folder is expected.

    Args:
        path: An existing file.
    """
    kind = describe_file(path)
    if "LFS" in kind:
        advice = "Download the weights with `git lfs pull` or `hf download`."
    elif "GGUF" in kind or "scaled" in kind:
        advice = "This format is not supported: use bf16 or fp16 safetensors."
    elif "safetensors" in kind or "pickled" in kind:
        advice = (
            "If it holds the transformer of the original code, make a folder of it and of the other parts"
            f" with `joyimage convert SOURCE OUTPUT --transformer {path}`."
        )
    else:
        advice = "Give the folder that holds the checkpoint."
    return f"{path} is {kind}; expected a checkpoint folder with a model_index.json. {advice}"


def _read_header(path: Path) -> dict[str, object] | None:
    """Return the header of a safetensors file, or None if the file is none."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= min(_MAX_HEADER_BYTES, path.stat().st_size - 8):
            return None
        try:
            header = json.loads(file.read(size))
        except ValueError:
            return None
    return header if isinstance(header, dict) else None
