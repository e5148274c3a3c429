"""Run a model whose blocks are elsewhere: each comes to the device for its forward and leaves it again.

A block's tensors keep their identity, shape, dtype and device, so that adapters attach to them as usual;
between visits they share one element of memory. While a block runs, a background thread brings the next one.

Training needs gradient checkpointing: a block's backward pass then begins with its forward, which brings the weights
again. Without it the backward pass would read what is in the block's place by then.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import nn

from joyimage.acceleration.lockstep import Lockstep
from joyimage.acceleration.quantization import QuantizedLinear
from joyimage.errors import InvalidInputError
from joyimage.model.checkpoint.grouping import name_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from joyimage.acceleration.sources import BlockSource
    from joyimage.model.checkpoint.encodings.base import EncodedWeight

T = TypeVar("T")

LARGE_LAYER_SIZE = 2**27
"""Number of weights from which a layer outside of any list of blocks is streamed too: vocabularies, 622 million."""


@dataclass(eq=False)
class _Block:
    """A part of the model that comes and goes as a whole.

    Attributes:
        module: The part.
        tensors: Parameters, and buffers of quantized layers, by their names in the source.
        list_name: Name of the list of modules that it is an element of; None for a layer outside of lists.
    """

    module: nn.Module
    tensors: dict[str, Tensor]
    list_name: str | None


@dataclass(eq=False)
class _Arrival:
    """A block's tensors on the device, and on CUDA the event after which they can be read."""

    tensors: dict[str, Tensor]
    event: Any = None


class BlockStream:
    """Stream the blocks of a model.

    Args:
        model: The model. Its parameters outside of blocks must be on the device already; those of blocks may
            be on any device, the meta device included, and are released.
        source: Where the blocks' tensors are, by the names that they have in the model.
        device: Where the model runs.

    Raises:
        InvalidInputError: The model has no list of blocks.
    """

    def __init__(self, model: nn.Module, source: BlockSource, *, device: torch.device) -> None:
        self.source = source
        self.device = device
        self.num_loads = 0
        self._lockstep: Lockstep | None = None
        self._previous: _Block | None = None  # the block before it
        self._current: _Block | None = None  # the block whose weights are in place
        self._coming: tuple[_Block, Future[_Arrival]] | None = None
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="joyimage-stream")
        self._copies: Any = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._blocks = self._release_blocks(model)
        if not self._blocks:
            raise InvalidInputError(
                f"`model` is a {type(model).__name__}, which has no list of blocks to stream."
            )
        # The block that is fetched ahead while another runs: the next of the same list.
        self._next: dict[_Block, _Block] = {
            block: following
            for block, following in pairwise(self._blocks)
            if block.list_name is not None and block.list_name == following.list_name
        }
        # Learned at the first traversal, as some models leave a list for another one and come back. A backward pass
        # visits the blocks from last to first: what follows a block depends on the one before it.
        self._following: dict[tuple[_Block | None, _Block], _Block] = {}
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
            tensors: dict[str, Tensor] = {}
            for name, owner, key, tensor in streamed_tensors(module, prefix):
                if tensor.device != self.device:
                    placeholder = _placeholder(tensor, self.device)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    tensor = nn.Parameter(placeholder, requires_grad=False) if is_parameter else placeholder
                    setattr(owner, key, tensor)
                else:
                    tensor.data = _placeholder(tensor, self.device)
                    tensor.requires_grad_(False)
                tensors[name] = tensor
            if tensors:
                blocks.append(_Block(module, tensors, list_name(prefix)))
        return blocks

    def _attach(self, block: _Block) -> Any:
        return block.module.register_forward_pre_hook(lambda _module, _inputs: self._enter(block))

    def _on_end(self, _model: nn.Module, _inputs: Any, _output: Any) -> None:
        # In training the backward pass begins with the block that is in place.
        if self._lockstep is None and not torch.is_grad_enabled():
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
                self._following[self._previous, self._current] = block
            previous = self._current
            self._release_current()
            self._place(block, self._take(block))
            self._previous, self._current = previous, block
            following = self._following.get((previous, block), self._next.get(block))
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
        """Return a block's tensors on the device. Runs in the background thread too."""
        self.num_loads += 1
        stored = self.source.read(list(block.tensors))
        if self._copies is None:
            return _Arrival(self._decode(block, stored))
        with torch.cuda.stream(self._copies):
            moved = self._decode(block, stored)
            event = torch.cuda.Event()
            event.record(self._copies)
        return _Arrival(moved, event)

    def _decode(self, block: _Block, stored: Mapping[str, EncodedWeight]) -> dict[str, Tensor]:
        return {
            name: weight.to(self.device, non_blocking=True).decode(block.tensors[name].dtype)
            for name, weight in stored.items()
        }

    def _place(self, block: _Block, arrival: _Arrival) -> None:
        if arrival.event is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(arrival.event)
            for tensor in arrival.tensors.values():
                tensor.record_stream(stream)  # its memory is reused when this stream has read it
        for name, tensor in block.tensors.items():
            tensor.data = arrival.tensors[name]

    def _release_current(self) -> None:
        if self._current is not None:
            for tensor in self._current.tensors.values():
                tensor.data = _placeholder(tensor, self.device)
            self._current = None

    def _release_all(self) -> None:
        if self._coming is not None:
            self._coming[1].result()
            self._coming = None
        self._release_current()
        self._previous = None

    def _fill_state_dict(
        self, model: nn.Module, state_dict: dict[str, Any], prefix: str, _metadata: Any
    ) -> None:
        """Put the source's tensors in place of the placeholders, so that a streamed model can be saved."""
        sources = {id(tensor): name for block in self._blocks for name, tensor in block.tensors.items()}
        # With adapters a layer has another name than in the source.
        for path, module in cast("Iterator[tuple[str, nn.Module]]", model.named_modules()):
            own = {key: (sources[id(t)], t) for key, t in _own_tensors(module) if id(t) in sources}
            head = f"{prefix}{path}." if path else prefix
            if not own or f"{head}{next(iter(own))}" not in state_dict:
                continue
            stored = self.source.read([name for name, _ in own.values()])
            values = {key: stored[name].decode(tensor.dtype) for key, (name, tensor) in own.items()}
            if isinstance(module, QuantizedLinear):
                state_dict.update(name_parts(f"{head}weight", module.assemble(values)))
                values = {key: values[key] for key in values if key not in module.stored_parts}
            state_dict.update({head + key: value for key, value in values.items()})


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


