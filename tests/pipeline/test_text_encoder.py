"""The shared prefix of conversations runs once and changes nothing."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import profile
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRMSNorm

from joyimage.pipeline.images import ModelImage
from joyimage.pipeline.qwen3_vl import PatchConv3d, SkippableLinear, convert_text_encoder, revert_text_encoder
from joyimage.pipeline.text_encoder import encode
from tests import random_models

PROMPTS = ["Make the car red", "blue", "Make the car blue and remove the tree"]
IMAGE, OTHER = random_models.make_image(0, 64, 96), random_models.make_image(1, 96, 64)
_rms, _linear = Qwen3VLTextRMSNorm.forward, nn.Linear.forward
ATOL = 2e-3  # states reach 80, and the shared part runs in another batch


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    """Text encoder, processor and tokenizer."""
    pipe = random_models.make_pipeline()
    return {"text_encoder": pipe.text_encoder, "processor": pipe.processor, "tokenizer": pipe.tokenizer}


@pytest.fixture(autouse=True, params=["in one pass", "prefix first"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How conversations are read: as about small images or as about large ones."""
    if request.param == "prefix first":
        monkeypatch.setattr("joyimage.pipeline.text_encoder.MAX_JOINT_PREFIX_TOKENS", 0)
    return request.param


def wrap(groups: Any) -> Any:
    """Turn images into what the encoder takes."""
    return None if groups is None else [[ModelImage(image) for image in group] for group in groups]


