"""`accelerate`: what is chosen, that the choice can be changed back, and that no one else's choice is lost."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import pytest
import torch

from joyimage.acceleration import ForwardCache, accelerate
from joyimage.acceleration.attention import JointBufferAttnProcessor
from joyimage.acceleration.ops import TorchOps, TritonOps
from joyimage.errors import InvalidInputError, InvalidTypeError
from joyimage.model.attention import JointAttnProcessor
from joyimage.model.ops import PLAIN_OPS
from tests import random_models
from tests.model.drive import inputs

PLAIN = {"ops": "plain", "attention": "plain", "forward_cache": False}


def processors(model: Any) -> set[type]:
    return {type(processor) for processor in model.attn_processors.values()}


def has_triton(monkeypatch: pytest.MonkeyPatch, *, is_installed: bool) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: (
            (object() if is_installed else None) if name == "triton" else find_spec(name, *rest)
        ),
    )


@torch.no_grad()
def test_accelerate_when_called_twice_and_taken_back_then_the_network_is_the_plain_one() -> None:
    model = random_models.make_transformer()
    plain = model(**inputs()).sample

    accelerate(model)
    chosen = accelerate(model)
    fast = model(**inputs()).sample

    assert chosen == model.acceleration
    assert (chosen.attention, chosen.forward_cache) == ("joint_buffer", True)
    assert processors(model) == {JointBufferAttnProcessor}
    assert {type(block.ops) for block in model.blocks} == {type(block.attn.ops) for block in model.blocks}
    assert isinstance(model.ops, TorchOps)
    assert (fast - plain).norm() <= 1e-6 * plain.norm()

    accelerate(model, **PLAIN)

    assert processors(model) == {JointAttnProcessor}
    assert all(block.ops is PLAIN_OPS and block.attn.ops is PLAIN_OPS for block in model.blocks)
    assert torch.equal(model(**inputs()).sample, plain)


def test_pipeline_when_built_then_its_transformer_is_accelerated_unless_chosen_before() -> None:
    pipe: Any = random_models.make_pipeline()
    assert processors(pipe.transformer) == {JointBufferAttnProcessor}

    accelerate(pipe, **PLAIN)
    again = type(pipe)(**pipe.components)

    assert processors(again.transformer) == {JointAttnProcessor}
    assert again.transformer.ops is PLAIN_OPS


def test_edit_when_paths_are_plain_then_agrees_with_the_fast_ones() -> None:
    pipe: Any = random_models.make_pipeline()
    pipe.set_progress_bar_config(disable=True)
    call = {"image": random_models.make_image(0), "prompt": "Make it blue", "output_type": "np"}
    call |= {"num_inference_steps": 2, "guidance_scale": 4.0}

    def edit() -> torch.Tensor:
        return torch.as_tensor(pipe(**call, generator=torch.Generator().manual_seed(0)).images)

    fast = edit()
    plans: list[Any] = []
    accelerate(pipe, **PLAIN)
    pipe.transformer.register_forward_pre_hook(
        lambda _module, _args, kwargs: plans.append(kwargs["plan"]), with_kwargs=True
    )

    assert (edit() - fast).abs().max() <= 2e-5
    assert plans
    assert set(plans) == {None}


def test_accelerate_when_a_backend_and_parallelism_are_set_then_processors_keep_them() -> None:
    model = random_models.make_transformer()
    parallel = object()
    for block in model.blocks:
        block.attn.set_attention_backend("_native_math")
        block.attn.processor._parallel_config = parallel

    accelerate(model)

    processors: list[Any] = list(model.attn_processors.values())
    assert {processor._attention_backend.value for processor in processors} == {"_native_math"}
    assert all(processor._parallel_config is parallel for processor in processors)


def test_accelerate_when_the_caller_set_a_processor_then_it_stays_unless_another_is_asked_for() -> None:
    class OwnProcessor(JointAttnProcessor):
        pass

    model: Any = random_models.make_transformer()
    model.set_attn_processor(OwnProcessor())

    chosen = accelerate(model)

    assert processors(model) == {OwnProcessor}
    assert chosen.attention == "custom"
    assert "OwnProcessor" in chosen.skipped["attention"]
    assert accelerate(model, attention="joint_buffer").attention == "joint_buffer"
    assert processors(model) == {JointBufferAttnProcessor}


@pytest.mark.parametrize(
    ("variable", "is_installed", "expected"),
    [
        (None, True, TritonOps()),
        ("auto", True, TritonOps()),
        ("torch", True, TorchOps()),
        ("triton", True, TritonOps(on_any_device=True)),
        (None, False, TorchOps()),
        ("triton", False, TorchOps()),
    ],
)
def test_ops_when_left_to_the_environment_then_chosen_once(
    variable: str | None, is_installed: bool, expected: TorchOps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOYIMAGE_KERNELS", raising=False)
    if variable is not None:
        monkeypatch.setenv("JOYIMAGE_KERNELS", variable)
    has_triton(monkeypatch, is_installed=is_installed)
    model = random_models.make_transformer()

    chosen = accelerate(model)
    monkeypatch.setenv("JOYIMAGE_KERNELS", "a later value is not read")

    assert model.ops == expected
    assert copy.deepcopy(model).ops == expected
    assert ("kernels" in chosen.skipped) == (expected == TorchOps())


@pytest.mark.parametrize("name", ["plain", "torch"])
def test_ops_when_named_then_the_environment_has_no_effect(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOYIMAGE_KERNELS", "triton")

    assert accelerate(random_models.make_transformer(), ops=name).ops == name


@pytest.mark.parametrize("argument", ["ops", "attention"])
def test_accelerate_when_a_name_is_unknown_then_raises_and_lists_the_names(argument: str) -> None:
    choice: dict[str, Any] = {argument: "fast"}
    with pytest.raises(InvalidInputError, match=f"`{argument}` is 'fast'; expected one of auto, plain,"):
        accelerate(random_models.make_transformer(), **choice)


def test_accelerate_when_the_environment_has_an_unknown_name_then_raises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JOYIMAGE_KERNELS", "cuda")

    with pytest.raises(InvalidInputError, match="JOYIMAGE_KERNELS"):
        accelerate(random_models.make_transformer())


def test_ops_when_triton_is_asked_for_and_missing_then_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    has_triton(monkeypatch, is_installed=False)

    with pytest.raises(InvalidInputError, match="Triton is not installed"):
        accelerate(random_models.make_transformer(), ops="triton")


def test_accelerate_when_given_another_model_then_raises() -> None:
    with pytest.raises(InvalidTypeError, match="Linear"):
        accelerate(torch.nn.Linear(1, 1))


def test_accelerate_when_the_network_is_wrapped_by_compile_then_reaches_it() -> None:
    model = random_models.make_transformer()

    accelerate(torch.compile(model))

    assert processors(model) == {JointBufferAttnProcessor}


@torch.no_grad()
def test_forward_cache_when_the_network_is_compiled_as_a_whole_then_agrees() -> None:
    model = random_models.make_transformer(num_layers=1)
    expected = model(**inputs()).sample[:, -1]
    accelerate(model)
    compiled: Any = torch.compile(model, backend="eager")

    cache = ForwardCache(compiled, inputs()["timestep"])
    got = compiled(**inputs(), target_only=True, plan=cache).sample

    assert (got - expected).norm() <= 1e-6 * expected.norm()


@torch.no_grad()
def test_accelerated_network_when_exported_before_its_first_forward_then_agrees() -> None:
    model = random_models.make_transformer(num_layers=1)
    arguments = {**inputs(), "return_dict": False}
    expected = model(**arguments)[0]
    accelerate(model, ops="triton" if importlib.util.find_spec("triton") else "torch")

    program = torch.export.export(model, (), arguments)

    got = program.module()(**arguments)[0]
    assert (got - expected).norm() <= 1e-6 * expected.norm()
