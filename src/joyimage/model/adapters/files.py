"""Find and read the files of an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safetensors import SafetensorError, safe_open

from joyimage.errors import CheckpointError
from joyimage.model.adapters.strength import CONFIG_FILE
from joyimage.model.file_kind import describe_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_MOST_NAMES = 4  # of files in a message
_HUB_ARGUMENTS = ("cache_dir", "revision", "token", "force_download", "local_files_only")


def find_adapter_file(path: Path, weight_name: str | None = None) -> Path:
    """Return the adapter file that a path means: itself, or the one in the folder.

    Args:
        path: A file or a folder.
        weight_name: Name of the file in the folder; None takes the only safetensors file.

    Raises:
        CheckpointError: A folder without exactly one safetensors file, and no `weight_name` that says which.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(
            f"The adapter {path} is neither a file nor a folder; expected one with weights."
        )
    if weight_name is not None:
        return path / weight_name
    candidates = sorted(path.glob("*.safetensors"))
    if not candidates and (pickled := sorted(path.glob("*.bin"))):
        raise CheckpointError(
            f"{pickled[0]} is a pickle, which can run code and is not read; save the adapter as safetensors."
        )
    if not candidates:
        raise CheckpointError(f"The adapter folder {path} holds no safetensors file.")
    if len(candidates) > 1:
        names = ", ".join(one.name for one in candidates[:_MOST_NAMES]) + (
            ", …" if len(candidates) > _MOST_NAMES else ""
        )
        raise CheckpointError(
            f"The adapter folder {path} holds {len(candidates)} safetensors files ({names}): give one of them, such as"
            f" {candidates[0]}, or its name as `weight_name`."
        )
    return candidates[0]


def read_adapter(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return an adapter's tensors and the metadata of the file's header.

    Raises:
        CheckpointError: Not a readable safetensors file.
    """
    try:
        opened: Any = safe_open(path, framework="pt", device="cpu")  # safetensors has no types for open files
        with opened as file:
            adapter: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            header: dict[str, str] = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        if path.is_file() and "safetensors" in (kind := describe_file(path)):
            raise CheckpointError(
                f"The adapter {path} is damaged or was cut short: download or save it again ({error})."
            ) from error
        kind = "missing" if not path.is_file() else describe_file(path)
        raise CheckpointError(
            f"The adapter {path} is {kind}; expected a safetensors file: {error}."
        ) from error
    return adapter, dict(header)


def download_adapter(hub_id: str, options: Mapping[str, Any]) -> Path:
    """Return the folder of an adapter on the hub, downloaded where the cache lacks it.

    Args:
        hub_id: Such as "someone/pencil-sketch".
        options: Arguments of `load_lora_adapter`; those for the hub and `weight_name` count.

    Raises:
        CheckpointError: There is no such file, folder or hub id, or the hub cannot be reached.
    """
    import huggingface_hub

    subfolder = options.get("subfolder") or ""
    pattern = options.get("weight_name") or "*.safetensors"
    names = [pattern, CONFIG_FILE]
    hub = {name: options[name] for name in _HUB_ARGUMENTS if options.get(name) is not None}
    try:
        folder: str = cast("Any", huggingface_hub).snapshot_download(
            hub_id, allow_patterns=[f"{subfolder}/{name}" if subfolder else name for name in names], **hub
        )
    except Exception as error:  # the HTTP libraries that the hub's client uses have no common base
        raise CheckpointError(
            f"There is no adapter {hub_id}: expected a safetensors file, a folder with one, or a hub id that can be"
            f" downloaded ({type(error).__name__})."
        ) from error
    return Path(folder) / subfolder