def run(parts: dict[str, Any], prompts: list[str], images: Any, **settings: Any) -> list[torch.Tensor]:
    """Encode and return each prompt's own states."""
    states, mask = encode(
        **parts,
        prompts=prompts,
        images=wrap(images),
        device=torch.device("cpu"),
        max_tokens=4096,
        **settings,
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


@pytest.mark.parametrize("images", [[IMAGE], [IMAGE, OTHER]], ids=["one image", "two images"])
def test_encode_when_prompts_share_images_then_same_as_alone(parts: dict[str, Any], images: Any) -> None:
    together = run(parts, PROMPTS, [images] * 3)

    for prompt, states in zip(PROMPTS, together, strict=True):
        (alone,) = run(parts, [prompt], [images])
        assert states.shape == alone.shape
        assert torch.allclose(states, alone, atol=ATOL)


def test_encode_when_prompts_share_a_image_then_its_tokens_are_read_once(parts: dict[str, Any]) -> None:
    alone = [tokens_read(parts, [prompt], [[IMAGE]]) for prompt in PROMPTS]

    together = tokens_read(parts, PROMPTS, [[IMAGE]] * 3)

    shared = (
        random_models.PREFIX_TOKENS + len(["user", "newline"]) + 2 * 3 + len(["vision_start", "vision_end"])
    )
    assert together == sum(alone) - 2 * shared


def test_encode_when_images_differ_then_each_prompt_reads_its_own(parts: dict[str, Any]) -> None:
    together = run(parts, PROMPTS, [[IMAGE], [OTHER, IMAGE], [IMAGE]])

    for index, images in enumerate([[IMAGE], [OTHER, IMAGE], [IMAGE]]):
        (alone,) = run(parts, [PROMPTS[index]], [images])
        assert torch.allclose(together[index], alone, atol=ATOL)


def test_encode_when_a_image_stands_behind_words_then_same_as_alone(parts: dict[str, Any]) -> None:
    prompts = ["Make it red <image>\n like this", "blue <image>\n"]

    together = run(parts, prompts, [[IMAGE]] * 2, placeholders=True)

    for prompt, states in zip(prompts, together, strict=True):
        (alone,) = run(parts, [prompt], [[IMAGE]], placeholders=True)
        assert torch.allclose(states, alone, atol=ATOL)


def test_encode_when_states_are_measured_then_those_before_the_final_norm(parts: dict[str, Any]) -> None:
    (states,) = run(parts, [PROMPTS[0]], None)

    normed = parts["text_encoder"].model.language_model.norm(states)
    assert 10 < states.std() < 40
    assert normed.std() < 5


def test_encode_when_images_are_equal_but_not_the_same_objects_then_they_are_read_once(
    parts: dict[str, Any],
) -> None:
    together = tokens_read(parts, PROMPTS, [[IMAGE]] * 3)

    assert tokens_read(parts, PROMPTS, [[IMAGE.copy()] for _ in PROMPTS]) == together


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_encode_when_endings_stand_in_one_row_then_none_sees_another(
    parts: dict[str, Any], attention: str
) -> None:
    parts["text_encoder"].set_attn_implementation(attention)
    try:
        first = run(parts, ["blue", "red"], [[IMAGE]] * 2)[0]
        other = run(parts, ["blue", "tree"], [[IMAGE]] * 2)[0]
        last = run(parts, ["red", "blue"], [[IMAGE]] * 2)[1]
    finally:
        parts["text_encoder"].set_attn_implementation("sdpa")

    assert torch.equal(first, other)
    assert torch.allclose(first, last, atol=ATOL)


def test_encode_when_image_is_small_or_large_then_read_in_one_pass_or_its_prefix_first(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joyimage.pipeline.text_encoder.MAX_JOINT_PREFIX_TOKENS", 256)
    small, large = (
        random_models.make_image(0, 256, 256),
        random_models.make_image(0, 512, 512),
    )  # 64 and 256 tokens
    lengths: list[int] = []
    layer = parts["text_encoder"].model.language_model.layers[0]
    handle = layer.register_forward_hook(lambda _module, _inputs, out: lengths.append(out.shape[1]))

    try:
        passes = [len((run(parts, PROMPTS, [[image]] * 3), lengths)[1]) for image in (small, large)]
    finally:
        handle.remove()

    assert passes == [1, 1 + 2]
    assert lengths[1] > lengths[2]


def test_encode_when_attention_takes_no_mask_then_endings_run_one_by_one(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = run(parts, PROMPTS, [[IMAGE]] * 3)
    monkeypatch.setattr("joyimage.acceleration.conditions._ATTENTION_WITH_MASKS", set())

    one_by_one = run(parts, PROMPTS, [[IMAGE]] * 3)

    for states, alone in zip(together, one_by_one, strict=True):
        assert torch.allclose(states, alone, atol=ATOL)


def test_encode_when_it_runs_then_neither_final_norm_nor_head_computes(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = parts["text_encoder"]
    norm, head = model.model.language_model.norm, model.lm_head

    def fail(*_: object) -> None:
        pytest.fail("ran what no one reads")

    monkeypatch.setattr(Qwen3VLTextRMSNorm, "forward", lambda own, x: fail() if own is norm else _rms(own, x))
    monkeypatch.setattr(nn.Linear, "forward", lambda own, x: fail() if own is head else _linear(own, x))

    run(parts, PROMPTS, [[IMAGE]] * 3)

    assert "forward" not in norm.__dict__
    assert "forward" not in head.__dict__


@torch.no_grad()
def test_encode_when_a_image_is_read_then_its_patches_go_through_a_matmul(parts: dict[str, Any]) -> None:
    convolution = parts["text_encoder"].model.visual.patch_embed.proj
    patches = torch.randn(5, 3, 2, *convolution.kernel_size[1:])
    expected = convolution(patches)

    embedded: list[torch.Tensor] = []
    handle = convolution.register_forward_hook(lambda _module, inputs, rows: embedded.extend((*inputs, rows)))

    with profile() as profiler:
        run(parts, ["blue"], [[IMAGE]])
    handle.remove()

    names = {event.key for event in profiler.key_averages()}
    assert "aten::linear" in names
    assert not any("conv" in name for name in names)
    assert isinstance(convolution, PatchConv3d)
    seen, rows = embedded
    assert torch.allclose(rows, convolution(seen), atol=1e-5)
    assert torch.equal(convolution(patches), expected)


@torch.no_grad()
def test_text_encoder_when_converted_then_the_librarys_own_calls_are_bitwise_as_before(
    parts: dict[str, Any],
) -> None:
    plain: Any = random_models.make_pipeline().text_encoder
    revert_text_encoder(plain)
    ids = torch.arange(5, 25)[None]

    assert isinstance(parts["text_encoder"].lm_head, SkippableLinear)
    assert type(plain.lm_head) is nn.Linear
    assert torch.equal(parts["text_encoder"](input_ids=ids).logits, plain(input_ids=ids).logits)
    assert parts["text_encoder"].state_dict().keys() == plain.state_dict().keys()


def test_text_encoder_when_reverted_and_converted_again_then_encodes_as_before(parts: dict[str, Any]) -> None:
    (expected,) = run(parts, ["blue"], [[IMAGE]])
    model = parts["text_encoder"]

    revert_text_encoder(model)
    assert not model.model.language_model.layers[-1]._forward_hooks
    convert_text_encoder(model)

    (states,) = run(parts, ["blue"], [[IMAGE]])
    assert torch.equal(states, expected)
    assert torch.equal(run({**parts, "text_encoder": copy.deepcopy(model)}, ["blue"], [[IMAGE]])[0], expected)


def test_encode_when_two_threads_share_the_text_encoder_then_each_gets_its_own_states(
    parts: dict[str, Any],
) -> None:
    expected = [run(parts, [prompt], [[IMAGE]])[0] for prompt in PROMPTS]

    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda n: run(parts, [PROMPTS[n % 3]], [[IMAGE]])[0], range(12)))

    assert all(torch.equal(states, expected[number % 3]) for number, states in enumerate(together))
