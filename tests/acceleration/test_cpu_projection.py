"""Queries, keys and values on a CPU: both streams together, against the plain network in fp64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from joyimage.acceleration import accelerate
from joyimage.acceleration.attention import JointBufferAttnProcessor
from joyimage.acceleration.cpu_projection import can_project_on_cpu, project_on_cpu
from joyimage.acceleration.ops import TorchOps, TritonOps
from joyimage.model.attention import JointAttention, JointAttnProcessor
from joyimage.model.ops import PLAIN_OPS
from tests import random_models
from tests.model.drive import inputs

if TYPE_CHECKING:
    from joyimage.model.rope import RotaryTables

BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
WIDTH, HEADS = 64, 4


def make_attention(dtype: torch.dtype = torch.float32) -> JointAttention:
    torch.manual_seed(0)
    attn = JointAttention(WIDTH, HEADS)
    for norm in (attn.img_attn_q_norm, attn.img_attn_k_norm, attn.txt_attn_q_norm, attn.txt_attn_k_norm):
        nn.init.normal_(norm.weight)
    attn = attn.to(dtype)
    attn.ops = TorchOps()
    return attn


def draw_tables(length: int) -> RotaryTables:
    angles = torch.rand(1, length, WIDTH // HEADS // 2) * 6
    return angles.cos(), angles.sin()


def exact(
    attn: JointAttention, streams: list[Tensor], tables: list[RotaryTables | None]
) -> tuple[Tensor, ...]:
    """Return queries, keys and values of the plain network in fp64; tables stay in fp32."""
    attn = make_attention(streams[0].dtype).double()
    attn.ops = PLAIN_OPS
    img, txt = (stream.double() for stream in streams)
    assert tables[0] is not None
    return JointAttnProcessor().project(attn, img, txt, tables[0], tables[1], None)


@pytest.mark.parametrize("dtype", list(BOUNDS))
@pytest.mark.parametrize("text_turns", [True, False])
@given(num_image=st.integers(1, 40), num_text=st.integers(1, 40), batch=st.integers(1, 3))
@torch.no_grad()
def test_projection_when_on_a_cpu_then_that_of_the_plain_network(
    dtype: torch.dtype, text_turns: bool, num_image: int, num_text: int, batch: int
) -> None:
    attn = make_attention(dtype)
    streams = [torch.randn(batch, length, WIDTH).to(dtype) for length in (num_image, num_text)]
    tables = [draw_tables(num_image), draw_tables(num_text) if text_turns else None]

    pairs, values = project_on_cpu(attn, streams, tables)

    assert pairs.dtype == torch.float32
    assert values.dtype == dtype
    query, key, value = exact(attn, streams, tables)
    for got, expected in zip((*pairs.unbind(2), values), (query, key, value), strict=True):
        assert got.shape == expected.shape
        assert float((got.double() - expected).abs().max() / expected.abs().max()) <= BOUNDS[dtype]


@torch.no_grad()
def test_projection_when_there_are_more_rows_than_are_written_at_a_time_then_none_is_left_out() -> None:
    attn = make_attention()
    streams = [torch.randn(1, 4500, WIDTH), torch.randn(1, 9, WIDTH)]
    tables = [draw_tables(4500), None]

    pairs, values = project_on_cpu(attn, streams, tables)

    query, key, value = exact(attn, streams, tables)
    for got, expected in zip((*pairs.unbind(2), values), (query, key, value), strict=True):
        assert float((got.double() - expected).abs().max() / expected.abs().max()) <= BOUNDS[torch.float32]


@pytest.mark.parametrize("dtype", list(BOUNDS))
@pytest.mark.parametrize("text_turns", [True, False])
@torch.no_grad()
def test_projection_when_only_the_target_is_asked_for_then_its_queries_and_all_keys(
    dtype: torch.dtype, text_turns: bool
) -> None:
    attn = make_attention(dtype)
    streams = [torch.randn(2, length, WIDTH).to(dtype) for length in (12, 5)]
    tables = [draw_tables(12), draw_tables(5) if text_turns else None]
    img_tables = tables[0]
    assert img_tables is not None

    query, key, value = JointBufferAttnProcessor().project(
        attn, streams[0], streams[1], img_tables, tables[1], 6
    )

    assert query.dtype == key.dtype == torch.float32
    expected_query, expected_key, expected_value = exact(attn, streams, tables)
    expected = (expected_query[:, :6], expected_key, expected_value)
    for got, wanted in zip((query, key, value), expected, strict=True):
        assert got.shape == wanted.shape
        assert float((got.double() - wanted).abs().max() / wanted.abs().max()) <= BOUNDS[dtype]


@torch.no_grad()
def test_mask_when_a_text_continues_then_it_is_built_once_and_when_changed_anew() -> None:
    processor, text_mask = JointBufferAttnProcessor(), torch.tensor([[True, True, False]])

    first = processor.mask(text_mask, 4)

    assert processor.mask(text_mask, 4) is first
    assert first is not None
    assert first.tolist() == [[[[True] * 6 + [False]]]]
    assert processor.mask(text_mask, 2).shape[-1] == 5  # pyright: ignore[reportOptionalMemberAccess]
    text_mask[0, 2] = True
    assert processor.mask(text_mask, 4).all()  # pyright: ignore[reportOptionalMemberAccess]
    assert processor.mask(None, 4) is None
    with torch.enable_grad():  # what is kept must never meet a backward pass
        assert processor.mask(text_mask, 4) is not processor.mask(text_mask, 4)


def _hook(attn: JointAttention) -> None:
    attn.txt_attn_k_norm.register_forward_hook(lambda *_: None)


def _scale(attn: JointAttention) -> None:
    attn.img_attn_q_norm = nn.RMSNorm(WIDTH // HEADS, eps=1e-3)


def _interpret(attn: JointAttention) -> None:
    attn.ops = TritonOps(on_any_device=True)


def _plain(attn: JointAttention) -> None:
    attn.ops = PLAIN_OPS


@pytest.mark.parametrize("change", [_hook, _scale, _interpret, _plain, lambda attn: attn.double()])
def test_projection_when_something_else_is_to_run_then_it_is_left_to_that(change: Any) -> None:
    attn = make_attention()
    assert not can_project_on_cpu(attn, torch.zeros(1, 3, WIDTH))  # a gradient is wanted
    with torch.no_grad():
        assert can_project_on_cpu(attn, torch.zeros(1, 3, WIDTH))
        assert not can_project_on_cpu(attn, torch.zeros(1, 3, WIDTH, device="meta"))

        change(attn)

        assert not can_project_on_cpu(attn, torch.zeros(1, 3, WIDTH, dtype=attn.img_attn_qkv.weight.dtype))


@torch.no_grad()
def test_network_when_in_bf16_then_as_close_to_fp64_as_the_plain_one() -> None:
    exact_model = random_models.make_transformer().double()
    arguments = inputs(batch_size=2)
    wide = {name: value.double() if value.is_floating_point() else value for name, value in arguments.items()}
    expected = exact_model(**wide).sample
    model = random_models.make_transformer().bfloat16()
    low = {
        name: value.bfloat16() if value.is_floating_point() else value for name, value in arguments.items()
    }
    low["timestep"] = arguments["timestep"]

    def error() -> float:
        return float((model(**low).sample.double() - expected).norm() / expected.norm())

    plain = error()
    accelerate(model)

    assert error() <= 1.1 * plain
