"""LoRA and LoKr on the same layers: they add up in whatever order they are loaded, and each comes and goes alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from joyimage.errors import InvalidInputError
from tests import random_models
from tests.model.drive import assert_close, inputs
from tests.model.sliced_adapters import LAYERS, draw_adapter

if TYPE_CHECKING:
    from torch import Tensor

ORDERS = [
    ("lora", "lokr"),
    ("lokr", "lora"),
    ("lokr", "lokr", "lora"),
    ("lora", "lokr", "lora"),
    ("lokr", "lora", "lokr"),
]
STRENGTHS = (0.5, -0.4, 0.3)


@torch.no_grad()
def _run(model: Any) -> Tensor:
    return model(**inputs()).sample


@torch.no_grad()
def _run_merged(strengths: dict[tuple[str, int], float]) -> Tensor:
    """Run the small transformer with adapters added to its weights by hand, by kind and seed."""
    model = random_models.make_transformer()
    for (kind, seed), strength in strengths.items():
        adapter = draw_adapter(kind, seed)
        for layer in LAYERS:
            if kind == "lokr":
                delta = torch.kron(adapter[f"{layer}.lokr_w1"], adapter[f"{layer}.lokr_w2"])
            else:
                delta = adapter[f"{layer}.lora_B.weight"] @ adapter[f"{layer}.lora_A.weight"]
            model.get_submodule(layer).get_parameter("weight").add_(strength * delta)
    return _run(model)


def _load(order: tuple[str, ...]) -> tuple[Any, list[str], dict[tuple[str, int], float]]:
    """Load adapters one after the other; return the pipeline, their names, and the strengths they then get."""
    pipe: Any = random_models.make_pipeline()
    for number, kind in enumerate(order):
        pipe.load_lora_weights(draw_adapter(kind, 100 * number), adapter_name=f"{kind}{number}")
    names = [f"{kind}{number}" for number, kind in enumerate(order)]
    wanted = {(kind, 100 * number): STRENGTHS[number] for number, kind in enumerate(order)}
    pipe.set_adapters(names, list(STRENGTHS[: len(order)]))
    return pipe, names, wanted


@pytest.mark.parametrize("order", ORDERS)
def test_adapters_when_of_two_kinds_then_each_loads_after_the_others_and_acts_alone(
    order: tuple[str, ...],
) -> None:
    pipe: Any = random_models.make_pipeline()

    for number, kind in enumerate(order):
        pipe.load_lora_weights(draw_adapter(kind, 100 * number), adapter_name=f"{kind}{number}")

        assert pipe.get_active_adapters() == [f"{kind}{number}"]
        assert_close(_run(pipe.transformer), _run_merged({(kind, 100 * number): 1.0}), "adapter")


@pytest.mark.parametrize("order", ORDERS)
def test_adapters_when_of_two_kinds_then_they_add_up_and_one_can_go(order: tuple[str, ...]) -> None:
    pipe, names, wanted = _load(order)
    assert_close(_run(pipe.transformer), _run_merged(wanted), "adapter")

    pipe.delete_adapters(names[0])

    rest = dict(list(wanted.items())[1:])
    assert_close(_run(pipe.transformer), _run_merged(rest), "adapter")
    pipe.load_lora_weights(draw_adapter(order[0]), adapter_name=names[0])
    assert_close(_run(pipe.transformer), _run_merged({(order[0], 0): 1.0}), "adapter")


@pytest.mark.parametrize("order", ORDERS)
def test_adapters_when_of_two_kinds_and_fused_then_the_weights_hold_all(order: tuple[str, ...]) -> None:
    pipe, _, wanted = _load(order)

    pipe.fuse_lora()
    pipe.unload_lora_weights()

    assert not any("base_layer" in name for name, _ in pipe.transformer.named_modules())
    assert_close(_run(pipe.transformer), _run_merged(wanted), "adapter")


def test_hotswap_when_a_lora_is_around_lokr_then_its_weights_are_replaced() -> None:
    pipe, names, _ = _load(("lokr", "lora"))

    pipe.load_lora_weights(draw_adapter("lora", 900), adapter_name=names[1], hotswap=True)
    pipe.set_adapters(names, [0.5, -0.4])

    assert_close(_run(pipe.transformer), _run_merged({("lokr", 0): 0.5, ("lora", 900): -0.4}), "adapter")


@pytest.mark.parametrize(
    ("order", "number", "kind", "reason"),
    [
        (("lora", "lokr"), 0, "lora", "of another kind was loaded after 'lora0' on the same layers"),
        (("lora", "lokr"), 1, "lokr", "LoKr weights cannot be replaced"),
        (("lokr", "lora"), 0, "lora", "LoKr weights cannot be replaced"),
        (("lokr", "lora"), 1, "lokr", "LoKr weights cannot be replaced, nor replace others"),
    ],
)
def test_hotswap_when_it_cannot_be_done_then_says_why_and_nothing_changes(
    order: tuple[str, ...], number: int, kind: str, reason: str
) -> None:
    pipe, names, wanted = _load(order)

    with pytest.raises(InvalidInputError, match=reason):
        pipe.load_lora_weights(draw_adapter(kind, 900), adapter_name=names[number], hotswap=True)

    assert pipe.get_active_adapters() == names
    assert_close(_run(pipe.transformer), _run_merged(wanted), "adapter")
