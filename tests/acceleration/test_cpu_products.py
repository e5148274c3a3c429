"""Products of a CPU in oneDNN: attention, layers and MLPs against torch's own, and who sees the call of a layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.attention import FeedForward
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from joyimage.acceleration.attention import project_into, project_part
from joyimage.acceleration.cpu_attention import attend_in_products, can_attend_in_products
from joyimage.acceleration.ops import TorchOps
from joyimage.acceleration.quantization import QuantizedLinear, quantized
from joyimage.compat.torch import TorchDispatchMode, has_onednn

pytestmark = pytest.mark.skipif(
    not has_onednn(torch.float32), reason="this processor's products are torch's own"
)

DTYPES = [
    torch.float32,
    pytest.param(
        torch.bfloat16,
        marks=pytest.mark.skipif(not has_onednn(torch.bfloat16), reason="the processor has no bf16 products"),
    ),
]
# Relative to the largest value; torch's own kernels differ from fp64 by as much.
BOUNDS = {torch.float32: 4e-6, torch.bfloat16: 1.2e-2}


class Operators(TorchDispatchMode):
    """Keep the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).abs().max() / expected.abs().max())


def exact_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = torch.einsum("blnh,bknh->bnlk", query.double(), key.double()) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.einsum("bnlk,bknh->blnh", scores.softmax(-1), value.double())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("num_queries", "num_keys"), [(5, 9), (64, 64), (300, 700), (1100, 2100)], ids=lambda number: str(number)
)
@torch.no_grad()
def test_attention_when_in_products_then_that_of_fp64(
    num_queries: int, num_keys: int, dtype: torch.dtype
) -> None:
    query = draw(1, num_queries, 2, 32, dtype=dtype)
    key, value = draw(1, num_keys, 3, 2, 32, dtype=dtype, seed=1).unbind(2)[1:]  # views into a joint buffer

    got = attend_in_products(query, key, value)

    assert got.dtype == dtype
    assert got.shape == query.shape
    assert relative(got, exact_attention(query, key, value)) <= BOUNDS[dtype]


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=3), seed=st.integers(0, 99))
@torch.no_grad()
def test_attention_when_texts_have_different_lengths_then_padding_is_not_attended_to(
    lengths: list[int], seed: int
) -> None:
    num_image_tokens, longest = 12, max(lengths)
    query, key, value = (
        draw(len(lengths), num_image_tokens + longest, 2, 16, seed=seed + part) for part in range(3)
    )
    mask = torch.ones(len(lengths), 1, 1, num_image_tokens + longest, dtype=torch.bool)
    for sample, length in enumerate(lengths):
        mask[sample, ..., num_image_tokens + length :] = False
        key[sample, num_image_tokens + length :] = float("nan")  # whoever reads padding shows it

    got = attend_in_products(query, key, value, mask)

    for sample, length in enumerate(lengths):
        part = slice(sample, sample + 1), slice(None, num_image_tokens + length)
        expected = exact_attention(query[sample : sample + 1], key[part], value[part])
        assert relative(got[sample : sample + 1], expected) <= BOUNDS[torch.float32]


@torch.no_grad()
def test_attention_when_padding_comes_first_then_it_is_not_attended_to_either() -> None:
    query, key, value = (draw(1, 30, 2, 16, seed=part) for part in range(3))
    mask = torch.tensor([False] * 4 + [True] * 20 + [False] * 6)[None, None, None]

    got = attend_in_products(query, key, value, mask)

    expected = exact_attention(query, key[:, 4:24], value[:, 4:24])
    assert relative(got, expected) <= BOUNDS[torch.float32]


def test_attention_when_a_gradient_is_wanted_or_it_is_short_then_torch_attends() -> None:
    long, short = draw(1, 600, 1, 128), draw(1, 20, 1, 128)

    assert not can_attend_in_products(long, long, long)  # a gradient is wanted
    with torch.no_grad():
        assert can_attend_in_products(long, long, long)
        assert not can_attend_in_products(short, short, short)
        assert not can_attend_in_products(*[long.half()] * 3)
        assert not can_attend_in_products(*[long.to("meta")] * 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_tokens", [1, 15, 16, 33, 2500])
@torch.no_grad()
def test_layers_when_run_on_a_cpu_then_products_of_fp64(num_tokens: int, dtype: torch.dtype) -> None:
    layer = nn.Linear(24, 3 * 32).to(dtype)
    tokens = draw(2, num_tokens + 3, 24, dtype=dtype)[:, :num_tokens]  # rows that are not contiguous
    expected = nn.functional.linear(tokens.double(), layer.weight.double(), layer.bias.double())

    whole = TorchOps().linear(layer, tokens)
    part = project_part(layer, tokens, 1, 3, heads=4)
    buffer = torch.zeros(2, num_tokens + 1, 96, dtype=dtype)
    project_into(layer, tokens, buffer[:, 1:])

    assert whole.dtype == dtype
    assert relative(whole, expected) <= BOUNDS[dtype]
    assert relative(buffer[:, 1:], expected) <= BOUNDS[dtype]
    assert not buffer[:, 0].any()
    assert relative(part, expected.unflatten(-1, (3, 4, -1))[:, :, 1:]) <= BOUNDS[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_mlp_when_run_on_a_cpu_then_gelu_is_the_tanh_form(dtype: torch.dtype) -> None:
    mlp = FeedForward(24, inner_dim=64, activation_fn="gelu-approximate").to(dtype)
    tokens = 4 * draw(1, 40, 24, dtype=dtype)

    got = TorchOps().feed_forward(mlp, tokens)

    assert relative(got, mlp.double()(tokens.double())) <= BOUNDS[dtype]


@pytest.mark.parametrize("name", ["", "net.0", "net.0.proj", "net.1", "net.2"])
@torch.no_grad()
def test_mlp_when_a_part_has_a_hook_then_the_hook_sees_its_call(name: str) -> None:
    mlp: Any = FeedForward(24, inner_dim=64, activation_fn="gelu-approximate")
    tokens, seen = draw(1, 40, 24), list[str]()
    plain = TorchOps().feed_forward(mlp, tokens)
    mlp.get_submodule(name).register_forward_pre_hook(lambda *_: seen.append(name))

    hooked = TorchOps().feed_forward(mlp, tokens)

    assert seen == [name]
    torch.testing.assert_close(hooked, plain)


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_quantized_layer_when_tokens_are_a_view_with_gaps_then_the_weight_is_not_copied_for_each_sample(
    dtype: torch.dtype,
) -> None:
    weight = draw(48, 64)
    layer = QuantizedLinear(quantized(weight, "int8"), None, matmul="scaled")
    tokens = draw(3, 50, 64, dtype=dtype)[:, :40]

    with Operators() as operators:
        got = layer(tokens)

    assert [name for name in operators.names if "mm" in name or "linear" in name] != []
    assert [name for name in operators.names if "bmm" in name] == []
    assert relative(got, tokens.double() @ weight.double().t()) <= 0.02


def test_layer_when_a_gradient_is_wanted_then_it_has_one() -> None:
    layer = nn.Linear(24, 32)

    TorchOps().linear(layer, draw(2, 20, 24)).sum().backward()

    assert layer.weight.grad is not None
