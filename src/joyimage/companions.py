"""Processes of this machine that share every edit of this one, each with the model on a device of its own.

`pipe.parallel(N)` wants N processes that make the same calls. Here the process that the user started, the first one,
starts the others and tells each of them every call before it makes it itself. They draw nothing on their own, write
nothing and print nothing: what they compute in a step is all that the first one takes from them.
"""

from __future__ import annotations

import atexit
import pickle  # of the package's own values, between its own processes
from multiprocessing import connection, get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torch import distributed as typed_distributed

from joyimage.acceleration.parallel import ParallelError
from joyimage.companion import accompany, connect
from joyimage.devices import GUIDANCE, TENSOR, check_gpus
from joyimage.errors import InvalidInputError
from joyimage.loading import checked_load, load_pipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.process import BaseProcess

    Load = dict[str, Any]
    Loader = Callable[..., Any]
    MakeCall = Callable[[Any], Callable[..., Any]]

distributed: Any = typed_distributed  # its functions are typed in part

_LONGEST_END_S = 3.0


class Companions:
    """The other processes, as the first one knows them.

    Args:
        processes: The processes, by rank from 1.
        connections: The way to each.
        folder: Where they leave word for each other; removed in the end.
    """

    def __init__(
        self, processes: Sequence[BaseProcess], connections: Sequence[Any], folder: TemporaryDirectory[str]
    ) -> None:
        self._processes = processes
        self._connections = connections
        self._folder = folder

    @classmethod
    def start(
        cls,
        num_processes: int,
        load: Load,
        make_call: MakeCall,
        *,
        loader: Loader = load_pipeline,
        check: Callable[..., object] = checked_load,
        layout: str = GUIDANCE,
        announce: Any = None,
    ) -> tuple[Companions, Any]:
        """Start the other processes, load the pipeline in all of them, and connect them.

        Args:
            num_processes: 2, 4 or 8, this one included.
            load: Arguments of `loader`, which every process calls; they can be pickled.
            make_call: From what was loaded to what answers `tell`; a function of a module.
            loader: Called with `load`, and with the process's number as `replica` or, in the first process, with
                `announce`; what it returns has the pipeline as `pipe`. A function of a module.
            check: Called with `load` before any process is started; rejects what cannot be loaded.
            layout: How they share edits, one of `GPU_LAYOUTS`; with "tensor" the loaders are given `num_parts` too.
            announce: Called with the memory plan of this process; see `load_pipeline`.

        Returns:
            The others, and what this process has loaded; its pipeline shares its edits with them.

        Raises:
            DeviceError: There are fewer devices.
            InvalidInputError: The number or layout is not accepted, the model cannot be divided so, or edits of this
                process are shared already.
            JoyImageError: The pipeline cannot be loaded.
            ParallelError: Another process could not load it.
        """
        if distributed.is_initialized():
            raise InvalidInputError(
                "This process shares edits with others already; end them before it shares edits in another way."
            )
        check_gpus(num_processes, load.get("device"), layout)
        if layout == TENSOR:
            load = {**load, "num_parts": num_processes}
        check(**load)
        # A file that only this user reads, where a port could be reached by others.
        folder = TemporaryDirectory(prefix="joyimage-")
        store = str(Path(folder.name) / "store")
        packed = pickle.dumps((loader, load, make_call))
        context = get_context("spawn")
        pairs = [context.Pipe() for _ in range(1, num_processes)]
        processes = [
            context.Process(
                target=accompany,
                args=(rank, num_processes, layout, store, packed, theirs),
                name=f"joyimage {rank + 1} of {num_processes}",
                daemon=True,
            )
            for rank, (_, theirs) in enumerate(pairs, 1)
        ]
        companions = cls(processes, [ours for ours, _ in pairs], folder)
        atexit.register(companions.end)
        try:
            for process, (_, theirs) in zip(processes, pairs, strict=True):
                process.start()
                theirs.close()
            loaded = loader(**load, announce=announce)
            companions._await_loaded()
            companions.tell()
            connect(0, num_processes, store)
            loaded.pipe.parallel(num_processes, layout)
        except BaseException:
            companions.end()
            raise
        return companions, loaded

    def tell(self, *call: Any) -> None:
        """Have the other processes make a call too.

        Args:
            *call: Arguments of what `make_call` returned.

        Raises:
            ParallelError: A process has ended.
        """
        self._check_alive()
        for one in self._connections:
            try:
                one.send(call)
            except OSError as error:
                raise ParallelError(_ended(self._processes)) from error

    def end(self) -> None:
        """End the other processes; they have nothing that could be lost."""
        atexit.unregister(self.end)
        for one in self._connections:
            one.close()
        for process in self._processes:
            if process.pid is not None:
                process.join(_LONGEST_END_S)
                process.kill()
        if distributed.is_initialized():
            distributed.destroy_process_group()
        self._folder.cleanup()

    def _await_loaded(self) -> None:
        """Wait until all have loaded the pipeline.

        Raises:
            ParallelError: One of them could not.
        """
        for one, process in zip(self._connections, self._processes, strict=True):
            connection.wait([one, process.sentinel])
            try:
                problem = one.recv()
            except EOFError:
                raise ParallelError(_ended(self._processes)) from None
            if problem is not None:
                raise ParallelError(f"The process {process.name} could not load the model: {problem}")

    def _check_alive(self) -> None:
        if not all(process.is_alive() for process in self._processes):
            raise ParallelError(_ended(self._processes))


def _ended(processes: Sequence[BaseProcess]) -> str:
    names = [process.name for process in processes if not process.is_alive()]
    return f"{', '.join(names) or 'Another process'}: the process has ended, so the edit cannot be shared; start again."
