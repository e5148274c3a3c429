"""Single frames through the VAE in oneDNN: the library's result, and who still sees the calls of modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from joyimage.compat.torch import TorchDispatchMode, has_onednn
from joyimage.pipeline.vae import convert_vae, decode_frame, encode_frame
from tests import random_models

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(
    not has_onednn(torch.float32), reason="this processor's convolutions are torch's own"
)
needs_bf16 = pytest.mark.skipif(not has_onednn(torch.bfloat16), reason="the processor has no bf16 products")

SIZES = [(64, 64), (48, 80), (8, 200), (8, 8)]


class Convolutions(TorchDispatchMode):
    """Count the convolutions that run in oneDNN without their modules, and those that modules run."""

    def __init__(self) -> None:
        super().__init__()
        self.direct = self.called = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.direct += "_convolution_pointwise" in func.__name__
        if func.__name__ == "convolution.default":
            is_transposed = args[6]  # no module does that
            self.direct += is_transposed
            self.called += not is_transposed
        return func(*args, **(kwargs or {}))


def make_converted_vae() -> Any:
    vae = random_models.make_vae()
    convert_vae(vae)
    return vae


def make_library_vae() -> Any:
    return random_models.make_vae()


def draw_pixels(*size: int, number: int = 1) -> torch.Tensor:
    return torch.rand(number, 3, 1, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def draw_latents(*size: int, number: int = 1) -> torch.Tensor:
    return torch.randn(number, 16, 1, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.no_grad()
def test_frames_when_in_fp32_then_as_the_library_does(size: tuple[int, int]) -> None:
    vae, library = make_converted_vae(), make_library_vae()
    pixels, latents = draw_pixels(*size, number=2), draw_latents(*(side // 8 for side in size), number=2)
    given = pixels.clone(), latents.clone()

    with Convolutions() as convolutions:
        posterior, decoded = encode_frame(vae, pixels), decode_frame(vae, latents)

    assert convolutions.direct > 40
    assert convolutions.called == 0
    expected = library.encode(pixels).latent_dist
    torch.testing.assert_close(posterior.parameters, expected.parameters, atol=1e-5, rtol=0)
    torch.testing.assert_close(decoded, library.decode(latents).sample, atol=1e-5, rtol=0)
    for result in (posterior.parameters, posterior.mean, decoded):
        assert not result.is_inference()  # so that it can have a gradient
    assert posterior.parameters.is_contiguous()
    assert decoded.is_contiguous()
    torch.testing.assert_close((pixels, latents), given, atol=0, rtol=0)


@needs_bf16
@pytest.mark.parametrize("size", [(64, 64), (48, 160)], ids=str)
@torch.no_grad()
def test_frames_when_in_bf16_then_no_further_from_fp32_than_the_library(size: tuple[int, int]) -> None:
    # Weights that bf16 holds exactly, so that arithmetic alone counts.
    exact, library = make_library_vae().bfloat16().float(), make_library_vae().bfloat16()
    ours = make_converted_vae().bfloat16()
    pixels = draw_pixels(*size, number=4).bfloat16()
    latents = draw_latents(*(side // 8 for side in size), number=4).bfloat16()

    with Convolutions() as convolutions:
        encoded, decoded = encode_frame(ours, pixels).parameters, decode_frame(ours, latents)

    assert convolutions.direct > 40
    assert (encoded.dtype, decoded.dtype) == (torch.bfloat16, torch.bfloat16)
    exactly = exact.encode(pixels.float()).latent_dist.parameters
    assert distance(encoded, exactly) <= distance(library.encode(pixels).latent_dist.parameters, exactly)
    exactly = exact.decode(latents.float()).sample
    assert distance(decoded, exactly) <= distance(library.decode(latents).sample, exactly)


def distance(values: torch.Tensor, expected: torch.Tensor) -> float:
    return float((values.float() - expected).abs().mean())


def add_hook_to_a_norm(vae: Any, calls: list[object]) -> None:
    vae.decoder.norm_out.register_forward_hook(lambda *_: calls.append(0))


def add_hook_to_the_decoder(vae: Any, calls: list[object]) -> None:
    vae.decoder.register_forward_pre_hook(lambda *_: calls.append(0))


def replace_a_forward(vae: Any, calls: list[object]) -> None:
    conv = vae.decoder.up_blocks[0].resnets[0].conv1
    forward = conv.forward
    conv.forward = lambda *arguments: calls.append(0) or forward(*arguments)


def use_an_adapter(vae: Any, calls: list[object]) -> None:
    class Adapter(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            calls.append(0)
            return super().forward(input)

    vae.decoder.mid_block.attentions[0].proj.__class__ = Adapter


@pytest.mark.parametrize(
    "change",
    [
        add_hook_to_a_norm,
        add_hook_to_the_decoder,
        replace_a_forward,
        use_an_adapter,
    ],
)
@torch.no_grad()
def test_frame_when_a_module_is_watched_or_replaced_then_called(
    change: Callable[[Any, list[object]], None],
) -> None:
    vae, calls, latents = make_converted_vae(), [], draw_latents(4, 6)
    expected = decode_frame(vae, latents)
    change(vae, calls)

    decoded = decode_frame(vae, latents)
    assert calls

    with Convolutions() as convolutions:
        decode_frame(vae, latents)
    assert convolutions.direct == 0
    torch.testing.assert_close(decoded, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_frame_when_tiled_or_in_another_precision_then_the_modules_run() -> None:
    tiled, wide = make_converted_vae(), make_converted_vae().double()
    tiled.enable_tiling(tile_sample_min_height=32, tile_sample_min_width=32)

    with Convolutions() as convolutions:
        decode_frame(tiled, draw_latents(8, 8))
        decode_frame(wide, draw_latents(4, 4).double())
        encode_frame(wide, draw_pixels(32, 32).double())

    assert convolutions.direct == 0


def test_frame_when_gradients_are_on_then_those_of_the_library() -> None:
    vae, library = make_converted_vae(), make_library_vae()
    latents, others = (draw_latents(4, 6).requires_grad_() for _ in range(2))

    with Convolutions() as convolutions:
        decode_frame(vae, latents).square().sum().backward()
    library.decode(others).sample.square().sum().backward()

    assert convolutions.direct == 0
    assert latents.grad is not None
    assert others.grad is not None
    torch.testing.assert_close(latents.grad, others.grad, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_frame_when_all_channels_of_a_pixel_are_zero_then_as_the_library_does() -> None:
    vae, library = make_converted_vae(), make_library_vae()
    for model in (vae, library):
        for module in (model.post_quant_conv, model.decoder.conv_in):
            module.bias.zero_()
    latents = draw_latents(8, 8)
    latents[..., 2:, 2:] = 0

    with Convolutions() as convolutions:
        decoded = decode_frame(vae, latents)

    assert convolutions.direct > 0
    assert convolutions.called > 0
    torch.testing.assert_close(decoded, library.decode(latents).sample, atol=1e-5, rtol=0)


@torch.no_grad()
def test_frame_when_weights_change_without_a_trace_then_those_of_the_new_ones() -> None:
    vae, library = make_converted_vae(), make_library_vae()
    latents = draw_latents(4, 6)
    before = decode_frame(vae, latents)
    assert torch.equal(decode_frame(vae, latents), before)

    for model in (vae, library):
        model.decoder.mid_block.resnets[0].conv1.weight.data *= 0.9
        model.decoder.up_blocks[0].upsamplers[0].resample[1].weight.data *= 1.1

    decoded = decode_frame(vae, latents)
    assert not torch.allclose(decoded, before, atol=1e-4)
    torch.testing.assert_close(decoded, library.decode(latents).sample, atol=1e-5, rtol=0)


@torch.no_grad()
def test_frame_when_another_size_came_before_then_the_same_pixels() -> None:
    vae, latents = make_converted_vae(), draw_latents(4, 6)
    decode_frame(vae, draw_latents(9, 5, number=2))

    decoded = decode_frame(vae, latents)

    assert torch.equal(decoded, decode_frame(make_converted_vae(), latents))


@torch.no_grad()
def test_frame_when_latents_are_not_finite_then_neither_is_the_result() -> None:
    latents = draw_latents(4, 4)
    latents[0, 0, 0, 0, 0] = float("nan")

    assert decode_frame(make_converted_vae(), latents).isnan().any()
