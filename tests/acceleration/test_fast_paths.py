"""The fast paths leave work out; the plain network, which does not, is what they are compared with.

Where a saving runs the same kernels on the same rows its numbers are asked to be bitwise equal. Where it runs
a matmul of another shape, the kernel may sum in another order: the bound for that is 1e-6 relative.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers.hooks.taylorseer_cache import TaylorSeerCacheConfig
from torch.utils._python_dispatch import TorchDispatchMode

from joyimage.acceleration import ForwardCache, accelerate, attention, cpu_projection
from joyimage.acceleration.conditions import is_plain_linear
from joyimage.acceleration.ops import TorchOps, rotate_at_once
from joyimage.model import rope
from joyimage.model.ops import PLAIN_OPS, TransformerOps
from tests import random_models
from tests.model.drive import TEXT_DIM, draw, inputs, list_inputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

OTHER_KERNEL = 1e-6


def make_fast_transformer(**settings: Any) -> Any:
    model = random_models.make_transformer(**settings)
    accelerate(model)
    return model


def run_target(model: Any, arguments: dict[str, Any]) -> Tensor:
    """Return the target's velocity from a forward whose last block may leave the other tokens out."""
    cache = ForwardCache(model, arguments["timestep"])
    return model(**arguments, target_only=True, plan=cache).sample


