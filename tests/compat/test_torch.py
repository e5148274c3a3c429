"""Names inside torch that joyimage relies on."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from joyimage.compat import torch as compat


def test_addmm_gelu_when_on_a_cpu_then_the_exact_gelu_of_a_linear_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, weight, bias = (torch.randn(shape, generator=generator) for shape in ((3, 4), (5, 4), (5,)))

    result = compat.addmm_gelu(bias, rows, weight.t())

    torch.testing.assert_close(result, functional.gelu(functional.linear(rows, weight, bias)))


def test_lerp_all_when_given_a_share_then_each_tensor_moves_in_place() -> None:
    targets, ends = [torch.zeros(2), torch.ones(1)], [torch.ones(2), torch.zeros(1)]
    first = targets[0]

    compat.lerp_all_(targets, ends, 0.25)

    assert targets[0] is first
    assert [tensor.tolist() for tensor in targets] == [[0.25, 0.25], [0.75]]


def test_all_modules_when_walked_then_those_of_torch() -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.ModuleList([nn.ReLU(), nn.Sequential(nn.Identity())]))
    network.register_module("missing", None)

    assert set(compat.all_modules(network)) == set(network.modules())


def test_num_forward_hooks_when_some_are_registered_then_all_are_counted() -> None:
    before, both = nn.Linear(1, 1), nn.Linear(1, 1)
    before.register_forward_pre_hook(lambda *_: None)
    for register in (both.register_forward_pre_hook, both.register_forward_hook):
        register(lambda *_: None)

    assert [compat.num_forward_hooks(module) for module in (nn.Linear(1, 1), before, both)] == [0, 1, 2]


def test_version_when_a_tensor_is_changed_in_place_then_grows() -> None:
    tensor = torch.zeros(1)
    before = compat.version_of(tensor)

    tensor.add_(1)

    assert compat.version_of(tensor) > before


def test_is_mutating_when_an_operator_writes_into_its_argument_then_true() -> None:
    assert compat.is_mutating(torch.ops.aten.add_.Tensor)
    assert not compat.is_mutating(torch.ops.aten.add.Tensor)


def test_compile_with_when_run_then_the_backend_gets_the_graph_until_dropped() -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> object:
        from functorch.compile import make_boxed_func

        graphs.append(graph)
        return make_boxed_func(graph.forward)

    class Doubling(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sin(x) * 2

    module = Doubling()
    compat.compile_with(module, backend)
    with torch.no_grad():
        module(torch.zeros(1, 2))
        assert len(graphs) == 1
        compat.drop_compiled(module)
        module(torch.zeros(3, 2))

    assert len(graphs) == 1
    assert any("sin" in str(node.target) for node in graphs[0].graph.nodes)


def test_dispatch_mode_when_active_then_sees_each_operator() -> None:
    seen: list[str] = []

    class Recorder(compat.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*compat.tree_map(lambda arg: arg, args), **(kwargs or {}))

    with Recorder():
        torch.ones(1) + 1

    assert any("add" in name for name in seen)


def test_own_buffers_when_replaced_then_the_module_has_the_new_one_and_not_its_children_s() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2))
    module.register_buffer("scale", torch.ones(1))

    compat.own_buffers(module)["scale"] = torch.zeros(1)

    assert list(compat.own_buffers(module)) == ["scale"]
    assert float(module.get_buffer("scale")) == 0


@pytest.mark.skipif(
    not compat.has_onednn(torch.float32), reason="the processor's convolutions are torch's own"
)
def test_onednn_conv_when_run_then_that_of_torch_alone_and_added_in_place() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 8, 10, generator=generator).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(4, 3, 3, 3, generator=generator), torch.randn(4, generator=generator)
    expected = functional.conv2d(images, weight, bias, (2, 2), (1, 0))
    total = torch.ones_like(expected, memory_format=torch.channels_last)

    alone = compat.onednn_conv(images, weight, bias, (2, 2), (1, 0))
    added = compat.onednn_conv(images, weight, bias, (2, 2), (1, 0), add_to=total)

    assert added.data_ptr() == total.data_ptr()
    assert alone.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(alone, expected)
    torch.testing.assert_close(total, expected + 1)


def test_scaled_rows_when_one_is_zero_then_nan_and_all_others_have_the_length() -> None:
    rows = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    rows[2] = 0

    scaled = compat.scaled_rows(rows, 3.0)

    torch.testing.assert_close(scaled[[0, 1, 3, 4]], 3 * functional.normalize(rows[[0, 1, 3, 4]], dim=1))
    assert scaled[2].isnan().all()
