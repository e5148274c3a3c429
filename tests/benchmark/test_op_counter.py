"""What is counted on shapes is what runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from joyimage.benchmark.memory_traffic import fused_bytes, pointer_names
from joyimage.benchmark.models import SCALED, build
from joyimage.benchmark.op_counter import Counts, OpCounter, count_flops, has_flops, num_bytes
from joyimage.compat.torch import TorchDispatchMode, has_onednn, onednn_conv, reorder_conv_weight
from joyimage.pipeline.vae import decode_frame, encode_frame

MINUTE = replace(SCALED, num_layers=1, base_size=64)


def counts_of(call: object, *args: torch.Tensor, as_gpu: bool = False) -> Counts:
    counter = OpCounter()
    counter.enter("here")
    with torch.no_grad(), counter.counting(as_gpu=as_gpu):
        call(*args)  # pyright: ignore[reportCallIssue]
    return counter["here"]


class Flops(TorchDispatchMode):
    """Add the operations of what runs on real tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if has_flops(func.overloadpacket):
            self.total += count_flops(func.overloadpacket, args, dict(kwargs or {}), out)
        return out


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, device="meta", dtype=dtype)


def test_flops_when_matmul_or_attention_then_by_formula() -> None:
    matmul = counts_of(torch.matmul, meta(3, 5), meta(5, 7))
    out = counts_of(
        lambda b, x, w, o: torch.addmm(b, x, w, out=o), meta(7), meta(3, 5), meta(5, 7), meta(3, 7)
    )
    heads = [meta(1, 2, tokens, 8) for tokens in (3, 5, 5)]
    attention = counts_of(functional.scaled_dot_product_attention, *heads)

    assert matmul.flops == out.flops == 2 * 3 * 5 * 7
    assert attention.flops == 2 * (2 * 3 * 5 * 8) * 2
    assert matmul.elementwise_bytes == attention.elementwise_bytes == 0


def test_flops_when_vae_runs_for_real_then_the_same() -> None:
    real = build(MINUTE, torch.device("cpu"), torch.float32).vae
    shapes = build(MINUTE, torch.device("meta"), torch.float32).vae

    def there_and_back(vae: Any, pixels: torch.Tensor) -> None:
        decode_frame(vae, encode_frame(vae, pixels).mode())

    for part in (real.encoder, real.decoder):  # a hook sees calls of modules: they run torch's operators
        part.register_forward_hook(lambda *_: None)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        there_and_back(real, torch.zeros(1, 3, 1, 64, 64))
    counted = counts_of(lambda pixels: there_and_back(shapes, pixels), meta(1, 3, 1, 64, 64))

    # Its attention runs through an operator for CPUs that torch's own counter doesn't know.
    tokens, width = 8 * 8, 4 * 16
    assert counted.flops == counter.get_total_flops() + 2 * 4 * tokens**2 * width


@pytest.mark.skipif(not has_onednn(torch.float32), reason="this processor's convolutions are torch's own")
@torch.no_grad()
def test_flops_when_convolutions_run_in_onednn_then_those_of_torchs_own() -> None:
    images, weight, bias = torch.zeros(2, 8, 6, 10), torch.zeros(16, 8, 3, 3), torch.zeros(16)
    with FlopCounterMode(display=False) as counter:
        result = functional.conv2d(images, weight, bias, stride=2, padding=1)
    kept = reorder_conv_weight(weight, (2, 2), (1, 1), images.shape)

    for kernel in (weight, kept):
        for add_to in (None, torch.zeros_like(result)):
            flops = Flops()
            with flops:
                onednn_conv(images, kernel, bias, (2, 2), (1, 1), add_to=add_to)
            assert flops.total == counter.get_total_flops()


def test_bytes_when_tensor_is_broadcast_or_viewed_then_memory_counts() -> None:
    row = meta(1, 4)
    added = counts_of(torch.add, meta(3, 4), row)
    viewed = counts_of(lambda x: x.view(12).unsqueeze(0)[:, 2:], meta(3, 4))

    assert added.elementwise_bytes == 4 * (12 + 4 + 12)
    assert viewed.elementwise_bytes == 0
    assert num_bytes([row.expand(3, 4)]) == 16


def test_copies_when_table_goes_to_device_then_counted_once_with_its_size() -> None:
    counts = counts_of(lambda: torch.arange(10.0).to("meta"))

    assert (counts.host_copies, counts.host_copy_bytes, counts.host_tensors, counts.syncs) == (1, 40, 1, 0)


def test_syncs_when_host_asks_for_device_value_then_counted() -> None:
    counts = counts_of(lambda: torch.arange(3, device="meta").max().item())

    assert (counts.syncs, counts.host_tensors) == (1, 0)


def test_run_when_value_was_never_computed_then_rejected() -> None:
    with pytest.raises(AssertionError, match="never computed"):
        counts_of(lambda x: x.sum().item(), meta(3))


def test_fused_bytes_when_chain_between_matmuls_then_one_read_and_one_write() -> None:
    def block(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        wide = functional.gelu((x * 2 + 1) @ weight)
        return x + (wide * 3) @ weight

    # Before the first matmul, between the two, and the sum, which reads two tensors.
    graph = make_fx(block, tracing_mode="fake")(torch.zeros(4, 8), torch.zeros(8, 8)).graph
    assert fused_bytes(graph) == 4 * 32 * (2 + 2 + 3)


def test_pointer_names_when_pointer_is_moved_then_its_argument_is_found() -> None:
    source = """
    def kernel(x_ptr, weight_ptr, out_ptr, width):
        here_ptr = x_ptr + width
        x = tl.load(here_ptr, mask=inside)
        weight = tl.load(weight_ptr + 1)
        tl.store(here_ptr + 1, x * weight)
        tl.store(out_ptr, x)
    """

    assert pointer_names(source) == ({"x_ptr", "weight_ptr"}, {"x_ptr", "out_ptr"})
