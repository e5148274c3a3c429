"""Single frames through the VAE: the library's result, with less than half of its arithmetic."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from joyimage.pipeline.vae import FrameConv3d, convert_vae, decode_frame, encode_frame, revert_vae
from tests import random_models


@pytest.fixture(scope="module")
def vae() -> Any:
    """A Wan VAE whose temporal taps all have weights."""
    return make_converted_vae()


def make_converted_vae() -> Any:
    vae = random_models.make_vae()
    convert_vae(vae)
    return vae


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (8, 200)])
def test_frame_when_encoded_and_decoded_then_as_the_library_does(vae: Any, size: tuple[int, int]) -> None:
    pixels = torch.rand(2, 3, 1, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = vae.encode(pixels).latent_dist

    posterior = encode_frame(vae, pixels)

    assert torch.allclose(posterior.mean, expected.mean, atol=1e-5)
    assert torch.allclose(posterior.logvar, expected.logvar, atol=1e-5)
    decoded = vae.decode(expected.mean, return_dict=False)[0]
    assert torch.allclose(decode_frame(vae, expected.mean), decoded, atol=1e-5)


def test_frame_when_run_then_less_than_half_of_the_arithmetic(vae: Any) -> None:
    pixels = torch.zeros(1, 3, 1, 64, 64)

    with FlopCounterMode(display=False) as plain:
        vae.decode(vae.encode(pixels).latent_dist.mean)
    with FlopCounterMode(display=False) as ours:
        decode_frame(vae, encode_frame(vae, pixels).mean)

    assert ours.get_total_flops() < 0.5 * plain.get_total_flops()


def test_frame_when_weights_are_bf16_then_no_further_from_fp32_than_the_library(vae: Any) -> None:
    latents = torch.randn(1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    half: Any = make_converted_vae().bfloat16()
    exact = vae.decode(latents, return_dict=False)[0]

    library = half.decode(latents.bfloat16(), return_dict=False)[0].float()
    ours = decode_frame(half, latents.bfloat16())

    assert ours.dtype == torch.bfloat16
    assert (ours.float() - exact).norm() <= 1.1 * (library - exact).norm()


def test_video_when_encoded_afterwards_then_as_before(vae: Any) -> None:
    video = torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = vae.encode(video).latent_dist.mean

    encode_frame(vae, video[:, :, :1])

    assert torch.equal(vae.encode(video).latent_dist.mean, expected)


def test_tiles_when_enabled_then_large_images_go_through_them() -> None:
    vae: Any = make_converted_vae()
    vae.enable_tiling(
        tile_sample_min_height=64,
        tile_sample_min_width=64,
        tile_sample_stride_height=48,
        tile_sample_stride_width=48,
    )
    latents = torch.randn(1, 16, 1, 16, 16, generator=torch.Generator().manual_seed(2))

    assert torch.equal(decode_frame(vae, latents), vae.decode(latents, return_dict=False)[0])
    assert not torch.equal(decode_frame(vae, latents), decode_frame(make_converted_vae(), latents))


def test_offloaded_vae_when_run_then_its_hooks_decide() -> None:
    vae: Any = make_converted_vae()
    expected = decode_frame(vae, torch.zeros(1, 16, 1, 4, 4))
    vae.enable_group_offload(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level"
    )

    assert torch.allclose(decode_frame(vae, torch.zeros(1, 16, 1, 4, 4)), expected, atol=1e-5)


def test_offloaded_as_a_whole_when_run_then_brought_to_its_device() -> None:
    from accelerate import cpu_offload_with_hook

    vae: Any = make_converted_vae()
    expected = decode_frame(vae, torch.zeros(1, 16, 1, 4, 4))
    calls = []
    vae, hook = cpu_offload_with_hook(vae, "cpu")
    pre_forward = vae._hf_hook.pre_forward
    vae._hf_hook.pre_forward = lambda *arguments: calls.append(arguments) or pre_forward(*arguments)

    assert torch.equal(decode_frame(vae, torch.zeros(1, 16, 1, 4, 4)), expected)
    assert len(calls) == 1
    hook.remove()


def test_vae_when_converted_then_the_librarys_own_calls_are_bitwise_as_before(vae: Any) -> None:
    plain: Any = random_models.make_vae()
    pixels = torch.rand(1, 3, 1, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1

    posterior, expected = vae.encode(pixels).latent_dist, plain.encode(pixels).latent_dist

    assert torch.equal(posterior.parameters, expected.parameters)
    assert torch.equal(vae.decode(expected.mean).sample, plain.decode(expected.mean).sample)
    assert vae.state_dict().keys() == plain.state_dict().keys()


def test_vae_when_reverted_then_of_the_librarys_classes_with_the_same_frames() -> None:
    vae = make_converted_vae()
    pixels = torch.rand(1, 3, 1, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    converted = encode_frame(vae, pixels).mean
    assert any(isinstance(module, FrameConv3d) for module in vae.modules())

    revert_vae(vae)

    plain = [type(module) for module in random_models.make_vae().modules()]
    assert [type(module) for module in vae.modules()] == plain
    assert torch.allclose(encode_frame(vae, pixels).mean, converted, atol=1e-5)


def test_pipeline_when_it_gets_another_vae_then_that_one_is_converted() -> None:
    pipe: Any = random_models.make_pipeline()
    other = random_models.make_vae(seed=5)

    pipe.vae = other

    assert any(isinstance(module, FrameConv3d) for module in other.modules())
    assert any(isinstance(module, FrameConv3d) for module in pipe.vae.modules())


def test_frame_when_another_thread_encodes_a_video_then_each_gets_its_own_result(vae: Any) -> None:
    video = torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(1))
    pixels = video[:, :, :1]
    expected_video, expected_frame = vae.encode(video).latent_dist.mean, encode_frame(vae, pixels).mean

    def work(number: int) -> torch.Tensor:
        return encode_frame(vae, pixels).mean if number % 2 else vae.encode(video).latent_dist.mean

    with ThreadPoolExecutor(2) as pool:
        # The library caches frames on the VAE itself, so only one thread at a time may encode videos.
        frames = pool.map(lambda _: work(1), range(8))
        videos = [work(0) for _ in range(2)]
        assert all(torch.equal(frame, expected_frame) for frame in frames)

    assert all(torch.equal(one, expected_video) for one in videos)


@torch.no_grad()
def test_frame_when_the_decoder_is_compiled_then_one_graph_with_the_same_pixels(vae: Any) -> None:
    latents = torch.randn(1, 16, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    expected = decode_frame(vae, latents)
    compiled, graphs = make_converted_vae(), []
    compiled.decoder.compile(
        backend=lambda graph, _: graphs.append(graph) or graph.forward, fullgraph=True, dynamic=False
    )

    assert torch.allclose(decode_frame(compiled, latents), expected, atol=1e-5)
    assert len(graphs) == 1