def relative(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return float((got - expected).norm() / expected.norm())


class Operators(TorchDispatchMode):
    """Count the operators that run, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rope_type", ["rope", "mrope"])
@pytest.mark.parametrize("sizes", [[(4, 6)], [(4, 6), (4, 6)], [(6, 4), (2, 8), (4, 4)]])
@torch.no_grad()
def test_target_only_when_asked_for_then_velocity_is_that_of_the_full_forward(
    sizes: list[tuple[int, int]], rope_type: str
) -> None:
    model = make_fast_transformer(rope_type=rope_type)
    arguments = {**list_inputs(sizes, batch_size=2), "timestep": torch.tensor([700.0])}

    short = run_target(model, arguments)

    assert relative(short, model(**arguments).sample[-1]) <= OTHER_KERNEL


@torch.no_grad()
def test_target_only_when_texts_are_padded_then_velocity_is_that_of_the_full_forward() -> None:
    model = make_fast_transformer()
    arguments = {**inputs(batch_size=2), "timestep": torch.tensor([700.0])}
    mask = torch.ones(2, 7)
    mask[1, 4:] = 0

    short = run_target(model, {**arguments, "encoder_hidden_states_mask": mask})

    full = model(**arguments, encoder_hidden_states_mask=mask).sample
    assert relative(short, full[:, -1]) <= OTHER_KERNEL


@torch.no_grad()
def test_target_only_when_run_then_last_block_works_out_no_text_and_no_reference() -> None:
    model = make_fast_transformer()
    rows: dict[str, list[int]] = {}
    last = model.double_blocks[-1]
    for name in ("img_mlp", "txt_mlp", "attn.img_attn_proj", "attn.txt_attn_proj"):
        last.get_submodule(name).register_forward_pre_hook(
            lambda _module, args, name=name: rows.setdefault(name, []).append(args[0].shape[1])
        )

    run_target(model, inputs())

    assert rows == {"img_mlp": [6], "attn.img_attn_proj": [6]}  # 2 x 3 tokens of the target


@torch.no_grad()
def test_target_only_when_a_cache_keeps_an_inner_layer_then_last_block_works_out_every_row() -> None:
    model = make_fast_transformer()
    rows: list[int] = []
    layer = model.double_blocks[-1].img_mlp
    model.enable_cache(TaylorSeerCacheConfig(cache_identifiers=[r"double_blocks\.1\.img_mlp"]))
    layer.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[1]))

    with model.cache_context("cond"):
        run_target(model, inputs())
    model.disable_cache()

    assert rows == [12]  # 2 x 3 tokens of the reference, and as many of the target


@torch.no_grad()
def test_forward_cache_when_two_branches_take_three_steps_then_each_equals_a_forward_alone() -> None:
    model = make_fast_transformer()
    timesteps = torch.tensor([900.0, 500.0, 100.0])
    texts = {"cond": draw(1, 7, TEXT_DIM, seed=1), "uncond": draw(1, 4, TEXT_DIM, seed=2)}
    reference = draw(1, 16, 1, 4, 6, seed=3)
    cache = ForwardCache(model, timesteps, num_branches=2)

    for step in range(3):
        cache.begin(step)
        target = draw(1, 16, 1, 4, 6, seed=10 + step)
        for text in texts.values():
            shared = model([reference, target], timesteps[step], text, plan=cache).sample
            alone = model([reference, target], timesteps[step], text).sample

            for got, expected in zip(shared, alone, strict=True):
                # All steps' time signals come from one matmul; the rest is bitwise the same work.
                assert relative(got, expected) <= OTHER_KERNEL


@torch.no_grad()
def test_forward_cache_when_there_is_one_step_then_branches_are_bitwise_those_without() -> None:
    model = make_fast_transformer()
    items, timestep = [draw(1, 16, 1, 4, 6, seed=3), draw(1, 16, 1, 4, 6, seed=4)], torch.tensor([500.0])
    cache = ForwardCache(model, timestep, num_branches=2)

    for text in (draw(1, 7, TEXT_DIM, seed=1), draw(1, 4, TEXT_DIM, seed=2)):
        shared = model(items, timestep, text, plan=cache).sample

        for got, expected in zip(shared, model(items, timestep, text).sample, strict=True):
            assert torch.equal(got, expected)


@torch.no_grad()
def test_forward_cache_when_a_step_continues_then_text_time_references_and_image_rows_are_computed_once() -> (
    None
):
    model = make_fast_transformer()
    calls: Counter[str] = Counter()
    for name in ("condition_embedder.text_embedder", "condition_embedder.time_proj", "img_in"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.update([name]))
    timesteps = torch.tensor([900.0, 500.0, 100.0])
    texts = [draw(1, 7, TEXT_DIM, seed=1), draw(1, 4, TEXT_DIM, seed=2)]
    reference = draw(1, 16, 1, 4, 6, seed=3)
    cache = ForwardCache(model, timesteps, num_branches=2)

    for step in range(3):
        cache.begin(step)
        target = draw(1, 16, 1, 4, 6, seed=10 + step)
        for text in texts:
            model([reference, target], timesteps[step], text, plan=cache)

    assert calls == {
        "condition_embedder.text_embedder": 2,  # branches
        "condition_embedder.time_proj": 1,
        "img_in": 1 + 3 * 2,  # the reference once, the target in each forward
    }


@torch.no_grad()
def test_forward_cache_when_a_step_is_left_after_one_branch_then_the_next_takes_no_rows_of_it() -> None:
    model = make_fast_transformer()
    items = [draw(1, 16, 1, 4, 6, seed=3), draw(1, 16, 1, 4, 6, seed=4)]
    timesteps, text = torch.tensor([900.0, 100.0]), draw(1, 7, TEXT_DIM, seed=1)
    cache = ForwardCache(model, timesteps, num_branches=2)
    model(items, timesteps[0], text, plan=cache)  # the second branch of this step never runs

    cache.begin(1)
    got = model(items, timesteps[1], text, plan=cache).sample

    for velocity, expected in zip(got, model(items, timesteps[1], text).sample, strict=True):
        assert relative(velocity, expected) <= OTHER_KERNEL


@torch.no_grad()
def test_forward_cache_when_a_text_is_changed_in_place_then_it_is_projected_again() -> None:
    model = make_fast_transformer()
    arguments = inputs()
    cache = ForwardCache(model, arguments["timestep"])
    model(**arguments, plan=cache)

    arguments["encoder_hidden_states"].mul_(-1)

    assert torch.equal(model(**arguments, plan=cache).sample, model(**arguments).sample)


def test_forward_cache_when_tensors_are_of_inference_mode_then_nothing_is_kept() -> None:
    model = make_fast_transformer()
    with torch.inference_mode():
        arguments = inputs()
        cache = ForwardCache(model, arguments["timestep"], num_branches=2)
        model(**arguments, plan=cache)
        arguments["encoder_hidden_states"].mul_(-1)

        got = model(**arguments, plan=cache).sample

        assert torch.equal(got, model(**arguments).sample)


@pytest.mark.parametrize("rope_type", ["rope", "mrope"])
@torch.no_grad()
def test_joint_buffer_when_compared_with_concatenation_then_they_agree(rope_type: str) -> None:
    model = random_models.make_transformer(rope_type=rope_type)
    arguments = inputs(batch_size=2)
    plain = model(**arguments).sample

    accelerate(model)

    assert relative(model(**arguments).sample, plain) <= OTHER_KERNEL


@torch.no_grad()
def test_network_when_not_accelerated_then_streams_are_concatenated() -> None:
    model = random_models.make_transformer()
    arguments = inputs()
    model(**arguments)  # tables of this size

    with Operators() as operators:
        model(**arguments)

    assert operators.counts["cat"] == 3 + 3 * len(model.double_blocks)


@torch.no_grad()
def test_joint_buffer_when_a_block_runs_then_streams_are_never_concatenated() -> None:
    model = make_fast_transformer()
    arguments = inputs()
    model(**arguments)  # tables of this size

    with Operators() as operators:
        model(**arguments)

    assert (
        operators.counts["cat"] == 3
    )  # before the blocks: two in the time's sinusoids, target and reference
    assert operators.counts["_to_copy"] <= 1  # the time's embedding


@torch.no_grad()
def test_projection_when_its_layer_is_not_plain_then_it_is_called() -> None:
    model = make_fast_transformer()
    arguments = inputs()
    expected = run_target(model, arguments)
    called: list[str] = []

    class Wrapped(torch.nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            called.append("qkv")
            return super().forward(input)

    for block in model.double_blocks:
        layer = block.attn.img_attn_qkv
        wrapped = Wrapped(layer.in_features, layer.out_features)
        wrapped.load_state_dict(layer.state_dict())
        block.attn.img_attn_qkv = wrapped
        assert not is_plain_linear(wrapped, arguments["encoder_hidden_states"])

    assert relative(run_target(model, arguments), expected) <= OTHER_KERNEL
    assert called == ["qkv"] * (len(model.double_blocks) + 1)  # the last block asks twice


class Int8Weight(torch.Tensor):
    """A quantized weight as torchao's are: nothing but `linear` knows what to do with it."""

    levels: Tensor
    scale: Tensor

    @staticmethod
    def __new__(cls, weight: Tensor) -> Int8Weight:
        own: Any = torch.Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype)
        own.scale = weight.abs().amax(dim=1, keepdim=True) / 127
        own.levels = (weight / own.scale).round().to(torch.int8)
        return own

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.linear:
            rows, weight, bias = args
            return func(rows, weight.levels * weight.scale, bias)
        return super().__torch_function__(func, types, args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError(f"{func} of a quantized weight")


@torch.no_grad()
def test_quantized_weights_when_blocks_have_them_then_short_cuts_change_nothing() -> None:
    model = make_fast_transformer()
    arguments = inputs()
    expected = run_target(model, arguments)
    for layer in model.double_blocks.modules():
        if isinstance(layer, torch.nn.Linear):
            layer._parameters["weight"] = Int8Weight(layer.weight.detach())  # pyright: ignore[reportArgumentType]

    short = model(
        **arguments, target_only=True, plan=ForwardCache(model, arguments["timestep"], num_branches=2)
    ).sample

    assert relative(short, model(**arguments).sample[:, -1]) <= OTHER_KERNEL
    assert 1e-4 < relative(short, expected) < 0.2


@torch.no_grad()
def test_rotation_when_computed_with_complex_numbers_then_it_is_bitwise_the_plain_one() -> None:
    heads = draw(2, 5, 3, 32)
    tables = rope.rotary_tables(rope.item_positions(((1, 1, 5),)), (8, 12, 12), 256)

    assert torch.equal(rotate_at_once(heads, tables), rope.rotate(heads, tables))


@pytest.mark.parametrize("target_only", [False, True])
@torch.no_grad()
def test_compile_when_a_block_is_compiled_for_any_size_then_no_break_and_the_same_numbers(
    target_only: bool,
) -> None:
    torch._dynamo.reset()
    model = make_fast_transformer()
    run = run_target if target_only else lambda model, arguments: model(**arguments).sample
    graphs: list[Any] = []

    def backend(graph: Any, _inputs: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    cases = [list_inputs(sizes) for sizes in ([(4, 6), (4, 6)], [(6, 8), (8, 6)], [(8, 10), (4, 12)])]
    expected = [run(model, arguments) for arguments in cases]
    model.compile_repeated_blocks(backend=backend, fullgraph=True, dynamic=True)

    num_graphs = []
    for arguments, plain in zip(cases, expected, strict=True):
        got = run(model, arguments)
        pairs = [(got, plain)] if target_only else list(zip(got, plain, strict=True))
        assert all(relative(a, b) <= OTHER_KERNEL for a, b in pairs)
        num_graphs.append(len(graphs))

    assert num_graphs == [2, 2, 2]  # two blocks; other sizes compile nothing anew


@pytest.mark.parametrize(
    ("ops", "module", "function", "place"),
    [(TorchOps(), cpu_projection, "_project_stream", 2), (PLAIN_OPS, attention, "project_into", 1)],
)
@torch.no_grad()
def test_image_rows_when_a_second_branch_comes_then_the_first_blocks_image_projection_is_left_out(
    monkeypatch: pytest.MonkeyPatch, ops: TransformerOps, module: Any, function: str, place: int
) -> None:
    model = make_fast_transformer()
    model.set_ops(ops)
    items, timestep = [draw(1, 16, 1, 4, 6, seed=3), draw(1, 16, 1, 4, 6, seed=4)], torch.tensor([500.0])
    projected: list[int] = []
    project = getattr(module, function)
    monkeypatch.setattr(
        module, function, lambda *given: (projected.append(given[place].shape[1]), project(*given))[1]
    )
    cache = ForwardCache(model, timestep, num_branches=2)

    for length in (7, 4):
        model(items, timestep, draw(1, length, TEXT_DIM), plan=cache)

    assert Counter(projected[:4]) == {12: 2, 7: 2}  # two blocks; 12 image tokens
    assert Counter(projected[4:]) == {12: 1, 4: 2}


@torch.no_grad()
def test_image_rows_when_one_forward_has_both_branches_then_the_first_block_multiplies_one_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_fast_transformer()
    items = [draw(2, 16, 1, 4, 6, seed=seed).repeat(2, 1, 1, 1, 1) for seed in (3, 4)]
    timestep, texts = torch.tensor([500.0] * 4), draw(4, 7, TEXT_DIM)
    projected: list[tuple[int, ...]] = []
    project = cpu_projection._project_stream
    monkeypatch.setattr(
        cpu_projection,
        "_project_stream",
        lambda *given: (projected.append(tuple(given[2].shape[:2])), project(*given))[1],
    )

    def run(*, is_untouched: bool) -> Tensor:
        cache = ForwardCache(model, timestep[:1], is_untouched=is_untouched)
        cache.num_copies = 2
        projected.clear()
        return model(items, timestep, texts, plan=cache).sample[-1]

    expected = run(is_untouched=False)
    assert Counter(projected) == {(4, 12): 2, (4, 7): 2}  # two blocks; 12 image tokens
    got = run(is_untouched=True)

    assert Counter(projected) == {(2, 12): 1, (4, 12): 1, (4, 7): 2}
    assert relative(got, expected) <= 1e-6