def streamed_tensors(block: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Yield the tensors of a block that come and go: all parameters, and the buffers of quantized layers.

    Those of adapters, which are small, stay on the device.

    Args:
        block: The block.
        prefix: Name of the block in the model.

    Yields:
        Name in the model without adapters, the module that owns the tensor, the attribute, and the tensor.
    """
    adapted: list[str] = []
    for path, owner in cast("Iterator[tuple[str, nn.Module]]", block.named_modules()):
        if hasattr(owner, "base_layer"):
            adapted.append(f"{path}.")
        if any(path.startswith(one) and not path.startswith(f"{one}base_layer") for one in adapted):
            continue
        for key, tensor in _own_tensors(owner):
            name = ".".join(part for part in (prefix, path, key) if part)
            yield name.replace(".base_layer", ""), owner, key, tensor


def _own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the tensors of a module itself that come and go, with their attributes."""
    own: list[tuple[str, Tensor]] = list(module.named_parameters(recurse=False))
    return own + list(module.named_buffers(recurse=False)) if isinstance(module, QuantizedLinear) else own


def _placeholder(tensor: Tensor, device: torch.device) -> Tensor:
    return torch.zeros((), dtype=tensor.dtype, device=device).expand(tensor.shape)


def find_blocks(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the elements of the outermost lists of modules, and large layers beside them, with their names."""
    for name, child in model.named_children():
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(child, nn.ModuleList):
            yield from ((f"{path}.{index}", block) for index, block in enumerate(child))
        elif not any(True for _ in child.children()):
            is_linear = isinstance(
                child, nn.Linear
            )  # a quantized one stores fewer numbers than it has weights
            sizes = [parameter.numel() for parameter in child.parameters(recurse=False)]
            if (child.in_features * child.out_features if is_linear else sum(sizes)) >= LARGE_LAYER_SIZE:
                yield path, child
        else:
            yield from find_blocks(child, path)
