"""Slices of the transformer's layers: what cannot be sliced is rejected, and what is loaded in slices fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoHaConfig, LoraConfig, inject_adapter_in_model

from joyimage.acceleration.plans import PartSize, PipelineSize, predict
from joyimage.acceleration.tensor_parallel import InputSlice, TensorGroup, divide_layers
from joyimage.errors import CheckpointError, InvalidInputError
from joyimage.loading import checked_load, load_pipeline
from joyimage.model.adapters.names import TARGET_MODULES
from tests import random_models
from tests.model.drive import inputs
from tests.model.sliced_adapters import draw_adapter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_slices_when_put_together_then_the_whole_layers() -> None:
    whole = random_models.make_transformer()
    parts = [random_models.make_transformer() for _ in range(2)]
    for number, one in enumerate(parts):
        divide_layers(one, number, 2)

    layer = "double_blocks.1.attn.img_attn_qkv"
    weights = [one.get_parameter(f"{layer}.weight").unflatten(0, (3, -1)) for one in parts]
    assert torch.equal(torch.cat(weights, dim=1).flatten(0, 1), whole.get_parameter(f"{layer}.weight"))
    layer = "double_blocks.1.txt_mlp.net.2"
    slices: list[Any] = [one.get_submodule(layer) for one in parts]
    assert torch.equal(
        torch.cat([one.weight for one in slices], dim=1), whole.get_parameter(f"{layer}.weight")
    )
    for one in slices:
        assert isinstance(one, InputSlice)
        assert one.bias is not None
        assert torch.equal(one.bias, whole.get_parameter(f"{layer}.bias"))  # added once, to the sum


@pytest.mark.parametrize("kind", ["lora", "dora", "biases", "lokr"])
def test_adapter_when_loaded_before_the_layers_are_sliced_or_after_then_the_same_tensors(kind: str) -> None:
    before, after = (random_models.make_transformer() for _ in range(2))
    before.load_lora_adapter(draw_adapter(kind))
    divide_layers(before, 1, 2)
    divide_layers(after, 1, 2)
    after.load_lora_adapter(draw_adapter(kind))

    expected, found = before.state_dict(), after.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(one, found[name]) for name, one in expected.items())
    parts: list[Any] = [one.get_submodule("double_blocks.0.attn.img_attn_proj") for one in (before, after)]
    assert type(parts[0]) is type(parts[1])
    assert [type(one) for one in parts[0].modules()] == [type(one) for one in parts[1].modules()]
    assert (parts[0].in_features, parts[0].out_features) == (parts[1].in_features, parts[1].out_features)


def test_adapter_when_it_does_not_fit_sliced_layers_then_the_message_has_the_whole_shape() -> None:
    model = random_models.make_transformer()
    divide_layers(model, 0, 2)
    layer = "double_blocks.0.attn.img_attn_qkv"

    with pytest.raises(CheckpointError, match=r"does not fit on a layer of \[192, 64\]"):
        model.load_lora_adapter(
            {f"{layer}.lora_A.weight": torch.zeros(2, 64), f"{layer}.lora_B.weight": torch.ones(96, 2)}
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda pipe, _: pipe.transformer.add_adapter(LoraConfig(r=2)),
            "`add_adapter` makes an adapter to train",
        ),
        (
            lambda pipe, folder: pipe.transformer.save_lora_adapter(folder),
            "`save_lora_adapter` writes whole adapters",
        ),
        (lambda pipe, _: pipe.fuse_lora(), "whose processes are not connected"),
    ],
)
def test_adapter_when_it_needs_what_a_slice_lacks_then_rejected_and_nothing_changes(
    call: Callable[[Any, Path], None], message: str, tmp_path: Path
) -> None:
    pipe: Any = random_models.make_pipeline()
    divide_layers(pipe.transformer, 0, 2)
    pipe.load_lora_weights(draw_adapter("lora"))
    weights = {name: one.clone() for name, one in pipe.transformer.state_dict().items()}

    with pytest.raises(InvalidInputError, match=message):
        call(pipe, tmp_path / "adapter")

    after = pipe.transformer.state_dict()
    assert weights.keys() == after.keys()
    assert all(torch.equal(one, after[name]) for name, one in weights.items())
    assert not (tmp_path / "adapter").exists()


def test_forward_when_processes_are_not_connected_then_says_what_to_call() -> None:
    model = random_models.make_transformer()
    divide_layers(model, 0, 2)

    with (
        pytest.raises(InvalidInputError, match=r'call `pipe\.parallel\(N, layout="tensor"\)` first'),
        torch.no_grad(),
    ):
        model(**inputs())


def make_adapted() -> Any:
    model = random_models.make_transformer()
    inject_adapter_in_model(LoHaConfig(r=2, target_modules=list(TARGET_MODULES)), model)
    return model


def make_fused() -> Any:
    pipe: Any = random_models.make_pipeline()
    pipe.load_lora_weights(draw_adapter("dora"))
    pipe.fuse_lora()
    return pipe.transformer


def load_quantized() -> Any:
    return load_pipeline("tiny", device="cpu", quantization="int8").pipe.transformer


@pytest.mark.parametrize(
    ("make", "num_parts", "message"),
    [
        (random_models.make_transformer, 3, "divides the heads of attention; the transformer has 2"),
        (make_adapted, 2, r"has adapters of another kind\. Call `pipe\.fuse_lora\(\)` and"),
        (make_fused, 2, r"has fused DoRA adapters\. Call .*`pipe\.unload_lora_weights\(\)` first"),
        (load_quantized, 2, "and the transformer has quantized ones"),
    ],
)
def test_divide_when_layers_are_not_whole_and_plain_then_rejected_before_any_is_sliced(
    make: Callable[[], Any], num_parts: int, message: str
) -> None:
    model = make()

    with pytest.raises(InvalidInputError, match=message):
        divide_layers(model, 0, num_parts)

    assert model.layer_slice.num_parts == 1
    assert not any(isinstance(one, InputSlice) for one in model.modules())


def test_join_when_layers_are_divided_otherwise_then_rejected() -> None:
    model = random_models.make_transformer()
    divide_layers(model, 0, 2)

    with pytest.raises(
        InvalidInputError, match="the transformer's layers are divided into 2; load the pipeline"
    ):
        TensorGroup.join(4, model)


def test_load_when_a_slice_is_asked_for_then_only_that_is_kept() -> None:
    pipe: Any = load_pipeline("tiny", device="cpu", dtype="float32", replica=1, num_parts=2).pipe

    layer = pipe.transformer.double_blocks[0].attn.txt_attn_qkv
    assert (pipe.transformer.layer_slice.num_parts, layer.weight.shape) == (2, (288, 192))


def test_save_when_layers_are_divided_then_rejected(tmp_path: Path) -> None:
    model = random_models.make_transformer()
    divide_layers(model, 0, 2)

    with pytest.raises(InvalidInputError, match="This process has a slice of the transformer's layers"):
        model.save_pretrained(tmp_path / "transformer")

    assert not (tmp_path / "transformer").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"quantization": "int8"},
            "`quantization` is 'int8', but the layout \"tensor\" divides whole layers",
        ),
        ({"offload": "disk"}, "`offload` is 'disk', but the layout \"tensor\" divides whole layers"),
    ],
)
def test_load_when_layers_would_not_be_whole_then_rejected_before_any_work(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        checked_load("tiny", device="cpu", num_parts=2, **arguments)


def test_plan_when_layers_are_divided_then_the_device_needs_room_for_a_slice() -> None:
    part = PartSize(num_bytes=100 * 10**9, resident_bytes=4 * 10**9, window_bytes=8 * 10**9)
    size = PipelineSize(
        parts={"transformer": part}, base_size=1024, hidden_size=4096, vae_width=96, dtype_bytes=2
    )

    whole, sliced = (
        predict("none", one, "cuda").device_bytes for one in (size, size.sliced("transformer", 4))
    )

    assert whole - sliced == 72 * 10**9
