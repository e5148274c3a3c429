"""Adapters in every program's layout: what we write they read, what they write we read, at one strength."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers.loaders.lora_pipeline import QwenImageLoraLoaderMixin
from diffusers.loaders.peft import PeftAdapterMixin
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from joyimage.errors import CheckpointError, InvalidInputError
from joyimage.model.adapters.conversion import convert_adapter
from joyimage.model.adapters.layouts import LAYOUTS, adapter_tensors, save_adapter
from joyimage.model.adapters.names import adaptable_layers
from joyimage.model.adapters.updates import LayerUpdate, read_updates
from tests import random_models
from tests.model.drive import assert_close, draw, inputs
from tests.model.test_lora import LAYERS, RANK, make_adapter, merged, original_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

ALPHA = 2.0 * RANK


def updates(alpha: float = ALPHA, **more: Any) -> dict[str, LayerUpdate]:
    adapter = make_adapter(LAYERS)
    return {
        layer: LayerUpdate(
            down=adapter[f"{layer}.lora_A.weight"], up=adapter[f"{layer}.lora_B.weight"], alpha=alpha, **more
        )
        for layer in LAYERS
    }


def run(source: Any, **options: Any) -> Tensor:
    model = random_models.make_transformer()
    model.load_lora_adapter(source, **options)
    with torch.no_grad():
        return model(**inputs()).sample


def expected(scale: float = 2.0) -> Tensor:
    with torch.no_grad():
        return merged(make_adapter(LAYERS), scale)(**inputs()).sample


# Each consumer's key rule, restated: from a key of our file to the layer that the consumer changes.


def comfyui_target(key: str, layers: set[str]) -> str | None:
    """ComfyUI maps `diffusion_model.<dotted>` and `lora_unet_<underscored>`; what it doesn't map it drops."""
    suffixes = (
        ".lora_A.weight",
        ".lora_B.weight",
        ".lora_down.weight",
        ".lora_up.weight",
        ".alpha",
        ".dora_scale",
    )
    table = {f"diffusion_model.{layer}": layer for layer in layers}
    table |= {f"lora_unet_{layer.replace('.', '_')}": layer for layer in layers}
    name = next((key.removesuffix(suffix) for suffix in suffixes if key.endswith(suffix)), None)
    return table.get(name or "")


def diffusers_target(key: str, layers: set[str]) -> str | None:
    name = key.removeprefix("transformer.").rsplit(".lora_", 1)[0]
    return name if key.startswith("transformer.") and name in layers else None


def peft_target(key: str, layers: set[str]) -> str | None:
    name = key.removeprefix("base_model.model.").rsplit(".lora_", 1)[0]
    return name if key.startswith("base_model.model.") and name in layers else None


def kohya_target(key: str, layers: set[str]) -> str | None:
    name, _, matrix = key.partition(".")
    table = {f"lora_unet_{layer.replace('.', '_')}": layer for layer in layers}
    is_known = matrix in {"lora_down.weight", "lora_up.weight", "alpha", "dora_scale"}
    return table.get(name) if is_known else None


RULES: dict[str, Callable[[str, set[str]], str | None]] = {
    "comfyui": comfyui_target,
    "diffusers": diffusers_target,
    "peft": peft_target,
    "kohya": kohya_target,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data())
@settings(deadline=None, max_examples=20)
def test_keys_when_written_for_a_program_then_its_rule_finds_a_layer_for_every_key(
    layout: str, data: st.DataObject
) -> None:
    layers = adaptable_layers(random_models.make_transformer())
    chosen = data.draw(st.lists(st.sampled_from(layers), min_size=1, unique=True))
    alpha = data.draw(st.sampled_from([2.0, 3.0, 8.0]))
    made = {
        layer: LayerUpdate(down=torch.ones(2, 4), up=torch.ones(4, 2), alpha=alpha, magnitude=torch.ones(4))
        for layer in chosen
    }

    targets = {key: RULES[layout](key, set(layers)) for key in adapter_tensors(made, layout)}

    assert None not in targets.values()
    assert set(targets.values()) == set(chosen)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("alpha", [RANK, ALPHA, 0.5])
def test_save_when_loaded_again_then_the_same_strength(tmp_path: Path, layout: str, alpha: float) -> None:
    save_adapter(updates(alpha), tmp_path / "out", layout)

    assert_close(run(tmp_path / "out"), expected(alpha / RANK), "adapter")


def test_peft_when_it_loads_our_folder_then_the_same_output(tmp_path: Path) -> None:
    save_adapter(updates(), tmp_path / "out", "peft")

    model = PeftModel.from_pretrained(random_models.make_transformer(), str(tmp_path / "out"))

    with torch.no_grad():
        assert_close(model(**inputs()).sample, expected(), "adapter")


