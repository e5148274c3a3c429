"""What diffusers offers for every model works on our transformer: casting, offload, saving, training, compiling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from tests import random_models
from tests.model.drive import assert_close, gradients_of, inputs

if TYPE_CHECKING:
    from pathlib import Path

# Inputs of an edit: one item is the target alone, two a reference and the target.
NUM_ITEMS = (1, 2)


def velocity_of(model: Any, num_items: int = 2) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs(num_items=num_items)).sample


@pytest.mark.parametrize("num_items", NUM_ITEMS)
def test_forward_when_repeated_then_the_same_bits(num_items: int) -> None:
    model = random_models.make_transformer()

    assert torch.equal(velocity_of(model, num_items), velocity_of(model, num_items))


@pytest.mark.parametrize("num_items", NUM_ITEMS)
def test_output_when_a_tuple_is_asked_for_then_the_same_values(num_items: int) -> None:
    model = random_models.make_transformer()

    (velocity,) = model(**inputs(num_items=num_items), return_dict=False)

    assert torch.equal(velocity, velocity_of(model, num_items))


@pytest.mark.parametrize("storage", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_layerwise_casting_when_enabled_then_weights_are_stored_small_and_results_stay_near(
    storage: torch.dtype,
) -> None:
    model = random_models.make_transformer()
    exact = velocity_of(model)

    model.enable_layerwise_casting(storage_dtype=storage, compute_dtype=torch.float32)
    cast = velocity_of(model)
    again = velocity_of(model)

    error = (cast - exact).norm() / exact.norm()
    assert 0 < error < {torch.float8_e4m3fn: 0.15, torch.float8_e5m2: 0.3, torch.bfloat16: 0.02}[storage]
    assert torch.equal(cast, again)
    linear = [layer for layer in model.double_blocks.modules() if isinstance(layer, nn.Linear)]
    assert linear
    assert {layer.weight.dtype for layer in linear} == {storage}  # also after the forwards
    norms = [
        parameter.dtype
        for name, parameter in model.named_parameters()
        if any(word in name for word in ("norm", "time_embedding", "condition_embedder.time"))
    ]
    assert torch.float32 in norms


@pytest.mark.parametrize("offload_type", ["block_level", "leaf_level"])
@pytest.mark.parametrize("is_on_disk", [False, True], ids=["memory", "disk"])
def test_group_offload_when_enabled_then_the_same_velocity_twice(
    offload_type: str, is_on_disk: bool, tmp_path: Path
) -> None:
    expected = velocity_of(random_models.make_transformer())
    model = random_models.make_transformer()

    model.enable_group_offload(
        onload_device=torch.device("cpu"),
        offload_device=torch.device("cpu"),
        offload_type=offload_type,
        num_blocks_per_group=1 if offload_type == "block_level" else None,
        offload_to_disk_path=str(tmp_path) if is_on_disk else None,
    )

    for _ in range(2):
        assert_close(velocity_of(model), expected, "forward")
    assert bool(list(tmp_path.iterdir())) == is_on_disk


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", [None, "special"])
@pytest.mark.parametrize("max_shard_size", ["10GB", "200KB"])
def test_save_pretrained_when_loaded_then_the_same_weights_and_velocity(
    dtype: torch.dtype, variant: str | None, max_shard_size: str, tmp_path: Path
) -> None:
    model: Any = random_models.make_transformer()
    model.to(dtype)

    model.save_pretrained(tmp_path, variant=variant, max_shard_size=max_shard_size)
    again = type(model).from_pretrained(tmp_path, variant=variant, torch_dtype=dtype).eval()

    files = list(tmp_path.glob("*.safetensors"))
    assert (len(files) > 1) == (max_shard_size == "200KB")
    assert all((variant or "diffusion") in file.name for file in files)
    saved, loaded = model.state_dict(), again.state_dict()
    assert saved.keys() == loaded.keys()
    for name, tensor in saved.items():
        assert torch.equal(tensor.float(), loaded[name].to(tensor.dtype).float()), name
    if dtype == torch.float32:
        assert_close(velocity_of(again), velocity_of(model), "forward")


def test_training_when_a_step_is_taken_then_every_parameter_that_counts_moves() -> None:
    model = random_models.make_transformer().train()
    gradients = gradients_of(model, inputs())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    torch.optim.SGD(model.parameters(), lr=0.1).step()

    last = f"double_blocks.{len(model.double_blocks) - 1}."
    still = {
        name for name, parameter in model.named_parameters() if torch.equal(parameter.detach(), before[name])
    }
    assert gradients
    # What the last block makes of the text goes nowhere.
    assert all(name.startswith(last) and "txt" in name for name in still), still


def test_compiled_blocks_when_sizes_change_then_one_graph_and_the_same_velocity() -> None:
    plain = random_models.make_transformer()
    model = random_models.make_transformer()
    torch._dynamo.reset()
    model.compile_repeated_blocks(fullgraph=True, dynamic=True, backend="eager")

    for size, length in (((4, 6), 7), ((6, 8), 9), ((8, 4), 5)):
        arguments = inputs(text_length=length, size=size)
        with torch.no_grad():
            assert_close(model(**arguments).sample, plain(**arguments).sample, "forward")


def test_features_when_combined_then_each_still_acts(tmp_path: Path) -> None:
    """An adapter, casting and offload at once, as on a small machine."""
    from peft import LoraConfig

    model = random_models.make_transformer()
    plain = velocity_of(model)
    model.add_adapter(LoraConfig(r=2, lora_alpha=8, init_lora_weights=False, target_modules=["img_attn_qkv"]))
    with_adapter = velocity_of(model)
    model.save_lora_adapter(tmp_path)

    loaded = random_models.make_transformer()
    loaded.load_lora_adapter(tmp_path)
    loaded.enable_layerwise_casting(
        storage_dtype=torch.bfloat16, compute_dtype=torch.float32, skip_modules_pattern=("lora_", "norm")
    )
    loaded.enable_group_offload(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level"
    )
    combined = velocity_of(loaded)

    effect = (with_adapter - plain).norm()
    assert effect > 0.05 * plain.norm()
    assert (combined - with_adapter).norm() < 0.2 * effect
