"""Adapters: load in any spelling, act, fuse, unload, save."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from safetensors.torch import save, save_file

from joyimage.errors import CheckpointError
from joyimage.model.adapters.names import TARGET_MODULES, adaptable_layers
from joyimage.model.adapters.updates import read_updates
from tests import random_models
from tests.model.drive import assert_close, draw, inputs

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

RANK = 3
LAYERS = [
    f"double_blocks.{index}.{name}" for index in (0, 1) for name in ("attn.img_attn_qkv", "txt_mlp.net.2")
]


def make_adapter(layers: list[str], seed: int = 0) -> dict[str, Tensor]:
    """Draw an adapter for layers of the tiny transformer, with the names that diffusers gives it."""
    modules = dict(random_models.make_transformer().named_modules())
    adapter: dict[str, Tensor] = {}
    for index, layer in enumerate(layers):
        linear: Any = modules[layer]
        adapter[f"{layer}.lora_A.weight"] = draw(RANK, linear.in_features, seed=seed + 2 * index) * 0.2
        adapter[f"{layer}.lora_B.weight"] = draw(linear.out_features, RANK, seed=seed + 2 * index + 1) * 0.2
    return adapter


def merged(adapter: dict[str, Tensor], scale: float = 1.0) -> Any:
    """Return the tiny transformer with an adapter multiplied into its weights by hand."""
    model = random_models.make_transformer()
    modules = dict(model.named_modules())
    for layer in {key.rsplit(".", 2)[0] for key in adapter}:
        delta = adapter[f"{layer}.lora_B.weight"] @ adapter[f"{layer}.lora_A.weight"]
        modules[layer].get_parameter("weight").add_(scale * delta)
    return model


def original_name(layer: str) -> str:
    return layer.replace(".attn.", ".")


SPELLINGS = {
    "published": lambda layer, matrix: f"{layer}.lora_{matrix}.weight",
    "diffusers": lambda layer, matrix: f"transformer.{layer}.lora_{matrix}.weight",
    "peft": lambda layer, matrix: f"base_model.model.{layer}.lora_{matrix}.default.weight",
    "original": lambda layer, matrix: f"{original_name(layer)}.lora_{matrix}.weight",
    "comfyui": lambda layer, matrix: f"diffusion_model.{layer}.lora_{matrix}.weight",
    "comfyui, up and down": lambda layer, matrix: (
        f"diffusion_model.{original_name(layer)}.lora_{'down' if matrix == 'A' else 'up'}.weight"
    ),
    "kohya": lambda layer, matrix: (
        f"lora_unet_{layer.replace('.', '_')}.lora_{'down' if matrix == 'A' else 'up'}.weight"
    ),
    "kohya, original": lambda layer, matrix: (
        f"lora_unet_{original_name(layer).replace('.', '_')}.lora_{'down' if matrix == 'A' else 'up'}.weight"
    ),
}


def respell(adapter: dict[str, Tensor], spelling: str) -> dict[str, Tensor]:
    parts = {key: key.removesuffix(".weight").rsplit(".lora_", 1) for key in adapter}
    return {SPELLINGS[spelling](*parts[key]): value for key, value in adapter.items()}


@pytest.mark.parametrize("spelling", SPELLINGS)
@torch.no_grad()
def test_load_when_spelled_in_any_known_way_then_acts_on_the_right_layers(
    spelling: str, tmp_path: Path
) -> None:
    adapter = make_adapter(LAYERS)
    save_file(respell(adapter, spelling), tmp_path / "adapter.safetensors")
    model = random_models.make_transformer()

    model.load_lora_adapter(tmp_path / "adapter.safetensors", adapter_name="style")

    assert_close(model(**inputs()).sample, merged(adapter)(**inputs()).sample, "adapter")


@torch.no_grad()
def test_load_when_alpha_is_given_then_scales_by_alpha_over_rank() -> None:
    adapter = make_adapter(LAYERS)
    spelled = respell(adapter, "kohya")
    spelled |= {f"lora_unet_{layer.replace('.', '_')}.alpha": torch.tensor(1.5) for layer in LAYERS}
    model = random_models.make_transformer()

    model.load_lora_adapter(spelled)

    assert_close(model(**inputs()).sample, merged(adapter, 1.5 / RANK)(**inputs()).sample, "adapter")


@torch.no_grad()
def test_fuse_when_adapter_loaded_then_same_output_and_unfuse_and_unload_restore() -> None:
    adapter = make_adapter(LAYERS)
    model = random_models.make_transformer()
    plain = model(**inputs()).sample
    model.load_lora_adapter(adapter, adapter_name="style")
    adapted = model(**inputs()).sample

    model.fuse_lora()
    fused = model(**inputs()).sample
    model.unfuse_lora()
    unfused = model(**inputs()).sample
    model.disable_lora()
    disabled = model(**inputs()).sample
    model.unload_lora()

    assert (adapted - plain).norm() > 0.05 * plain.norm()
    assert_close(fused, adapted, "adapter")
    assert_close(unfused, adapted, "adapter")
    assert_close(disabled, plain, "adapter")
    assert (
        torch.equal(model(**inputs()).sample, plain)
        or assert_close(model(**inputs()).sample, plain, "adapter") is None
    )
    assert set(model.state_dict()) == set(random_models.make_transformer().state_dict())


@torch.no_grad()
def test_set_adapters_when_two_are_loaded_then_weights_blend_them() -> None:
    first, second = make_adapter(LAYERS), make_adapter(LAYERS[:2], seed=50)
    model = random_models.make_transformer()
    model.load_lora_adapter(first, adapter_name="first")
    model.load_lora_adapter(second, adapter_name="second")

    model.set_adapters(["first", "second"], [0.5, -1.0])

    expected = merged(first, 0.5)
    for name, module in merged(second, -1.0).named_modules():
        if name in LAYERS:
            expected.get_submodule(name).weight += (
                module.weight - random_models.make_transformer().get_submodule(name).weight
            )
    assert_close(model(**inputs()).sample, expected(**inputs()).sample, "adapter")


def test_add_adapter_when_on_the_usual_layers_then_only_it_trains_and_survives_saving(tmp_path: Path) -> None:
    model = random_models.make_transformer()
    model.add_adapter(
        LoraConfig(r=2, lora_alpha=6, target_modules=list(TARGET_MODULES), init_lora_weights=False)
    )
    loss = model(**inputs()).sample.square().mean()
    loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    model.save_lora_adapter(tmp_path)
    again = random_models.make_transformer()
    again.load_lora_adapter(tmp_path)

    assert len(trained) == 2 * 2 * len(TARGET_MODULES)  # two matrices, two blocks
    assert all("lora_" in name for name in trained)
    assert any(
        parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in model.parameters()
    )
    with torch.no_grad():
        assert_close(again(**inputs()).sample, model(**inputs()).sample, "adapter")


@torch.no_grad()
def test_load_when_on_patches_and_head_then_acts() -> None:
    model = random_models.make_transformer()
    adapter = make_adapter(["proj_out"])
    adapter["img_in.lora_A.weight"] = draw(RANK, 16, 1, 2, 2)
    adapter["img_in.lora_B.weight"] = draw(64, RANK, 1, 1, 1, seed=1) * 0.1
    expected = merged({key: value for key, value in adapter.items() if "proj_out" in key})
    delta = adapter["img_in.lora_B.weight"].flatten(1) @ adapter["img_in.lora_A.weight"].flatten(1)
    expected.img_in.weight += delta.view_as(expected.img_in.weight)

    model.load_lora_adapter(adapter)

    assert_close(model(**inputs()).sample, expected(**inputs()).sample, "adapter")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"double_blocks.7.attn.img_attn_qkv.lora_A.weight": torch.zeros(3, 64)}, "double_blocks.7"),
        ({"double_blocks.0.attn.img_attn_qkv.dora_scale": torch.zeros(192)}, "dora_scale"),
        ({"proj_out.lora_A.weight": torch.zeros(3, 64)}, r"proj_out\.lora_B"),
    ],
)
def test_load_when_a_key_fits_no_layer_then_error_names_it(change: dict[str, Tensor], named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        random_models.make_transformer().load_lora_adapter({**make_adapter(LAYERS), **change})


def test_load_when_nothing_is_for_the_transformer_then_error() -> None:
    with pytest.raises(CheckpointError, match="only tensors for the text encoder or VAE"):
        random_models.make_transformer().load_lora_adapter(
            {"text_encoder.layers.0.lora_A.weight": torch.zeros(1, 2)}
        )


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "an empty file"),
        (b"not a checkpoint at all, but a text", "not a file of weights"),
        (save({"a.lora_A.weight": torch.zeros(2, 2)})[:-1], "damaged or was cut short"),
    ],
)
def test_load_when_file_is_no_safetensors_then_error_names_file_and_kind(
    content: bytes, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "broken.safetensors").write_bytes(content)

    with pytest.raises(CheckpointError, match=rf"broken\.safetensors is {kind}"):
        random_models.make_transformer().load_lora_adapter(tmp_path / "broken.safetensors")


@pytest.mark.parametrize(("names", "words"), [([], "holds no safetensors file"), (["a", "b"], "weight_name")])
def test_load_when_folder_does_not_say_which_file_then_error(
    names: list[str], words: str, tmp_path: Path
) -> None:
    for name in names:
        save_file(make_adapter(LAYERS), tmp_path / f"{name}.safetensors")

    with pytest.raises(CheckpointError, match=words):
        random_models.make_transformer().load_lora_adapter(tmp_path)


@given(data=st.data(), spelling=st.sampled_from(sorted(SPELLINGS)))
@settings(deadline=None, max_examples=40)
def test_rename_when_any_layers_in_any_spelling_then_published_names(
    data: st.DataObject, spelling: str
) -> None:
    layers = adaptable_layers(random_models.make_transformer(num_layers=1))
    chosen = data.draw(st.lists(st.sampled_from(layers), min_size=1, unique=True))
    adapter = {f"{layer}.lora_{matrix}.weight": torch.zeros(1, 1) for layer in chosen for matrix in "AB"}

    assert set(read_updates(respell(adapter, spelling), layers)) == set(chosen)
