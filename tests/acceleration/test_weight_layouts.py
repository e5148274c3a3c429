"""Weights that are kept in oneDNN's layout: the same numbers, and never those of a weight that has changed."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from joyimage.acceleration import accelerate, weight_layouts
from joyimage.acceleration.settings import runs_in_inference
from joyimage.acceleration.weight_layouts import multiply
from joyimage.compat.torch import has_onednn, onednn_linear
from joyimage.model.attention import JointAttnProcessor
from tests import random_models

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(
    not has_onednn(torch.float32), reason="this processor's products are torch's own"
)


def _reordered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Return the shapes of the weights that are reordered from now on."""
    shapes: list[tuple[int, ...]] = []
    reorder = weight_layouts.reorder_weight

    def record(weight: Tensor, num_rows: int) -> Tensor:
        shapes.append(tuple(weight.shape))
        return reorder(weight, num_rows)

    monkeypatch.setattr(weight_layouts, "reorder_weight", record)
    return shapes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_products_when_weights_are_kept_then_the_numbers_are_the_same(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_onednn(dtype):
        pytest.skip("the processor has no bf16 products")
    layer, rows = nn.Linear(48, 96).to(dtype), torch.randn(3, 20, 48).to(dtype)
    parts = [None, slice(32, 96)]
    expected = [multiply(layer, rows, part, gelu=gelu) for part in parts for gelu in (False, True)]
    shapes = _reordered(monkeypatch)

    for _ in range(2):
        with weight_layouts.weight_layouts(layer):
            got = [multiply(layer, rows, part, gelu=gelu) for part in parts for gelu in (False, True)]
        assert all(torch.equal(*pair) for pair in zip(got, expected, strict=True))

    assert shapes == [(96, 48), (64, 48)]  # once for all products of both


def _assign(weight: Tensor) -> None:
    weight.copy_(-weight)


def _through_data(weight: Tensor) -> None:
    weight.data += 1e-3  # as adapters are fused, which leaves no trace


def _one_value(weight: Tensor) -> None:
    weight.data[5, 7] += 1e-4


def _replace(weight: Tensor) -> None:
    weight.data = torch.randn_like(weight)


@pytest.mark.parametrize("change", [_assign, _through_data, _one_value, _replace])
@torch.no_grad()
def test_products_when_a_weight_has_changed_then_those_of_the_new_one(
    change: Callable[[Tensor], None],
) -> None:
    layer, rows = nn.Linear(48, 96), torch.randn(20, 48)
    with weight_layouts.weight_layouts(layer):
        old = multiply(layer, rows)

    change(layer.weight)

    with weight_layouts.weight_layouts(layer) as layouts:
        got = multiply(layer, rows)
        assert torch.equal(got, onednn_linear(rows, layer.weight, layer.bias))
        change(layer.weight)  # in the middle of an edit, as a step's function may
        layouts.check()
        again = multiply(layer, rows)
    assert not torch.equal(got, old)
    assert torch.equal(again, multiply(layer, rows))


@torch.no_grad()
def test_layouts_when_a_weight_is_large_or_rows_are_many_then_it_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small, large = nn.Linear(16, 32), nn.Linear(1024, 1025)
    shapes = _reordered(monkeypatch)

    with weight_layouts.weight_layouts(small):
        multiply(small, torch.randn(2000, 16))
        multiply(large, torch.randn(20, 1024))
        assert shapes == []
        multiply(small, torch.randn(20, 16))

    assert shapes == [(32, 16)]
    multiply(small, torch.randn(20, 16))  # outside of an edit nothing is looked up
    assert shapes == [(32, 16)]


@torch.no_grad()
def test_layouts_when_all_memory_for_them_is_used_then_no_more_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weight_layouts, "_MOST_BYTES", 2 * 16 * 16 * 4)
    network, rows = nn.Sequential(*(nn.Linear(16, 16) for _ in range(3))), torch.randn(20, 16)
    shapes = _reordered(monkeypatch)

    def run() -> None:
        with weight_layouts.weight_layouts(network):
            for layer in network:
                multiply(layer, rows)

    run()
    run()
    assert len(shapes) == 2

    del network[0]
    gc.collect()
    run()
    assert len(shapes) == 3  # the memory of the one that is gone is used again


@torch.no_grad()
def test_layouts_when_values_do_not_fill_whole_words_then_the_plain_weight_is_multiplied() -> None:
    layer, rows = nn.Linear(3, 5), torch.randn(20, 3)

    with weight_layouts.weight_layouts(layer):
        got = multiply(layer, rows)

    torch.testing.assert_close(got, layer(rows))


@torch.no_grad()
def test_inference_mode_when_something_of_somebody_else_is_in_the_network_then_it_is_off() -> None:
    model: Any = random_models.make_transformer()
    accelerate(model)
    assert runs_in_inference(model)

    handle = model.double_blocks[1].txt_mlp.net[0].register_forward_hook(lambda *_: None)
    assert not runs_in_inference(model)
    handle.remove()
    assert runs_in_inference(model)

    class Other(JointAttnProcessor):
        pass

    model.double_blocks[0].attn.set_processor(Other())
    assert not runs_in_inference(model)
    accelerate(model, attention="joint_buffer")
    assert runs_in_inference(model)
    assert not runs_in_inference(torch.compile(model))
    assert not runs_in_inference(model.to("meta"))
