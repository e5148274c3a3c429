"""How training keeps memory low: quantized bases, streamed blocks, and what is chosen for a device."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file

from joyimage.benchmark.models import SCALED
from joyimage.errors import InvalidInputError, OutOfMemoryError
from joyimage.loading import load_pipeline
from joyimage.model.adapters.names import TARGET_MODULES
from joyimage.model.transformer import JoyImageEditTransformer3DModel
from joyimage.pipeline.components import PUBLISHED_FOLDER
from joyimage.pipeline.quantizing import quantize_file
from joyimage.tiny import weights_folder
from joyimage.training import memory, train
from joyimage.training.base_model import BaseModel
from joyimage.training.framing import Checkpoint
from joyimage.training.lora import plan
from joyimage.training.memory import MemoryPlan, Savings, plan_memory
from tests.training.pairs import make_config, write_pairs

if TYPE_CHECKING:
    from joyimage.acceleration.quantization import QuantizedLinear


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"), 4)


def trained(pairs: Path, output: Path, **sections: Any) -> dict[str, torch.Tensor]:
    config = make_config(pairs, output, train={"steps": 2, **sections.pop("train", {})}, **sections)
    return load_file(train(config, progress=False).adapter)


def is_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def plain(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return trained(pairs, tmp_path_factory.mktemp("plain") / "a.safetensors")


@pytest.fixture(scope="module")
def int8_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "transformer.safetensors"
    return quantize_file(weights_folder(), path, format="int8_convrot")


def test_train_when_blocks_are_streamed_from_disk_then_the_same_adapter_bit_for_bit(
    pairs: Path, tmp_path: Path, plain: dict[str, torch.Tensor]
) -> None:
    assert is_equal(trained(pairs, tmp_path / "a.safetensors", memory={"offload": "disk"}), plain)


@pytest.mark.parametrize("quantization", ["int8", "fp8", "nf4"])
def test_train_when_the_base_is_quantized_then_another_adapter_with_and_without_checkpointing_alike(
    pairs: Path, tmp_path: Path, plain: dict[str, torch.Tensor], quantization: str
) -> None:
    one, other = (
        trained(
            pairs,
            tmp_path / f"{is_on}.safetensors",
            memory={"quantization": quantization, "gradient_checkpointing": is_on},
        )
        for is_on in (False, True)
    )

    assert is_equal(one, other)
    assert not is_equal(one, plain)
    for key, tensor in plain.items():
        assert torch.allclose(one[key], tensor, atol=0.02), key


def test_train_when_the_base_is_an_int8_file_then_as_quantized_while_loading(
    pairs: Path, tmp_path: Path, int8_file: Path
) -> None:
    from_file = trained(pairs, tmp_path / "file.safetensors", transformer=str(int8_file))
    while_loading = trained(pairs, tmp_path / "loading.safetensors", memory={"quantization": "int8"})

    # The file was made from bf16 values, as files of the published model are.
    for key, tensor in while_loading.items():
        assert torch.allclose(from_file[key], tensor, atol=0.02), key
    planned = plan(make_config(pairs, tmp_path / "b.safetensors", transformer=str(int8_file)), progress=False)
    assert (
        planned.memory.base < plan(make_config(pairs, tmp_path / "c.safetensors"), progress=False).memory.base
    )


@pytest.mark.parametrize("matmul", ["decode", "scaled", "int8"])
def test_quantized_layer_when_a_gradient_flows_then_that_of_the_decoded_weight_and_nothing_decoded_is_kept(
    matmul: str,
) -> None:
    pipe: Any = load_pipeline("tiny", device="cpu", quantization="int8").pipe
    layer: QuantizedLinear = pipe.transformer.double_blocks[0].attn.img_attn_qkv
    layer.matmul = matmul
    weight = layer.encoded.decode(torch.float32)
    states = torch.randn(2, 40, layer.in_features, generator=torch.Generator().manual_seed(0))
    inputs = [states.clone().requires_grad_() for _ in range(2)]
    kept: list[torch.Tensor] = []

    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        output = layer(inputs[0])
    expected = torch.nn.functional.linear(inputs[1], weight, layer.bias)
    for one in (output, expected):
        one.square().sum().backward()

    assert kept == []
    if matmul == "decode":
        assert torch.equal(output, expected)
    assert (output - expected).norm() <= 1e-6 * expected.norm()
    assert inputs[0].grad is not None
    assert inputs[1].grad is not None
    assert (inputs[0].grad - inputs[1].grad).norm() <= 1e-6 * inputs[1].grad.norm()


def test_resume_when_less_memory_is_free_then_the_run_keeps_its_way(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(pairs, tmp_path / "whole.safetensors")
    trained(pairs, tmp_path / "parts.safetensors", train={"steps": 1})
    monkeypatch.setattr(memory, "PROCESS_BYTES", 0)
    config = make_config(pairs, tmp_path / "parts.safetensors", train={"steps": 2})
    chosen = memory._candidates
    monkeypatch.setattr(memory, "_candidates", lambda *given: list(chosen(*given))[2:3])  # int8

    assert plan(make_config(pairs, tmp_path / "new.safetensors"), progress=False).memory.savings == Savings(
        gradient_checkpointing=True, quantization="int8"
    )
    assert is_equal(load_file(train(config, progress=False).adapter), whole)
    with safe_open(tmp_path / "parts-run/state.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["savings"])["quantization"] is None


def published(**train: Any) -> tuple[Any, BaseModel]:
    config = make_config(Path(), Path("a.safetensors"), train={"batch_size": 1, **train})
    checkpoint = Checkpoint(model="published", takes_several=False, base_size=1024)
    base = BaseModel(
        checkpoint=checkpoint, cls=None, source=PUBLISHED_FOLDER, folder=PUBLISHED_FOLDER, files={}
    )
    return config, base


def plan_preset(
    preset: str, host_bytes: int, monkeypatch: pytest.MonkeyPatch, side: int = 1024
) -> MemoryPlan:
    config, base = published()
    config = replace(config, memory=replace(config.memory, preset=preset))
    monkeypatch.setattr(memory, "free_memory", lambda _: type("Free", (), {"host": host_bytes}))
    return plan_memory(config, base, ((side, side), (side, side)), "cuda")


@pytest.mark.parametrize(
    ("preset", "side", "savings", "encoders"),
    [
        ("80", 512, Savings(gradient_checkpointing=False), "none"),
        ("80", 1024, Savings(gradient_checkpointing=True), "none"),
        ("48", 1024, Savings(gradient_checkpointing=True), "none"),
        ("24", 512, Savings(gradient_checkpointing=True, quantization="int8"), "none"),
        ("24", 1024, Savings(gradient_checkpointing=True, offload="block"), "none"),
        ("16", 1024, Savings(gradient_checkpointing=True, offload="block"), "block"),
        ("12", 1024, Savings(gradient_checkpointing=True, offload="block"), "block"),
    ],
)
def test_plan_when_a_preset_is_given_then_the_published_model_fits_in_it(
    preset: str, side: int, savings: Savings, encoders: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan_preset(preset, 100 * 10**9, monkeypatch, side)

    planned.check()
    assert planned.savings == savings
    assert planned.encoder_offload == encoders


def test_plan_when_the_host_is_small_then_blocks_come_from_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan_preset("12", 16 * 10**9, monkeypatch)

    assert planned.savings.offload == "disk"
    assert planned.encoder_offload == "disk"


def test_plan_when_nothing_fits_then_rejected_before_anything_is_loaded(pairs: Path, tmp_path: Path) -> None:
    config = make_config(
        pairs, tmp_path / "a.safetensors", train={"batch_size": 4000}, memory={"preset": "12"}
    )

    with pytest.raises(
        OutOfMemoryError, match=r"needs about .* has 12 GB .*: use a smaller `train\.batch_size`"
    ):
        train(config, progress=False)
    assert not (tmp_path / "a-run").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"offload": "disk", "quantization": "nf4"}, "`memory.quantization` is 'nf4', which quantizes while"),
        ({"offload": "block", "gradient_checkpointing": False}, "recomputed in the backward pass"),
        ({"offload": "model"}, "expected none, block, disk"),
        ({"quantization": "int4"}, "expected none, int8, fp8, nf4"),
        ({"preset": 20}, "expected auto, 80"),
    ],
)
def test_config_when_savings_do_not_go_together_then_rejected(
    pairs: Path, tmp_path: Path, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        make_config(pairs, tmp_path / "a.safetensors", memory=given)


def test_train_when_a_quantized_file_is_streamed_then_the_same_adapter_bit_for_bit(
    pairs: Path, tmp_path: Path, int8_file: Path
) -> None:
    streamed, resident = (
        trained(
            pairs,
            tmp_path / f"{offload}.safetensors",
            transformer=str(int8_file),
            memory={"offload": offload, "gradient_checkpointing": True},
        )
        for offload in ("disk", "none")
    )

    assert is_equal(streamed, resident)


@pytest.mark.parametrize("stored", ["bfloat16", "float32"])
@pytest.mark.parametrize("computed", ["bfloat16", "float32"])
def test_prediction_when_saved_tensors_are_counted_then_within_a_tenth(stored: str, computed: str) -> None:
    if (stored, computed) not in memory._KEPT_BYTES:
        return
    side = 512
    text_tokens = 64 + (side // 32) ** 2
    tokens = 2 * (side // 16) ** 2 + text_tokens

    def count(num_layers: int) -> int:
        model = replace(SCALED, num_layers=num_layers)
        transformer: Any = JoyImageEditTransformer3DModel(**model.transformer_settings())
        transformer.to(getattr(torch, stored)).requires_grad_(False)
        transformer.add_adapter(LoraConfig(r=4, target_modules=list(TARGET_MODULES)))
        own = {one.untyped_storage().data_ptr() for one in transformer.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        latents = torch.zeros(1, 16, 1, side // 8, side // 8)
        states = torch.zeros(1, text_tokens, model.text["hidden_size"], dtype=getattr(torch, computed))
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one),
            torch.autocast("cpu", torch.bfloat16, enabled=computed == "bfloat16"),
        ):
            output = transformer(
                hidden_states=[latents, latents],
                timestep=torch.tensor([500.0]),
                encoder_hidden_states=states,
                return_dict=False,
                target_only=True,
            )
        assert output[0].requires_grad
        return sum(kept.values())

    counted = count(3) - count(2)
    assert counted == pytest.approx(
        memory._KEPT_BYTES[stored, computed] * tokens * SCALED.hidden_size, rel=0.1
    )
