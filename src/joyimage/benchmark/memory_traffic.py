"""Bytes that one block moves outside its matmuls and its attention, fused in two ways.

Every operator on its own is counted by `op_counter.py`. Here: what is left when a compiler fuses all that stands
between two matmuls, and what our own kernels move.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from functorch.compile import make_boxed_func
from torch import nn

from joyimage.acceleration import accelerate
from joyimage.benchmark.op_counter import OpCounter, attention_result, num_bytes
from joyimage.compat.torch import compile_with, drop_compiled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

aten: Any = torch.ops.aten

# Attention as one operator of a graph: on the "meta" device torch would take it apart into matmuls.
_LIBRARY = torch.library.Library("joyimage_benchmark", "DEF")
_LIBRARY.define("attend(Tensor query, Tensor key, Tensor value) -> Tensor")
_LIBRARY.impl("attend", lambda query, _key, value: attention_result(query, value), "Meta")
_ATTEND: Any = torch.ops.joyimage_benchmark.attend

_HEAVY = {
    *(aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten._addmm_activation, aten.convolution),
    _ATTEND,
}
_VIEWS = {
    *(
        aten.view,
        aten._unsafe_view,
        aten.reshape,
        aten.permute,
        aten.transpose,
        aten.t,
        aten.expand,
        aten.slice,
    ),
    *(aten.select, aten.squeeze, aten.unsqueeze, aten.split, aten.split_with_sizes, aten.unbind, aten.alias),
    *(aten.as_strided, aten.detach, aten.view_as_real, aten.view_as_complex),
}


def compiled_bytes(transformer: Any, block: int, *, grid: tuple[int, int], num_text_tokens: int) -> int:
    """Count a block's elementwise traffic as a compiler would leave it.

    The block's graph is taken from torch.compile. Operators between the same matmuls that feed each other
    count as one kernel, which reads what comes from outside once and writes what is needed outside once.

    Args:
        transformer: On the "meta" device; ours or diffusers'.
        block: Number of the block.
        grid: Height and width of target and reference in latents.
        num_text_tokens: Tokens of text.

    Returns:
        Bytes read and written.
    """
    total = [0]

    def count(graph: torch.fx.GraphModule, _inputs: Any) -> Any:
        total[0] += fused_bytes(graph.graph)
        return make_boxed_func(graph.forward)

    module = transformer.double_blocks[block]
    compile_with(module, count)
    try:
        with torch.no_grad(), _opaque_attention():
            _forward(transformer, grid, num_text_tokens, torch.device("meta"))
    finally:
        drop_compiled(module)
    return total[0]


def fused_bytes(graph: torch.fx.Graph) -> int:
    """Count the traffic of a graph of aten operators whose elementwise neighbors are fused.

    Args:
        graph: The graph, whose nodes carry their results' shapes in `meta["val"]`.

    Returns:
        Bytes read and written by all that isn't a matmul, attention or a view.
    """
    depth: dict[Any, int] = {}  # matmuls on the longest way to a node: across them nothing is fused
    group: dict[Any, Any] = {}
    fusible = [node for node in graph.nodes if _kind(node) == "fusible"]

    def root(node: Any) -> Any:
        while group[node] is not node:
            node = group[node]
        return node

    for node in graph.nodes:
        depth[node] = max(
            (depth[source] + (_kind(source) == "heavy") for source in node.all_input_nodes), default=0
        )
        if node in fusible:
            group[node] = node
            for source in map(_origin, node.all_input_nodes):
                if source in group and depth[source] == depth[node]:
                    group[root(source)] = root(node)
    reads: dict[Any, set[Any]] = defaultdict(set)
    writes: dict[Any, set[Any]] = defaultdict(set)
    for node in fusible:
        for source in node.all_input_nodes:
            if _origin(source) not in group or root(_origin(source)) is not root(node):
                reads[root(node)].add(source)
        if any(user not in group or root(user) is not root(node) for user in _users(node)):
            writes[root(node)].add(node)
    moved = [nodes for side in (reads, writes) for nodes in side.values()]
    return sum(num_bytes(_values(node)) for nodes in moved for node in nodes)


def kernel_bytes(transformer: Any, block: int, *, grid: tuple[int, int], num_text_tokens: int) -> int | None:
    """Count a block's elementwise traffic with our kernels, as they are launched on a GPU.

    Kernels aren't run: each launch counts the tensors that its source loads from and stores to.

    Args:
        transformer: Ours; its class and settings count.
        block: Number of the block.
        grid: Height and width of target and reference in latents.
        num_text_tokens: Tokens of text.

    Returns:
        Bytes read and written; None where Triton isn't installed.
    """
    try:
        from triton.runtime import jit
    except ImportError:
        return None
    counter = OpCounter()

    def launch(kernel: Any, _grid: Any) -> Callable[..., None]:
        def record(*args: Any, **kwargs: Any) -> None:
            named = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
            moved = sum(
                num_bytes(named[name] for name in names)
                for names in pointer_names(inspect.getsource(kernel.fn))
            )
            for counts in counter.open():
                counts.elementwise_bytes += moved
                counts.operators[kernel.__name__] += moved

        return record

    names = [name for name in transformer.config if not name.startswith("_")]
    settings = {**{name: transformer.config[name] for name in names}, "num_layers": block + 2}
    with init_empty_weights():
        model = type(transformer)(**settings).to(torch.bfloat16).eval()
    accelerate(model, ops="triton")
    module = model.double_blocks[block]
    module.register_forward_pre_hook(lambda *_: counter.enter("block"))
    module.register_forward_hook(lambda *_: counter.leave("block"))
    kernel_class: Any = jit.JITFunction
    launcher = kernel_class.__getitem__
    kernel_class.__getitem__ = launch
    try:
        with torch.no_grad(), counter.counting(as_gpu=True):
            _forward(model, grid, num_text_tokens, torch.device("meta"))
    finally:
        kernel_class.__getitem__ = launcher
    return counter["block"].elementwise_bytes


def pointer_names(source: str) -> tuple[set[str], set[str]]:
    """Return which arguments of a Triton kernel are loaded from, and which are stored to.

    Args:
        source: Source code of the kernel.

    Returns:
        Names of arguments; a name can be in both sets.
    """
    function: Any = ast.parse(textwrap.dedent(source)).body[0]
    came_from = {
        argument.arg: {argument.arg} for argument in function.args.args if argument.arg.endswith("_ptr")
    }
    loaded: set[str] = set()
    stored: set[str] = set()

    def pointers(node: ast.AST) -> set[str]:
        names = [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]
        return set().union(*(came_from.get(name, set()) for name in names))

    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and not any(
            isinstance(part, ast.Call) for part in ast.walk(node.value)
        ):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    came_from[target.id] = pointers(node.value)
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "load":
                loaded |= pointers(node.args[0])
            elif node.func.attr == "store":
                stored |= pointers(node.args[0])
    return loaded, stored


def _forward(transformer: Any, grid: tuple[int, int], num_text_tokens: int, device: torch.device) -> None:
    """Run one pass over a reference and a target of the same size."""
    make: dict[str, Any] = {"device": device, "dtype": torch.bfloat16}
    config = transformer.config
    transformer(
        hidden_states=torch.empty(1, 2, config.in_channels, 1, *grid, **make),
        timestep=torch.empty(1, device=device),
        encoder_hidden_states=torch.empty(1, num_text_tokens, config.text_dim, **make),
        return_dict=False,
    )


@contextmanager
def _opaque_attention() -> Iterator[None]:
    functional: Any = nn.functional
    original = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = lambda query, key, value, **_: _ATTEND(query, key, value)
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original


def _kind(node: Any) -> str:
    """Return the kind of a graph node: "heavy", "view", "fusible" or "input"."""
    if node.op != "call_function":
        return "input"
    packet = getattr(node.target, "overloadpacket", None)
    if packet is None or packet in _VIEWS:
        return "view"  # getitem and the like
    if packet in _HEAVY:
        return "heavy"
    return "fusible" if _values(node) else "view"


def _origin(node: Any) -> Any:
    """Return what a view is a view of."""
    while _kind(node) == "view" and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def _users(node: Any) -> list[Any]:
    """Return who uses a node, views being passed through."""
    users: list[Any] = []
    for user in node.users:
        users += _users(user) if _kind(user) == "view" else [user]
    return users


def _values(node: Any) -> list[torch.Tensor]:
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    return [part for part in values if isinstance(part, torch.Tensor)]