def test_diffusers_when_its_own_loader_reads_our_file_then_the_same_output(tmp_path: Path) -> None:
    save_adapter(updates(), tmp_path / "out.safetensors", "diffusers")

    state, metadata = QwenImageLoraLoaderMixin.lora_state_dict(
        str(tmp_path), weight_name="out.safetensors", return_lora_metadata=True
    )
    model = random_models.make_transformer()
    PeftAdapterMixin.load_lora_adapter(model, state, prefix="transformer", metadata=metadata)

    with torch.no_grad():
        assert_close(model(**inputs()).sample, expected(), "adapter")


@pytest.mark.parametrize("layout", ["comfyui", "kohya"])
def test_header_when_written_then_kohyas_and_modelspec_entries_are_there(tmp_path: Path, layout: str) -> None:
    save_adapter(updates(), tmp_path / "out.safetensors", layout, {"ss_training_comment": "sketch"})

    with safe_open(tmp_path / "out.safetensors", framework="pt") as file:
        header = file.metadata()
        keys = list(file.keys())
    assert header["ss_network_dim"] == str(RANK)
    assert float(header["ss_network_alpha"]) == ALPHA
    assert header["modelspec.architecture"] == "joyai-image-edit/lora"
    assert header["ss_training_comment"] == "sketch"
    assert sum(key.endswith(".alpha") for key in keys) == len(LAYERS)


def test_comfyui_when_alpha_is_the_rank_then_no_alpha_keys(tmp_path: Path) -> None:
    save_adapter(updates(RANK), tmp_path / "out.safetensors")

    assert not any("alpha" in key for key in load_file(tmp_path / "out.safetensors"))


def test_save_when_the_layout_has_no_place_for_a_bias_then_rejected(tmp_path: Path) -> None:
    biased = {
        layer: LayerUpdate(down=one.down, up=one.up, alpha=one.alpha, bias=torch.zeros(len(one.up)))
        for layer, one in updates().items()
    }

    with pytest.raises(CheckpointError, match="bias"):
        save_adapter(biased, tmp_path / "out.safetensors", "comfyui")
    with pytest.raises(InvalidInputError, match="expected one of comfyui"):
        save_adapter(updates(), tmp_path / "out.safetensors", "a1111")


# What other programs write, in their own spellings, with the strength where each of them states it.


def written_by(program: str, folder: Path) -> Path:
    adapter = make_adapter(LAYERS)
    spelled: dict[str, Tensor] = {}
    header: dict[str, str] = {}
    config: dict[str, Any] | None = None
    for layer in LAYERS:
        down, up = adapter[f"{layer}.lora_A.weight"], adapter[f"{layer}.lora_B.weight"]
        flat = layer.replace(".", "_")
        if program == "DiffSynth":
            # No alpha anywhere: the matrices are multiplied as they are.
            spelled[f"{original_name(layer)}.lora_A.default.weight"] = down
            spelled[f"{original_name(layer)}.lora_B.default.weight"] = up * 2
        elif program == "kohya":
            spelled[f"lora_unet_{flat}.lora_down.weight"] = down
            spelled[f"lora_unet_{flat}.lora_up.weight"] = up
            spelled[f"lora_unet_{flat}.alpha"] = torch.tensor(ALPHA)
            header = {"ss_network_dim": str(RANK), "ss_network_alpha": str(ALPHA)}
        elif program == "ai-toolkit":
            spelled[f"diffusion_model.{layer}.lora_A.weight"] = down
            spelled[f"diffusion_model.{layer}.lora_B.weight"] = up
            spelled[f"diffusion_model.{layer}.alpha"] = torch.tensor(ALPHA)
        elif program == "SimpleTuner":
            spelled[f"lycoris_{flat}.lora_down.weight"] = down
            spelled[f"lycoris_{flat}.lora_up.weight"] = up
            spelled[f"lycoris_{flat}.alpha"] = torch.tensor(ALPHA)
        elif program == "PEFT":
            spelled[f"base_model.model.{layer}.lora_A.weight"] = down
            spelled[f"base_model.model.{layer}.lora_B.weight"] = up
            config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA}
        elif program == "diffusers":
            spelled[f"transformer.{layer}.lora_A.weight"] = down
            spelled[f"transformer.{layer}.lora_B.weight"] = up
            stated = {"transformer.r": RANK, "transformer.lora_alpha": ALPHA}
            header = {"lora_adapter_metadata": json.dumps(stated)}
    folder.mkdir()
    save_file(spelled, folder / "adapter.safetensors", header)
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


PROGRAMS = ("DiffSynth", "kohya", "ai-toolkit", "SimpleTuner", "PEFT", "diffusers")


@pytest.mark.parametrize("program", PROGRAMS)
def test_load_when_any_program_wrote_it_then_the_same_result(tmp_path: Path, program: str) -> None:
    assert_close(run(written_by(program, tmp_path / "in")), expected(), "adapter")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_convert_when_from_any_program_to_any_layout_then_the_same_result(
    tmp_path: Path, program: str, layout: str
) -> None:
    convert_adapter(written_by(program, tmp_path / "in"), tmp_path / "out", layout)

    assert_close(run(tmp_path / "out"), expected(), "adapter")


