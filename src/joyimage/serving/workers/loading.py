"""From the server's settings to a runner with a pipeline on its device."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from joyimage.companions import Companions
from joyimage.devices import TENSOR, check_gpus
from joyimage.errors import InvalidInputError
from joyimage.loading import Adapter, checked_load, load_pipeline
from joyimage.serving.workers.local import LocalRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from joyimage.loading import LoadedPipeline, MemoryPlan
    from joyimage.serving.settings import ServerSettings
    from joyimage.serving.workers.protocol import WorkItem

logger = logging.getLogger(__name__)


def check_settings(settings: ServerSettings) -> None:
    """Check what can be checked before a pipeline is loaded: device, precision, weight files, adapters, memory plan.

    Raises:
        CheckpointError: A weight file or an adapter is missing, or holds something else.
        DeviceError: The device does not exist on this machine.
        InvalidInputError: A setting is out of range.
    """
    check_gpus(settings.gpus, settings.device, settings.gpu_layout)
    if settings.gpus > 1 and settings.replicas > 1:
        raise InvalidInputError(
            f"`replicas` is {settings.replicas} and `gpus` is {settings.gpus}; several pipelines of several devices "
            "run with `--ray`, or as several servers."
        )
    num_parts = settings.gpus if settings.gpu_layout == TENSOR else 1
    checked_load(**_arguments(settings), num_parts=num_parts)


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
    make_runner = partial(
        _make_runner,
        loras=tuple(settings.loras),
        lora_sha256={str(adapter.name): adapter.sha256() for adapter in arguments["loras"]},
        preview_px=settings.preview_px,
        preview=settings.preview,
        session_bytes=settings.session_bytes,
    )

    def announce(plan: MemoryPlan) -> None:
        logger.info("%s", plan)

    if settings.gpus == 1:
        return make_runner(load_pipeline(**arguments, replica=number, announce=announce))
    companions, loaded = Companions.start(
        settings.gpus,
        arguments,
        partial(_follow, make_runner),
        layout=settings.gpu_layout,
        announce=announce,
    )
    return make_runner(loaded, companions=companions)


def _make_runner(loaded: LoadedPipeline, *, loras: tuple[str, ...], **options: Any) -> LocalRunner:
    if loras:
        loaded.pipe.transformer.disable_adapters()
    return LocalRunner(loaded.pipe, loras=loras, **options)


def _follow(
    make_runner: Callable[[LoadedPipeline], LocalRunner], loaded: LoadedPipeline
) -> Callable[[Sequence[WorkItem]], object]:
    """Return what another process does with the tasks that this one shares; the first process can stop them."""
    runner = make_runner(loaded)
    return lambda items: runner.run(items, lambda *_: None, lambda: False)


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
