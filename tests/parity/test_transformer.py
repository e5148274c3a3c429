"""Our transformer beside diffusers' two, with the same random weights, in fp32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_joyimage import (
    JoyImageEditTransformer3DModel as ReferenceTransformer,
)
from diffusers.models.transformers.transformer_joyimage import JoyImageTransformerBlock as ReferenceBlock
from torch import Tensor

from joyimage.model.blocks import JoyImageTransformerBlock
from joyimage.model.rope import ItemRotaryEmbedding
from joyimage.model.transformer import JoyImageEditTransformer3DModel
from tests import random_models
from tests.model.drive import assert_close, draw, gradients_of, inputs, list_inputs

CONFIGS: dict[str, dict[str, Any]] = {
    "as published": {},
    "text positions": {"rope_type": "mrope"},
    "deep": {"num_layers": 5},
    "wide heads": {"hidden_size": 96, "num_attention_heads": 1, "rope_dim_list": [32, 32, 32]},
    "equal axes": {"hidden_size": 48, "num_attention_heads": 2, "rope_dim_list": None},
    "other channels": {"in_channels": 8, "out_channels": 12, "mlp_width_ratio": 2.5, "theta": 256},
    "other patch": {"patch_size": [1, 4, 2]},
}


@pytest.mark.parametrize(
    "shape", [(2, 1, 4, 8), (2, 1, 1, 4, 8), (1, 2, 1, 8, 4), (2, 4, 1, 4, 4), (1, 2, 3, 4, 4)]
)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.no_grad()
def test_forward_when_items_of_one_size_then_agrees(config: dict[str, Any], shape: tuple[int, ...]) -> None:
    reference = random_models.make_reference_transformer(**config)
    ours = random_models.make_transformer(**config)
    channels = config.get("in_channels", 16)
    *items, frames, height, width = shape[1:]
    arguments = inputs(batch_size=shape[0])
    arguments["hidden_states"] = draw(shape[0], *items, channels, frames, height, width)

    got = ours(**arguments).sample

    assert_close(got, reference(**arguments).sample, "forward")


def as_padded_patches(items: list[Tensor]) -> tuple[Tensor, list[list[tuple[int, int, int]]]]:
    """Lay items, target last, out as diffusers' Edit-Plus class takes them: patches, target first."""
    patches: list[Tensor] = []
    shapes: list[tuple[int, int, int]] = []
    for item in [items[-1], *items[:-1]]:
        height, width = item.shape[-2] // 2, item.shape[-1] // 2
        blocks = item.unfold(3, 2, 2).unfold(4, 2, 2)  # [B, C, 1, h, w, 2, 2]
        patches.append(blocks.permute(0, 3, 4, 1, 2, 5, 6).flatten(1, 2))  # [B, L, C, 1, 2, 2]
        shapes.append((1, height, width))
    return torch.cat(patches, dim=1), [shapes] * items[0].shape[0]


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("sizes", [[(4, 6)], [(8, 4), (4, 6)], [(2, 2), (10, 4), (4, 6)]])
@torch.no_grad()
def test_forward_when_items_of_any_size_then_agrees_with_edit_plus(
    sizes: list[tuple[int, int]], is_masked: bool
) -> None:
    reference = random_models.make_reference_transformer(plus=True)
    ours = random_models.make_transformer()
    arguments = list_inputs(sizes, batch_size=2)
    mask = torch.ones(2, 7)
    mask[1, 5:] = 0
    arguments["encoder_hidden_states_mask"] = mask if is_masked else None

    velocities = ours(**arguments).sample

    patches, shape_list = as_padded_patches(arguments["hidden_states"])
    expected = reference(**{**arguments, "hidden_states": patches}, shape_list=shape_list).sample
    assert [velocity.shape for velocity in velocities] == [item.shape for item in arguments["hidden_states"]]
    assert_close(as_padded_patches(velocities)[0], expected, "forward")


@torch.no_grad()
def test_forward_when_in_half_precision_then_as_far_from_fp32_as_the_reference() -> None:
    expected = random_models.make_reference_transformer()(**inputs()).sample
    halves = {name: value.to(torch.bfloat16) for name, value in inputs().items()}
    halves["timestep"] = inputs()["timestep"]
    distances: list[float] = []
    models: list[Any] = [random_models.make_transformer(), random_models.make_reference_transformer()]
    for model in models:
        model.to(torch.bfloat16)
        model.condition_embedder.time_embedder.to(torch.float32)
        distances.append((model(**halves).sample.float() - expected).norm().item())

    ours, reference = distances

    assert 0 < ours <= 1.1 * reference


@torch.no_grad()
def test_block_when_real_width_then_agrees() -> None:
    with torch.device("meta"):
        ours = JoyImageTransformerBlock(4096, 32)
        reference = ReferenceBlock(4096, 32, 128)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.empty(tensor.shape).uniform_(-0.04, 0.04, generator=generator)
        for name, tensor in reference.state_dict().items()
    }
    for block in (ours, reference):
        block.load_state_dict(weights, assign=True)
    grids = ((1, 2, 3), (1, 2, 2))
    tables = ItemRotaryEmbedding((16, 56, 56), 10000.0)(grids, torch.device("cpu"))
    wide_tables = tuple(table[0].repeat_interleave(2, dim=-1) for table in tables)
    img, txt, temb = draw(1, 10, 4096), draw(1, 5, 4096, seed=1), draw(1, 6, 4096, seed=2)

    got = ours(img, txt, temb, tables)

    for stream, expected in zip(got, reference(img, txt, temb, (wide_tables, None)), strict=True):
        assert_close(stream, expected, "forward")


@torch.no_grad()
def test_forward_when_queries_and_keys_are_tiny_then_agrees() -> None:
    # At a root mean square of 1e-3 the epsilon of their norms is as large as their mean square.
    models = [random_models.make_reference_transformer(), random_models.make_transformer()]
    for model in models:
        for name, parameter in model.named_parameters():
            if "attn_qkv" in name:
                parameter[: 2 * len(parameter) // 3] *= 1e-3

    expected, got = (model(**inputs()).sample for model in models)

    assert_close(got, expected, "forward")


@pytest.mark.parametrize("rope_type", ["rope", "mrope"])
def test_gradients_when_same_loss_then_agree(rope_type: str) -> None:
    ours = gradients_of(random_models.make_transformer(rope_type=rope_type), inputs())
    reference = gradients_of(random_models.make_reference_transformer(rope_type=rope_type), inputs())

    assert ours.keys() == reference.keys()
    for name, gradient in reference.items():
        assert_close(ours[name], gradient, "gradients")


def test_defaults_when_no_settings_then_those_of_the_reference() -> None:
    with torch.device("meta"):
        ours, reference = (
            model(num_layers=1) for model in (JoyImageEditTransformer3DModel, ReferenceTransformer)
        )

    for name, value in reference.config.items():
        if not name.startswith("_"):
            got = ours.config[name]
            assert (list(got) if isinstance(got, tuple) else got) == value
