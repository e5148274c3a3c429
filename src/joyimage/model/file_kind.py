"""Tell what a single file of weights is, from its first bytes and names, so that a message can name it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, cast

from joyimage.errors import CheckpointError
from joyimage.model.checkpoint.gguf import read_gguf_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_LFS = b"version https://git-lfs.github.com/spec"
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
SCALE_NAMES = (".weight_scale", ".scale_weight", ".scale_input", ".input_scale", "scaled_fp8")
"""How the names of the extra tensors in scaled fp8 files end."""

_QUANTIZED_TYPES = {"F8_E4M3": "fp8", "F8_E5M2": "fp8", "I8": "int8", "U8": "8-bit"}

_LORA_KEY = re.compile(r"\.(lora_[ABab]|lora_(up|down)|lokr_w\d|hada_w\d_[ab]|alpha)(\.|$)|\.diff(_b)?$")
_LLAMA_KEY = re.compile(r"^(blk\.\d+\.|token_embd\.)")
_LLAMA_VISION_KEY = re.compile(r"^(v\.blk\.\d+\.|v\.patch_embd|mm\.\d+\.)")
_LANGUAGE_KEY = re.compile(r"(^|\.)layers\.\d+\.self_attn\.q_proj\.")

TEXT_ENCODER_HEAD = "visual.deepstack_merger_list.0.norm.weight"
"""How the name ends that only a Qwen3-VL with its vision tower has."""

TEXT_ENCODER_KEY = re.compile(
    r"^(?:\w+\.)*?(?:model\.)?(?P<head>visual|language_model|layers|embed_tokens|norm|lm_head)\.(?P<rest>.+)$"
)
"""A name of the text encoder: any prefix, the name of a half or of a part of the language half, and the rest."""


def describe_file(path: Path) -> str:
    """Return what kind of file holds (or should hold) weights, as a noun phrase.

    Args:
        path: An existing file.
    """
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(_LFS):
        return "a Git LFS pointer, not the weights themselves"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page (HTML), as a failed download leaves it"
    if start.startswith(b"GGUF"):
        return "a GGUF file"
    if start.startswith((b"PK\x03\x04", b"\x80\x02")):
        return "a pickled PyTorch checkpoint"
    if not start.strip(b"\0"):
        return "a file of zeros, as an interrupted download leaves it" if start else "an empty file"
    header = _read_header(path)
    if header is None:
        header_bytes = int.from_bytes(start[:8], "little")
        # A header is a JSON object; this one does not end within the file.
        if start[8:9] == b"{" and path.stat().st_size - 8 < header_bytes <= _MAX_HEADER_BYTES:
            return "a safetensors file that was cut short"
        return "not a file of weights that joyimage knows"
    if any(name.endswith(SCALE_NAMES) for name in header):
        return "a safetensors file with scaled fp8 weights"
    entries = [cast("dict[str, object]", entry) for entry in header.values() if isinstance(entry, dict)]
    types = {entry.get("dtype") for entry in entries}
    for dtype, name in _QUANTIZED_TYPES.items():
        if dtype in types:
            return f"a safetensors file with {name} weights"
    return "a single safetensors file"


def part_of(names: Iterable[str]) -> str | None:
    """Return the part of the model that weights belong to, or None if they are of another model.

    Args:
        names: Names of the weights, in any layout.

    Returns:
        "transformer", "text_encoder", "vae" or None.
    """
    names = list(names)
    ends = tuple(f".{name}" for name in names)
    if any(re.search(r"(^|\.)double_blocks\.\d+\.(attn\.)?img_attn_qkv\.", name) for name in names):
        return "transformer"
    if any(name.endswith(f".{TEXT_ENCODER_HEAD}") for name in ends):
        return "text_encoder"
    if any(name.endswith((".encoder.conv1.weight", ".encoder.conv_in.weight")) for name in ends):
        return "vae"
    return None


def describe_contents(names: Iterable[str], gguf: Mapping[str, Any] | None = None) -> str | None:
    """Return what a file holds that is not part of the model, with advice, or None for anything else.

    Args:
        names: Names of the file's tensors.
        gguf: Settings of a GGUF file; None for other files.
    """
    names = list(names)
    if any(_LORA_KEY.search(name) for name in names):
        return "a LoRA adapter, not a part of the model. Give it with `--lora`."
    if gguf is not None:
        architecture = gguf.get("general.architecture", "")
        model = "Qwen3-VL" if str(architecture).startswith("qwen3vl") else f"{architecture!r}"
        if any(_LLAMA_VISION_KEY.match(name) for name in names):
            return (
                f"the vision tower (mmproj) of a GGUF of {model}, as llama.cpp uses it. Use a file that holds the"
                " whole text encoder, such as qwen3vl_8b_joyimage_edit_bf16.safetensors."
            )
        if any(_LLAMA_KEY.match(name) for name in names):
            return (
                f"a GGUF of {model} without its vision tower, as llama.cpp uses it. Use a file that holds the"
                " whole text encoder, such as qwen3vl_8b_joyimage_edit_bf16.safetensors."
            )
    if part_of(names) is None and any(_LANGUAGE_KEY.search(name) for name in names):
        return (
            "a language model without the vision tower of Qwen3-VL. Use a file that holds the whole text encoder,"
            " such as qwen3vl_8b_joyimage_edit_bf16.safetensors."
        )
    return None


def part_of_file(path: Path) -> str:
    """Return the part of the model that a file holds.

    Args:
        path: A safetensors or GGUF file.

    Returns:
        "transformer", "text_encoder" or "vae".

    Raises:
        CheckpointError: The file is something else; the message says what.
    """
    kind = describe_file(path)
    if "GGUF" in kind:
        table = read_gguf_table(path)
        names, settings = list(table.entries), table.metadata
    else:
        names, settings = [name for name in _read_header(path) or () if name != "__metadata__"], None
    if not names:
        advice = _repair(kind, path) or "Give a file that holds a part of JoyAI-Image-Edit."
        raise CheckpointError(f"{path} is {kind}; expected weights in a safetensors or GGUF file. {advice}")
    foreign = describe_contents(names, settings)
    part = part_of(names)
    if foreign is None and part is None:
        foreign = f"of another model (it has `{names[0]}`). Expected a part of JoyAI-Image-Edit."
    if foreign is not None or part is None:
        raise CheckpointError(f"{path} is {foreign}")
    return part


def describe_as_model(path: Path) -> str:
    """Return the message for a file that was given where a checkpoint is expected, and cannot be read.

    Args:
        path: An existing file.
    """
    kind = describe_file(path)
    advice = _repair(kind, path)
    if advice is None and ("safetensors" in kind or "GGUF" in kind):
        advice = (
            f"If it holds the transformer, give it and the other parts to `load_pipeline` or to the command:"
            f" `--transformer {path} --text-encoder FILE --vae FILE`."
        )
    advice = advice or "Give the folder that holds the checkpoint."
    return f"{path} is {kind}; expected a checkpoint folder with a model_index.json. {advice}"


def _repair(kind: str, path: Path) -> str | None:
    """Return how a file of weights is had in place of one that is none, or None if that is not known."""
    if "HTML" in kind:
        return "Download the file again; the link may need a login."
    if "LFS" in kind:
        return "Download the weights with `git lfs pull` or `hf download`."
    if any(word in kind for word in ("cut short", "empty", "zeros")):
        return "Download the file again."
    if "pickled" in kind:
        return (
            "If it holds the transformer of the original code, make a folder of it and of the other parts"
            f" with `joyimage convert SOURCE OUTPUT --transformer {path}`."
        )
    return None


def _read_header(path: Path) -> dict[str, object] | None:
    """Return the header of a safetensors file, or None if the file is none."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= min(_MAX_HEADER_BYTES, path.stat().st_size - 8):
            return None
        try:
            header: object = json.loads(file.read(size))
        except ValueError:
            return None
    return cast("dict[str, object]", header) if isinstance(header, dict) else None
