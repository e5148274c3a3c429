"""The shared beginning of conversations runs once and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.profiler import profile

from joyimage.pipeline.text_encoder import _patches_by_matmul, encode
from tests import tiny

PROMPTS = ["Make the car red", "blue", "Make the car blue and remove the tree"]
PICTURE, OTHER = tiny.make_picture(0, 64, 96), tiny.make_picture(1, 96, 64)
ATOL = 2e-3  # states reach 80, and the shared part runs in another batch


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    """Text encoder, processor and tokenizer."""
    pipe = tiny.make_pipeline()
    return {"text_encoder": pipe.text_encoder, "processor": pipe.processor, "tokenizer": pipe.tokenizer}


def run(parts: dict[str, Any], prompts: list[str], pictures: Any, **settings: Any) -> list[torch.Tensor]:
    """Encode and return each prompt's own states."""
    states, mask = encode(
        **parts, prompts=prompts, pictures=pictures, device=torch.device("cpu"), max_tokens=4096, **settings
    )
    return [row[: int(own.sum())] for row, own in zip(states, mask, strict=True)]


def tokens_read(parts: dict[str, Any], *arguments: Any, **settings: Any) -> int:
    """Encode and count the tokens that go through the first layer."""
    counts: list[int] = []
    layer = parts["text_encoder"].model.language_model.layers[0]
    handle = layer.register_forward_hook(lambda _module, _inputs, out: counts.append(out[..., 0].numel()))
    try:
        run(parts, *arguments, **settings)
    finally:
        handle.remove()
    return sum(counts)


@pytest.mark.parametrize("pictures", [[PICTURE], [PICTURE, OTHER]], ids=["one picture", "two pictures"])
def test_encode_when_prompts_share_pictures_then_same_as_alone(parts: dict[str, Any], pictures: Any) -> None:
    together = run(parts, PROMPTS, [pictures] * 3)

    for prompt, states in zip(PROMPTS, together, strict=True):
        (alone,) = run(parts, [prompt], [pictures])
        assert states.shape == alone.shape
        assert torch.allclose(states, alone, atol=ATOL)


def test_encode_when_prompts_share_a_picture_then_its_tokens_are_read_once(parts: dict[str, Any]) -> None:
    alone = [tokens_read(parts, [prompt], [[PICTURE]]) for prompt in PROMPTS]

    together = tokens_read(parts, PROMPTS, [[PICTURE]] * 3)

    shared = tiny.PREFIX_TOKENS + 2 * 3 + 2
    padding = 3 * max(alone) - sum(alone)
    assert together <= sum(alone) - 2 * shared + padding


def test_encode_when_pictures_differ_then_each_prompt_reads_its_own(parts: dict[str, Any]) -> None:
    together = run(parts, PROMPTS, [[PICTURE], [OTHER, PICTURE], [PICTURE]])

    for index, pictures in enumerate([[PICTURE], [OTHER, PICTURE], [PICTURE]]):
        (alone,) = run(parts, [PROMPTS[index]], [pictures])
        assert torch.allclose(together[index], alone, atol=ATOL)


def test_encode_when_a_picture_stands_behind_words_then_same_as_alone(parts: dict[str, Any]) -> None:
    prompts = ["Make it red <image>\n like this", "blue <image>\n"]

    together = run(parts, prompts, [[PICTURE]] * 2, placeholders=True)

    for prompt, states in zip(prompts, together, strict=True):
        (alone,) = run(parts, [prompt], [[PICTURE]], placeholders=True)
        assert torch.allclose(states, alone, atol=ATOL)


def test_encode_when_states_are_measured_then_those_before_the_final_norm(parts: dict[str, Any]) -> None:
    (states,) = run(parts, [PROMPTS[0]], None)

    normed = parts["text_encoder"].model.language_model.norm(states)
    assert 10 < states.std() < 40
    assert normed.std() < 5


@torch.no_grad()
def test_encode_when_a_picture_is_read_then_its_patches_go_through_a_matmul(parts: dict[str, Any]) -> None:
    convolution = parts["text_encoder"].model.visual.patch_embed.proj
    patches = torch.randn(5, 3, 2, *convolution.kernel_size[1:])
    expected = convolution(patches)

    with profile() as profiler:
        run(parts, ["blue"], [[PICTURE]])
    with _patches_by_matmul(parts["text_encoder"]):
        rows = convolution(patches)

    names = {event.key for event in profiler.key_averages()}
    assert "aten::linear" in names
    assert not any("conv" in name for name in names)
    assert torch.allclose(rows, expected, atol=1e-5)
    assert "forward" not in convolution.__dict__
