"""Measure edits that several devices share: the first process's pipeline tells the others every call."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from joyimage.benchmark.models import BenchModel, build
from joyimage.companions import Companions
from joyimage.devices import GUIDANCE, choose_device
from joyimage.loading import checked_load, load_pipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was loaded to be measured.

    Attributes:
        pipe: The pipeline, quiet.
    """

    pipe: Any


def load_measured(
    model: BenchModel | str,
    *,
    device: str,
    dtype: str,
    replica: int = 0,
    num_parts: int = 1,
    announce: object = None,
    **loading: Any,
) -> Measured:
    """Build or load a pipeline; every process that shares its edits calls this with the same arguments.

    Args:
        model: Sizes of a model with random weights, or what `load_pipeline` takes.
        device: Where it runs, such as "cuda"; without an index the processes take the devices in turn.
        dtype: Precision of the weights, such as "bfloat16".
        replica: Number of the process.
        num_parts: Number of slices of the transformer's layers, of which a loaded pipeline keeps one; a built one is
            whole until it is shared.
        announce: Not called: a benchmark prints no memory plan.
        **loading: Further arguments of `load_pipeline`.
    """
    del announce
    if isinstance(model, BenchModel):
        place = torch.device(choose_device(device, replica=replica))
        return Measured(pipe=build(model, place, getattr(torch, dtype)))
    pipe = load_pipeline(
        model, device=device, dtype=dtype, replica=replica, num_parts=num_parts, **loading
    ).pipe
    pipe.set_progress_bar_config(disable=True)
    return Measured(pipe=pipe)


class SharedPipe:
    """A pipeline whose calls other processes make too; all else is the pipeline itself.

    Args:
        pipe: The pipeline of the first process, which shares its edits.
        companions: The other processes.
        is_shared: Whether calls are shared; False makes them on this process alone.
    """

    def __init__(self, pipe: Any, companions: Companions, *, is_shared: bool = True) -> None:
        vars(self).update(_pipe=pipe, _companions=companions, _is_shared=is_shared)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_pipe"], name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._pipe, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._pipe, name)

    def __call__(self, **call: Any) -> Any:
        """Make a call of the pipeline, and have the other processes make it; what they draw does not count."""
        if self._is_shared:
            told = {name: value for name, value in call.items() if name != "generator"}
            self._companions.tell({name: _on_host(value) for name, value in told.items()})
            return self._pipe(**call)
        processes, self._pipe.processes = self._pipe.processes, None
        try:
            return self._pipe(**call)
        finally:
            self._pipe.processes = processes

    def alone(self) -> SharedPipe:
        """Return the same pipeline, with calls on this process alone."""
        return SharedPipe(self._pipe, self._companions, is_shared=False)


@contextmanager
def opened(gpus: int, load: dict[str, Any], layout: str = GUIDANCE) -> Generator[Any]:
    """Load a pipeline, and end the processes that share its edits at the end of the `with`.

    Args:
        gpus: Number of devices that share each edit; with 1 there are no other processes.
        load: Arguments of `load_measured`.
        layout: How they share it, one of `GPU_LAYOUTS`.

    Yields:
        The pipeline.

    Raises:
        DeviceError: There are fewer devices.
        InvalidInputError: A setting is not accepted.
    """
    if gpus == 1:
        yield load_measured(**load).pipe
        return
    companions, measured = Companions.start(
        gpus, load, _follow, loader=load_measured, check=_check, layout=layout
    )
    try:
        yield SharedPipe(measured.pipe, companions)
    finally:
        companions.end()


def _check(model: BenchModel | str, **load: Any) -> None:
    """Reject what cannot be loaded, before any process is started."""
    if not isinstance(model, BenchModel):
        checked_load(model, **load)


def _follow(measured: Measured) -> Callable[[dict[str, Any]], object]:
    """Return what another process does with each call of the first one.

    It reads an image and a prompt once, however often they are edited, so that the first process never waits for that.
    """
    pipe = measured.pipe
    session = pipe.session()

    def follow(call: dict[str, Any]) -> object:
        device = pipe.compute_device
        with session.caching():
            return pipe(
                **{
                    name: value.to(device) if isinstance(value, torch.Tensor) else value
                    for name, value in call.items()
                }
            )

    return follow


def _on_host(value: Any) -> Any:
    return value.cpu() if isinstance(value, torch.Tensor) else value
