"""Run a model whose blocks are elsewhere: each comes to the device for its forward and leaves it again.

A block's parameters keep their identity, shape, dtype and device, so that adapters attach to them as usual;
between visits they share one element of memory. While a block runs, a background thread brings the next one.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import nn

from joyimage.acceleration.lockstep import Lockstep
from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from joyimage.acceleration.sources import BlockSource

T = TypeVar("T")

LARGE_LAYER_BYTES = 256 * 2**20
"""Size from which a layer outside of any list of blocks is streamed too: vocabularies, 1.2 GB each in bf16."""


@dataclass(eq=False)
class _Block:
    """A part of the model that comes and goes as a whole.

    Attributes:
        module: The part.
        parameters: Parameters by the name of their weight in the source.
        list_name: Name of the list of modules that it is an element of; None for a layer outside of lists.
    """

    module: nn.Module
    parameters: dict[str, nn.Parameter]
    list_name: str | None


@dataclass(eq=False)
class _Arrival:
    """A block's weights on the device, and on CUDA the event after which they can be read."""

    weights: dict[str, Tensor]
    event: Any = None


class BlockStream:
    """Stream the blocks of a model.

    Args:
        model: The model. Its parameters outside of blocks must be on the device already; those of blocks may
            be on any device, the meta device included, and are released.
        source: Where the blocks' weights are, by the names that they have in the model.
        device: Where the model runs.

    Raises:
        InvalidInputError: The model has no list of blocks.
    """

    def __init__(self, model: nn.Module, source: BlockSource, *, device: torch.device) -> None:
        self.source = source
        self.device = device
        self.num_loads = 0
        self._lockstep: Lockstep | None = None
        self._current: _Block | None = None  # the block whose weights are in place
        self._coming: tuple[_Block, Future[_Arrival]] | None = None
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="joyimage-stream")
        self._copies: Any = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._blocks = self._release_blocks(model)
        if not self._blocks:
            raise InvalidInputError(
                f"`model` is a {type(model).__name__}, which has no list of blocks to stream."
            )
        # The block that is fetched ahead while another runs: the next of the same list. Corrected at the first
        # forward, as some models leave a list for another one and come back.
        self._following: dict[_Block, _Block] = {
            block: following
            for block, following in pairwise(self._blocks)
            if block.list_name is not None and block.list_name == following.list_name
        }
        self._handles: list[Any] = [self._attach(block) for block in self._blocks]
        self._handles.append(model.register_forward_hook(self._on_end, always_call=True))

        def fill_state_dict(*given: Any) -> None:
            self._fill_state_dict(*given)

        self._handles.append(cast("Any", model).register_state_dict_post_hook(fill_state_dict))
        self._model = model
        model.__dict__["_block_stream"] = self

    def run_together(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """Run calls of the model with one visit of each block for all of them.

        Args:
            calls: Calls that visit the same blocks in the same order, such as the two guidance branches.

        Returns:
            What each call returned.
        """
        is_autocast = any(torch.is_autocast_enabled(kind) for kind in ("cpu", self.device.type))
        if len(calls) == 1 or is_autocast:  # autocast is a setting of the thread
            return [call() for call in calls]
        self._lockstep = Lockstep(calls)
        try:
            return self._lockstep.run()
        finally:
            self._lockstep = None
            self._release_all()

    @torch.no_grad()
    def restore(self) -> None:
        """Bring all blocks to the device for good, and end the streaming."""
        self._release_all()
        for block in self._blocks:
            self._place(block, self._fetch(block))
        for handle in self._handles:
            handle.remove()
        self._reader.shutdown()
        del self._model.__dict__["_block_stream"]

    def _release_blocks(self, model: nn.Module) -> list[_Block]:
        """Replace the weights of all blocks by placeholders."""
        blocks: list[_Block] = []
        for prefix, module in find_blocks(model):
            parameters: dict[str, nn.Parameter] = {}
            modules = cast("Iterator[tuple[str, nn.Module]]", module.named_modules())
            for path, owner in modules:
                for key, parameter in list(owner.named_parameters(recurse=False)):
                    name = ".".join(part for part in (prefix, path, key) if part)
                    if parameter.device != self.device:
                        parameter = nn.Parameter(_placeholder(parameter, self.device), requires_grad=False)
                        setattr(owner, key, parameter)
                    else:
                        parameter.data = _placeholder(parameter, self.device)
                        parameter.requires_grad_(False)
                    parameters[name] = parameter
            if parameters:
                blocks.append(_Block(module, parameters, list_name(prefix)))
        return blocks

    def _attach(self, block: _Block) -> Any:
        return block.module.register_forward_pre_hook(lambda _module, _inputs: self._enter(block))

    def _on_end(self, _model: nn.Module, _inputs: Any, _output: Any) -> None:
        if self._lockstep is None:
            self._release_all()

    def _enter(self, block: _Block) -> None:
        """Have a block's weights in place before its forward."""
        if getattr(block.module, "is_skipped", False):
            return  # its forward does not read its weights
        if self._lockstep is not None:
            self._lockstep.meet()
        if block is self._current:
            return
        with torch.no_grad():
            if self._current is not None:
                self._following[self._current] = block
            self._release_current()
            self._place(block, self._take(block))
            self._current = block
            following = self._following.get(block)
            if following is not None:
                self._coming = (following, self._reader.submit(self._fetch, following))

    def _take(self, block: _Block) -> _Arrival:
        coming, self._coming = self._coming, None
        if coming is not None:
            expected, future = coming
            if expected is block:
                return future.result()
            future.result()  # dropped before the right one is fetched
        return self._fetch(block)

    @torch.no_grad()
    def _fetch(self, block: _Block) -> _Arrival:
        """Return a block's weights on the device. Runs in the background thread too."""
        self.num_loads += 1
        weights = self.source.read(list(block.parameters))
        if self._copies is None:
            return _Arrival(
                {
                    name: weight.to(self.device, block.parameters[name].dtype)
                    for name, weight in weights.items()
                }
            )
        with torch.cuda.stream(self._copies):
            moved = {
                name: weight.to(self.device, non_blocking=True).to(block.parameters[name].dtype)
                for name, weight in weights.items()
            }
            event = torch.cuda.Event()
            event.record(self._copies)
        return _Arrival(moved, event)

    def _place(self, block: _Block, arrival: _Arrival) -> None:
        if arrival.event is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(arrival.event)
            for weight in arrival.weights.values():
                weight.record_stream(stream)  # its memory is reused when this stream has read it
        for name, parameter in block.parameters.items():
            parameter.data = arrival.weights[name]

    def _release_current(self) -> None:
        if self._current is not None:
            for parameter in self._current.parameters.values():
                parameter.data = _placeholder(parameter, self.device)
            self._current = None

    def _release_all(self) -> None:
        if self._coming is not None:
            self._coming[1].result()
            self._coming = None
        self._release_current()

    def _fill_state_dict(
        self, model: nn.Module, state_dict: dict[str, Any], prefix: str, _metadata: Any
    ) -> None:
        """Put the source's weights in place of the placeholders, so that a streamed model can be saved."""
        sources = {id(p): name for block in self._blocks for name, p in block.parameters.items()}
        for key, parameter in model.named_parameters():
            source = sources.get(id(parameter))
            if source is not None and prefix + key in state_dict:
                weight = self.source.read([source])[source]
                state_dict[prefix + key] = weight.to(parameter.dtype)


def stream_of(model: nn.Module) -> BlockStream | None:
    """Return the stream that a model's blocks come from, or None if they are in place."""
    return model.__dict__.get("_block_stream")


def run_together(model: nn.Module, calls: Sequence[Callable[[], T]]) -> list[T]:
    """Run calls of a model; where its blocks are streamed, with one visit of each block for all calls.

    Args:
        model: The model.
        calls: Calls that visit the same blocks in the same order, such as the guidance branches of a step.

    Returns:
        What each call returned.
    """
    stream = stream_of(model)
    return [call() for call in calls] if stream is None else stream.run_together(calls)


def list_name(name: str) -> str | None:
    """Return the name of the list of modules that a block is an element of; None for a layer outside of lists."""
    parent, _, index = name.rpartition(".")
    return parent if index.isdigit() else None


def _placeholder(parameter: Tensor, device: torch.device) -> Tensor:
    return torch.zeros((), dtype=parameter.dtype, device=device).expand(parameter.shape)


def find_blocks(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the elements of the outermost lists of modules, and large layers beside them, with their names."""
    for name, child in model.named_children():
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(child, nn.ModuleList):
            yield from ((f"{path}.{index}", block) for index, block in enumerate(child))
        elif not any(True for _ in child.children()):
            size = sum(p.numel() * p.element_size() for p in child.parameters(recurse=False))
            if size >= LARGE_LAYER_BYTES:
                yield path, child
        else:
            yield from find_blocks(child, path)
