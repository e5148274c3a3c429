"""From settings to a pipeline on its device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from joyimage.serving.runner import LocalRunner

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from joyimage.serving.settings import ServerSettings


def load_runner(settings: ServerSettings, number: int = 0) -> LocalRunner:
    """Load the checkpoint.

    Args:
        settings: Of the server.
        number: Of the replica, for the choice of the device.

    Returns:
        The pipeline, ready.

    Raises:
        CheckpointError: It can't be read.
        ValueError: A setting is out of range.
    """
    import torch

    from joyimage.pipeline.buckets import bucket_sizes

    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda":
        device = f"cuda:{number % max(1, torch.cuda.device_count())}"
    dtype = settings.dtype or ("float32" if device == "cpu" else "bfloat16")
    if settings.base_size is not None:
        bucket_sizes(settings.base_size)  # refuses a base that doesn't exist
    pipe = _pipeline_class(settings.model).from_pretrained(settings.model, dtype=dtype).to(device)
    if settings.base_size is not None:
        pipe.register_to_config(base_size=settings.base_size)
    load_adapters(pipe, settings.loras)
    return LocalRunner(
        pipe,
        loras=tuple(settings.loras),
        preview_px=settings.preview_px,
        preview=settings.preview,
        session_bytes=settings.session_bytes,
    )


def load_adapters(pipe: Any, loras: Mapping[str, Path]) -> None:
    """Give a pipeline the adapters that requests may name, all switched off."""
    for name, path in loras.items():
        pipe.load_lora_weights(path, adapter_name=name)
    if loras:
        pipe.transformer.disable_adapters()


def _pipeline_class(model: str) -> Any:
    """Return the pipeline that a checkpoint is for: that for several references where its index says so."""
    import json
    from pathlib import Path

    from joyimage.pipeline.edit import JoyImageEditPipeline
    from joyimage.pipeline.edit_plus import JoyImageEditPlusPipeline

    try:
        index = json.loads((Path(model) / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        index = {}
    is_plus = index.get("_class_name") == "JoyImageEditPlusPipeline" or "Edit-Plus" in model
    return JoyImageEditPlusPipeline if is_plus else JoyImageEditPipeline
