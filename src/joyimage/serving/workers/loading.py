"""From the server's settings to a runner with a pipeline on its device."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from joyimage.loading import Adapter, check_load, load_pipeline
from joyimage.serving.workers.local import LocalRunner

if TYPE_CHECKING:
    from joyimage.serving.settings import ServerSettings

logger = logging.getLogger(__name__)


def check_settings(settings: ServerSettings) -> None:
    """Check what can be checked before a pipeline is loaded: device, precision, weight files, adapters, memory plan.

    Raises:
        CheckpointError: A weight file or an adapter is missing, or holds something else.
        DeviceError: The device does not exist on this machine.
        InvalidInputError: A setting is out of range.
    """
    check_load(**_arguments(settings))


def load_runner(settings: ServerSettings, number: int = 0) -> LocalRunner:
    """Load the checkpoint and its adapters; the adapters stay inactive until a request names one.

    Args:
        settings: Settings of the server.
        number: Number of the replica; replicas take the accelerators in turn.

    Returns:
        The runner, ready.

    Raises:
        CheckpointError: The checkpoint or an adapter cannot be read.
        DeviceError: The device does not exist on this machine.
        InvalidInputError: A setting is out of range.
        OutOfMemoryError: The device has too little memory.
    """
    arguments = _arguments(settings)
    hashes = {str(adapter.name): adapter.sha256() for adapter in arguments["loras"]}
    pipe = load_pipeline(**arguments, replica=number, announce=lambda plan: logger.info("%s", plan)).pipe
    if settings.loras:
        pipe.transformer.disable_adapters()
    return LocalRunner(
        pipe,
        loras=tuple(settings.loras),
        lora_sha256=hashes,
        preview_px=settings.preview_px,
        preview=settings.preview,
        session_bytes=settings.session_bytes,
    )


def _arguments(settings: ServerSettings) -> dict[str, Any]:
    """Return the arguments of `load_pipeline` that the settings give."""
    # A transformer's file without a model brings no configs: they are those of the published model.
    is_files_only = settings.transformer is not None and "model" not in settings.model_fields_set
    return {
        "model": None if is_files_only else settings.model,
        "transformer": settings.transformer,
        "text_encoder": settings.text_encoder,
        "vae": settings.vae,
        "quantization": settings.quantize,
        "offload": settings.offload,
        "device": settings.device,
        "dtype": settings.dtype,
        "base_size": settings.base_size,
        "loras": [Adapter(path=path, name=name) for name, path in settings.loras.items()],
    }
