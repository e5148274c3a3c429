"""The strength of an adapter: what its files state, wherever they state it, counted once."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from joyimage.errors import CheckpointError, InvalidInputError
from joyimage.model.adapters.conversion import convert_adapter
from joyimage.model.adapters.files import read_adapter
from tests import random_models
from tests.model.drive import assert_close, inputs
from tests.model.test_lora import LAYERS, RANK, make_adapter, merged, original_name, respell

CASE = Path(__file__).parents[2] / "../shared/cases/lora/lora_peft"


def load(source: Any, **options: Any) -> Any:
    model = random_models.make_transformer()
    model.load_lora_adapter(source, **options)
    return model


def assert_scaled(source: Any, adapter: dict[str, torch.Tensor], scale: float, **options: Any) -> None:
    """The loaded adapter acts as its matrices times a scale, measured on the change that it makes."""
    with torch.no_grad():
        plain = random_models.make_transformer()(**inputs()).sample
        got = load(source, **options)(**inputs()).sample - plain
        expected = merged(adapter, scale)(**inputs()).sample - plain
    assert float((got - expected).norm() / expected.norm()) < 1e-4


def write_peft(folder: Path, adapter: dict[str, torch.Tensor], spelling: str = "peft", **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(respell(adapter, spelling), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, **config}))
    return folder


@pytest.mark.parametrize("spelling", ["peft", "original", "comfyui", "kohya"])
@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"lora_alpha": RANK}, 1.0),
        ({"lora_alpha": 2 * RANK}, 2.0),
        ({"lora_alpha": RANK / 2}, 0.5),
        ({"lora_alpha": 6, "use_rslora": True}, 6 / math.sqrt(RANK)),
        ({}, 1.0),
    ],
)
def test_strength_when_a_config_stands_beside_the_file_then_as_peft_counts(
    tmp_path: Path, config: dict[str, Any], scale: float, as_file: bool, spelling: str
) -> None:
    adapter = make_adapter(LAYERS)
    folder = write_peft(tmp_path / "a", adapter, spelling, **config)

    assert_scaled(folder / "adapter_model.safetensors" if as_file else folder, adapter, scale)


@pytest.mark.parametrize(
    "rename", [lambda layer: layer, original_name, lambda layer: layer.rsplit(".", 1)[-1]]
)
def test_strength_when_patterns_name_a_layer_in_any_way_then_for_that_layer_only(
    tmp_path: Path, rename: Any
) -> None:
    adapter = make_adapter(LAYERS[:2])
    pattern = {rename(LAYERS[0]): 9.0}
    folder = write_peft(tmp_path / "a", adapter, lora_alpha=RANK, alpha_pattern=pattern)
    with torch.no_grad():
        scaled = dict(adapter)
        scaled[f"{LAYERS[0]}.lora_B.weight"] = adapter[f"{LAYERS[0]}.lora_B.weight"] * (9.0 / RANK)

    assert_scaled(folder, scaled, 1.0)


def test_strength_when_peft_itself_saved_the_adapter_then_as_peft_loads_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = get_peft_model(
        random_models.make_transformer(),
        LoraConfig(
            r=4, lora_alpha=16, target_modules=["img_attn_qkv", "txt_mlp.net.2"], init_lora_weights=False
        ),
    )
    trained.save_pretrained(str(tmp_path / "trained"))

    with torch.no_grad():
        got = load(tmp_path / "trained")(**inputs()).sample
        assert_close(got, trained(**inputs()).sample, "adapter")


@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    places=st.sets(st.sampled_from(["keys", "header", "beside", "kohya"])),
    alpha=st.sampled_from([1.0, 1.5, 3.0, 8.0]),
    wrong=st.booleans(),
)
def test_strength_when_stated_in_several_places_then_once_and_contradictions_are_rejected(
    tmp_path_factory: pytest.TempPathFactory, places: set[str], alpha: float, wrong: bool
) -> None:
    folder = tmp_path_factory.mktemp("adapter")
    adapter = make_adapter(LAYERS[:2])
    spelled = respell(adapter, "comfyui")
    ordered = sorted(places)
    said = {
        place: alpha * (7 if wrong and place == ordered[-1] and len(ordered) > 1 else 1) for place in ordered
    }
    header: dict[str, str] = {}
    if "keys" in said:
        spelled |= {f"diffusion_model.{layer}.alpha": torch.tensor(said["keys"]) for layer in LAYERS[:2]}
    if "header" in said:
        config = {"transformer.r": RANK, "transformer.lora_alpha": said["header"]}
        header["lora_adapter_metadata"] = json.dumps(config)
    if "kohya" in said:
        header |= {"ss_network_alpha": str(said["kohya"]), "ss_network_dim": str(RANK)}
    if "beside" in said:
        (folder / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": said["beside"]}))
    save_file(spelled, folder / "adapter.safetensors", header)

    if len(set(said.values())) > 1:
        with pytest.raises(CheckpointError, match="two strengths"):
            load(folder)
    else:
        assert_scaled(folder, adapter, alpha / RANK if places else 1.0)


def test_strength_when_metadata_comes_with_a_dict_then_its_prefix_is_taken_off() -> None:
    adapter = make_adapter(LAYERS)
    metadata = {"transformer.r": RANK, "transformer.lora_alpha": 2 * RANK}

    assert_scaled(respell(adapter, "diffusers"), adapter, 2.0, metadata=metadata)


@pytest.mark.skipif(not CASE.is_dir(), reason="the shared cases are not beside this checkout")
def test_case_when_its_config_is_read_then_twice_its_matrices() -> None:
    tensors, header = read_adapter(CASE / "adapter_model.safetensors")
    from joyimage.model.adapters.strength import read_statement
    from joyimage.model.adapters.updates import read_updates

    layers = [
        f"double_blocks.{n}.{name}" for n in range(2) for name in ("attn.img_attn_qkv", "attn.img_attn_proj")
    ]
    updates = read_updates(tensors, layers, read_statement(CASE / "adapter_model.safetensors", header))

    assert {update.scale for update in updates.values()} == {2.0}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"modules_to_save": ["proj_out"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"bias": "all"}, "bias"),
        ({"r": RANK + 1}, "rank 4"),
        ({"lora_alpha": "many"}, "lora_alpha"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"lora_alpha": 10**400}, "lora_alpha"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"alpha_pattern": "x"}, "alpha_pattern"),
        ({"use_rslora": "yes"}, "use_rslora"),
    ],
)
def test_config_when_it_cannot_be_honored_then_named_with_the_file(
    tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    folder = write_peft(tmp_path / "a", make_adapter(LAYERS), **config)
    model = random_models.make_transformer()
    before = set(model.state_dict())

    with pytest.raises(CheckpointError, match=words) as caught:
        model.load_lora_adapter(folder)

    assert "adapter_config.json" in str(caught.value)
    assert set(model.state_dict()) == before


@pytest.mark.parametrize("text", ["", "[1]", "{", "null"])
def test_config_when_it_is_no_object_then_one_sentence(tmp_path: Path, text: str) -> None:
    folder = write_peft(tmp_path / "a", make_adapter(LAYERS))
    (folder / "adapter_config.json").write_text(text)

    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        load(folder)


def test_config_when_an_editor_put_a_byte_order_mark_first_then_read(tmp_path: Path) -> None:
    folder = write_peft(tmp_path / "a", make_adapter(LAYERS))
    config = folder / "adapter_config.json"
    config.write_text("\ufeff" + config.read_text("utf-8"), "utf-8")

    assert load(folder).peft_config


@pytest.mark.parametrize("alpha", ["nan", "inf", "1e999", "x"])
def test_header_when_its_alpha_is_no_finite_number_then_named_with_the_file(
    tmp_path: Path, alpha: str
) -> None:
    save_file(make_adapter(LAYERS), tmp_path / "a.safetensors", {"ss_network_alpha": alpha})

    with pytest.raises(CheckpointError, match=rf"a\.safetensors has the `ss_network_alpha` '{alpha}'"):
        load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_adapter_when_values_are_not_finite_then_rejected_with_file_and_key(
    tmp_path: Path, value: float
) -> None:
    adapter = make_adapter(LAYERS)
    adapter[f"{LAYERS[0]}.lora_B.weight"][0, 0] = value
    save_file(adapter, tmp_path / "bad.safetensors")

    with pytest.raises(CheckpointError, match=r"bad\.safetensors.*not finite"):
        load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("matrix", ["A", "B"])
def test_adapter_when_made_for_another_model_then_shape_and_layer_and_the_model_is_unharmed(
    tmp_path: Path, matrix: str
) -> None:
    adapter = make_adapter(LAYERS)
    key = f"{LAYERS[0]}.lora_{matrix}.weight"
    adapter[key] = torch.zeros(RANK, 5) if matrix == "A" else torch.zeros(5, RANK)
    save_file(adapter, tmp_path / "other.safetensors")
    model = random_models.make_transformer()
    with torch.no_grad():
        plain = model(**inputs()).sample

        with pytest.raises(CheckpointError, match=r"other\.safetensors.*another model"):
            model.load_lora_adapter(tmp_path / "other.safetensors")

        assert torch.equal(model(**inputs()).sample, plain)


def test_names_when_not_given_then_counted_and_with_a_dot_rejected() -> None:
    model = random_models.make_transformer()
    for _ in range(3):
        model.load_lora_adapter(make_adapter(LAYERS))

    assert list(model.peft_config) == ["default", "default_1", "default_2"]
    with pytest.raises(InvalidInputError, match=r"`adapter_name` is 'v1\.0'"):
        model.load_lora_adapter(make_adapter(LAYERS), adapter_name="v1.0")


PREFIXES = ["lycoris_", "lora_dit_", "lora_unet_diffusion_model_"]
DOTTED = [
    "pipe.dit.",
    "dit.",
    "unet.",
    "unet.base_model.model.",
    "module.",
    "_orig_mod.",
    "net.",
    "transformer.module.",
]


@pytest.mark.parametrize("prefix", [*PREFIXES, *DOTTED])
def test_prefix_when_any_program_wrote_it_then_the_layer_is_found(prefix: str) -> None:
    adapter = make_adapter(LAYERS)
    spelled = {}
    for key, value in adapter.items():
        layer, matrix, _ = key.rsplit(".", 2)
        name = layer.replace(".", "_") if prefix in PREFIXES else layer
        spelled[f"{prefix}{name}.{matrix}.weight"] = value

    assert_scaled(spelled, adapter, 1.0)


def test_text_encoder_when_the_file_has_parts_of_it_then_one_warning_says_that_they_are_left_out() -> None:
    adapter = make_adapter(LAYERS)
    more = {
        "lora_te_layers_0.lora_down.weight": torch.zeros(1, 2),
        "text_encoder_2.x.lora_A.weight": torch.zeros(1, 2),
    }

    with pytest.warns(UserWarning, match="2 tensors for the text encoder"):
        load({**adapter, **more})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(adapter)


def lokr(layer: str) -> dict[str, torch.Tensor]:
    """A LoKr update of one layer: the Kronecker product of two small matrices."""
    module: Any = random_models.make_transformer().get_submodule(layer)
    rows, columns = module.weight.shape
    generator = torch.Generator().manual_seed(0)
    return {
        "lokr_w1": torch.randn(4, 4, generator=generator),
        "lokr_w2": torch.randn(rows // 4, columns // 4, generator=generator) * 0.1,
    }


@pytest.mark.parametrize(
    "spell",
    [
        lambda layer: f"transformer.{layer}",
        lambda layer: f"diffusion_model.{layer}",
        lambda layer: layer,
        original_name,
        lambda layer: f"transformer.{original_name(layer)}",
        lambda layer: f"lycoris_{layer.replace('.', '_')}",
    ],
)
def test_lokr_when_spelled_in_any_way_then_it_acts(spell: Any) -> None:
    layer = LAYERS[0]
    adapter = {f"{spell(layer)}.{name}": value for name, value in lokr(layer).items()}

    with torch.no_grad():
        plain = random_models.make_transformer()
        delta = torch.kron(*lokr(layer).values())
        plain.get_submodule(layer).get_parameter("weight").add_(delta)
        got = load(adapter)(**inputs()).sample
        assert_close(got, plain(**inputs()).sample, "adapter")


def test_lokr_when_a_key_names_no_layer_then_rejected_and_never_silently_nothing() -> None:
    with pytest.raises(CheckpointError, match="names no layer"):
        load({f"diffusion_model.blocks.0.attn.{name}": value for name, value in lokr(LAYERS[0]).items()})


@pytest.mark.parametrize("layout", ["comfyui", "diffusers", "kohya"])
def test_lokr_when_converted_then_it_acts_as_before(tmp_path: Path, layout: str) -> None:
    layer = LAYERS[0]
    save_file(
        {f"lycoris_{layer.replace('.', '_')}.{name}": one for name, one in lokr(layer).items()},
        tmp_path / "in.safetensors",
    )

    converted = convert_adapter(tmp_path / "in.safetensors", tmp_path / "out.safetensors", layout)

    with torch.no_grad():
        before, after = (
            load(read_adapter(path)[0])(**inputs()).sample
            for path in (tmp_path / "in.safetensors", converted)
        )
    prefix = {"comfyui": "diffusion_model.", "diffusers": "transformer.", "kohya": "lora_unet_"}[layout]
    assert torch.equal(before, after)
    assert all(key.startswith(prefix) for key in read_adapter(converted)[0])


def test_lokr_when_peft_is_asked_for_then_rejected_with_what_can_be_written(tmp_path: Path) -> None:
    save_file(
        {f"{LAYERS[0]}.{name}": one for name, one in lokr(LAYERS[0]).items()}, tmp_path / "in.safetensors"
    )

    with pytest.raises(CheckpointError, match=r"is LoKr, which PEFT .* write comfyui, diffusers or kohya"):
        convert_adapter(tmp_path / "in.safetensors", tmp_path / "out", "peft")
    assert not (tmp_path / "out").exists()
