"""Adapters of every kind, and edits with them: alone, or with a slice of the layers on each of several processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tests import random_models
from tests.model.drive import draw

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

RANK = 3
LAYERS = (
    "double_blocks.0.attn.img_attn_qkv",
    "double_blocks.0.attn.txt_attn_qkv",
    "double_blocks.0.attn.img_attn_proj",
    "double_blocks.0.attn.txt_attn_proj",
    "double_blocks.1.img_mlp.net.0.proj",
    "double_blocks.0.txt_mlp.net.0.proj",
    "double_blocks.1.img_mlp.net.2",
    "double_blocks.0.txt_mlp.net.2",
    "proj_out",
)
"""Every kind of layer that is sliced, and one that is not."""


def draw_adapter(kind: str, seed: int = 0) -> dict[str, Tensor]:
    """Draw an adapter of the small transformer, by peft's names.

    Args:
        kind: "lora", "dora", "biases" or "lokr".
        seed: Seed of its first matrix.
    """
    whole: Any = random_models.make_transformer()
    adapter: dict[str, Tensor] = {}
    for number, layer in enumerate(LAYERS, seed):
        outputs, inputs = whole.get_submodule(layer).weight.shape
        if kind == "lokr":
            adapter[f"{layer}.lokr_w1"] = draw(4, 4, seed=number)
            adapter[f"{layer}.lokr_w2"] = 0.1 * draw(outputs // 4, inputs // 4, seed=number)
            continue
        adapter[f"{layer}.lora_A.weight"] = 0.2 * draw(RANK, inputs, seed=number)
        adapter[f"{layer}.lora_B.weight"] = 0.2 * draw(outputs, RANK, seed=number)
        if kind == "biases":
            adapter[f"{layer}.lora_B.bias"] = 0.2 * draw(outputs, seed=number)
        if kind == "dora":
            adapter[f"{layer}.lora_magnitude_vector"] = 1 + 0.3 * draw(outputs, seed=number).abs()
    return adapter


def edit_with_adapters(
    pipe: Any, divide: Callable[[], object], edit: Callable[..., Tensor]
) -> dict[str, Tensor]:
    """Edit with adapters that are loaded before the layers are divided and after that.

    Args:
        pipe: A pipeline with whole layers.
        divide: Divides them, or does nothing.
        edit: Makes an edit, with further arguments.

    Returns:
        What each edit made.
    """
    pipe.load_lora_weights(draw_adapter("lora"), adapter_name="style")
    pipe.load_lora_weights(draw_adapter("dora", 100), adapter_name="lengths")
    pipe.set_adapters(["style", "lengths"], [0.7, -0.5])
    divide()
    made = {"two from before": edit(), "half as strong": edit(attention_kwargs={"scale": 0.5})}
    pipe.load_lora_weights(draw_adapter("biases", 300), adapter_name="biases")
    pipe.load_lora_weights(draw_adapter("dora", 400), adapter_name="lengths after")
    made["one from after"] = edit()
    pipe.set_adapters(["style", "biases", "lengths", "lengths after"], [0.5, 0.9, 0.2, -0.3])
    made["from before and after"] = edit()
    pipe.load_lora_weights(draw_adapter("lora", 600), adapter_name="style", hotswap=True)
    made["other weights in place of one"] = edit()
    pipe.disable_lora()
    made["none"] = edit()
    pipe.enable_lora()
    pipe.delete_adapters("style")
    pipe.set_adapters(["biases", "lengths"], [0.6, 0.8])
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    made["fused"] = edit()
    return made


def edit_with_products(
    pipe: Any, divide: Callable[[], object], edit: Callable[..., Tensor]
) -> dict[str, Tensor]:
    """Edit with LoKr adapters, and with LoRA between them; see `edit_with_adapters`."""
    pipe.load_lora_weights(draw_adapter("lokr"), adapter_name="product")
    pipe.load_lora_weights(draw_adapter("lora", 200), adapter_name="around")
    pipe.set_adapters("product")
    divide()
    made = {"one from before": edit()}
    pipe.load_lora_weights(draw_adapter("lokr", 100), adapter_name="product after")
    pipe.set_adapters(["product", "product after"], [0.4, -0.3])
    made["from before and after"] = edit()
    pipe.set_adapters(["product", "around"], [0.4, 0.5])
    made["LoRA around LoKr"] = edit()
    pipe.load_lora_weights(draw_adapter("lora", 300), adapter_name="around both")
    pipe.set_adapters(["product", "around", "product after", "around both"], [0.6, -0.5, 0.3, 0.4])
    made["four"] = edit()
    pipe.set_adapters(["product", "around", "around both"], [0.6, 0.3, 0.8])
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    made["fused"] = edit()
    return made


def biggest_difference(got: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest value."""
    return float((got - expected).abs().max() / expected.abs().max())


def distinct(made: dict[str, Tensor]) -> bool:
    """Return whether every edit made something else."""
    results = list(made.values())
    return all(
        not torch.allclose(one, other, rtol=1e-2, atol=1e-2)
        for number, one in enumerate(results)
        for other in results[:number]
    )