# Split q, k, v.


@pytest.mark.parametrize(
    "names",
    [
        ("img_attn_q", "img_attn_k", "img_attn_v"),
        ("to_q", "to_k", "to_v"),
        ("img_attn_q_proj", "img_attn_k_proj", "img_attn_v_proj"),
    ],
)
@pytest.mark.parametrize("present", [(0, 1, 2), (0, 2), (1,)])
@torch.no_grad()
def test_load_when_q_k_v_are_apart_then_each_acts_on_its_third_at_its_own_strength(
    names: tuple[str, ...], present: tuple[int, ...]
) -> None:
    layer = "double_blocks.0.attn.img_attn_qkv"
    base = random_models.make_transformer()
    weight = base.get_submodule(layer).get_parameter("weight")
    width = weight.shape[1]
    tensors: dict[str, Tensor] = {}
    for part in present:
        rank, alpha = part + 1, 1.5 * (part + 2)
        down, up = draw(rank, width, seed=part) * 0.2, draw(width, rank, seed=part + 9) * 0.2
        name = f"diffusion_model.double_blocks.0.attn.{names[part]}"
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
        weight[part * width : (part + 1) * width] += alpha / rank * up @ down

    assert_close(run(tensors), base(**inputs()).sample, "adapter")


def test_load_when_a_layer_comes_whole_and_in_parts_then_rejected() -> None:
    width = 64
    tensors = {
        **make_adapter(LAYERS[:1]),
        "double_blocks.0.attn.img_attn_q.lora_A.weight": torch.ones(1, width),
        "double_blocks.0.attn.img_attn_q.lora_B.weight": torch.ones(width, 1),
    }

    with pytest.raises(CheckpointError, match="as a whole and its q, k, v"):
        run(tensors)


# DoRA and biases, as peft trains them.


@pytest.mark.parametrize("setting", [{"use_dora": True}, {"lora_bias": True}])
def test_load_when_peft_trained_dora_or_biases_then_as_peft_runs_it(
    tmp_path: Path, setting: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    config = LoraConfig(
        r=RANK,
        lora_alpha=round(ALPHA),
        target_modules=["img_attn_qkv", "txt_mlp.net.2"],
        init_lora_weights=False,
        **setting,
    )
    trained = get_peft_model(random_models.make_transformer(), config)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "magnitude" in name or name.endswith("lora_B.default.bias"):
                parameter.add_(0.3)
    trained.save_pretrained(str(tmp_path / "trained"))

    with torch.no_grad():
        assert_close(run(tmp_path / "trained"), trained(**inputs()).sample, "adapter")


def test_dora_when_converted_to_comfyui_and_back_then_the_same_result(tmp_path: Path) -> None:
    made = updates(magnitude=None)
    plain = random_models.make_transformer()
    made = {
        layer: LayerUpdate(
            down=one.down,
            up=one.up,
            alpha=one.alpha,
            magnitude=plain.get_submodule(layer).get_parameter("weight").detach().norm(dim=1) * 1.3,
        )
        for layer, one in made.items()
    }
    save_adapter(made, tmp_path / "peft", "peft")

    convert_adapter(tmp_path / "peft", tmp_path / "comfy.safetensors", "comfyui")

    assert any(key.endswith(".dora_scale") for key in load_file(tmp_path / "comfy.safetensors"))
    assert_close(run(tmp_path / "comfy.safetensors"), run(tmp_path / "peft"), "adapter")
    assert not math.isclose(float((run(tmp_path / "peft") - expected()).norm()), 0, abs_tol=1e-3)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("diffusion_model.double_blocks.0.attn.img_attn_qkv.hada_w1_a", "LoHa"),
        ("diffusion_model.double_blocks.0.attn.img_attn_qkv.oft_blocks", "OFT"),
        ("diffusion_model.double_blocks.0.attn.img_attn_qkv.diff_b", "differences"),
        ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "another model"),
    ],
)
def test_load_when_it_is_another_kind_or_for_another_model_then_one_message_names_the_file(
    tmp_path: Path, key: str, words: str
) -> None:
    save_file({key: torch.ones(2, 64)}, tmp_path / "other.safetensors")

    with pytest.raises(CheckpointError, match=rf"other\.safetensors.*{words}"):
        run(tmp_path / "other.safetensors")


def test_load_when_the_folder_holds_a_pickle_then_says_that_it_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04")

    with pytest.raises(CheckpointError, match=r"adapter_model\.bin is a pickle"):
        run(tmp_path)


def test_load_when_there_is_no_such_file_then_one_message_names_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no adapter .*missing\.safetensors"):
        run(tmp_path / "missing.safetensors")


def test_read_when_a_layer_is_updated_twice_then_rejected() -> None:
    one = make_adapter(LAYERS[:1])
    twice = {**one, **{f"transformer.{key}": value for key, value in one.items()}}

    with pytest.raises(CheckpointError, match="two tensors"):
        read_updates(twice, adaptable_layers(random_models.make_transformer()))
