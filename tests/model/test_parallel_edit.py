"""One edit on four processes: two guidance branches, each with its tokens on two; or a slice of the layers on each."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from joyimage import JoyImageEditPipeline
from joyimage.acceleration import accelerate, report
from joyimage.acceleration.parallel import DEAD_PROCESS_SECONDS, GuidanceGroup, ParallelError
from joyimage.acceleration.presets import PRESETS, SpeedPreset
from joyimage.compat.torch import TorchDispatchMode
from joyimage.errors import InvalidInputError
from joyimage.evaluation.prices import ForwardCounter
from joyimage.model.adapters.recipe import SamplingRecipe
from joyimage.tiny.examples import load_example
from tests import random_models
from tests.forked import start
from tests.model.sliced_adapters import (
    RANK,
    biggest_difference,
    distinct,
    draw_adapter,
    edit_with_adapters,
    edit_with_products,
)

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

NUM = 4
EDITS: dict[str, dict[str, Any]] = {
    "guided": {},
    "another size and an uneven text": {
        "image": (96, 64),
        "prompt": "make the small one on the left blue, please",
    },
    "no guidance": {"guidance_scale": 1.0},
    "interrupted": {"stops_at": 1},
    "balanced": {"speed": "balanced", "num_inference_steps": 8},
    "fast": {"speed": "fast", "num_inference_steps": 8},
    "a preset whose branches all follow one decision": {"speed": "measured", "num_inference_steps": 10},
    "adapter": {"adapter": None},
    "turbo": {"adapter": SamplingRecipe(num_inference_steps=2, guidance_scale=1.0, shift=2.0)},
}
REUSING = [name for name, call in EDITS.items() if "speed" in call]
MEASURED = SpeedPreset(threshold=0.5, max_reused_steps=3, guidance_sigmas=(0.0, 0.9))
"""The unconditional branch begins later: on its own it would reuse other steps than the conditional one."""
CANDIDATES: dict[str, Any] = {"num_candidates": 3, "num_inference_steps": 4, "guidance_scale": 2.0}


def make_pipe(layout: str = "guidance") -> Any:
    pipe: Any = random_models.make_pipeline()
    if layout == "tensor":  # a head for each process
        pipe.transformer = random_models.make_transformer(num_attention_heads=NUM, rope_dim_list=[4, 6, 6])
        accelerate(pipe)
    pipe.register_to_config(base_size=64)
    pipe.set_progress_bar_config(disable=True)
    pipe.speed_presets = {**PRESETS, "measured": MEASURED}
    return pipe


def load_tiny() -> Any:
    pipe: Any = JoyImageEditPipeline.from_pretrained("tiny")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@contextmanager
def adapted(pipe: Any, recipe: SamplingRecipe | None) -> Generator[None]:
    """Load an adapter, which is a turbo adapter if it has a recipe."""
    pipe.transformer.load_lora_adapter(draw_adapter("lora"), adapter_name="drawn")
    pipe.transformer.keep_recipe("drawn", recipe)
    try:
        yield
    finally:
        pipe.unload_lora_weights()


def run_edit(
    pipe: Any, call: dict[str, Any], rank: int = 0, dies_at: int | None = None
) -> tuple[torch.Tensor, int]:
    """Run an edit; what is drawn differs between processes, which all follow process 0.

    Returns:
        Its latents, and how many forwards through all blocks it took here.
    """
    options = dict(call)
    width, height = options.pop("image", (64, 64))
    stops_at = options.pop("stops_at", None)

    def act(pipe: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if rank == NUM - 1 and step == dies_at:
            os._exit(3)  # no farewell, as of a killed process
        if rank == 0 and step == stops_at:
            pipe._interrupt = True
        return {}

    usual = {"num_inference_steps": 3, "guidance_scale": 4.0} if not options.get("adapter") else {}
    arguments = {
        "image": random_models.make_image(0, width, height),
        "prompt": "make it blue",
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(rank),
        "callback_on_step_end": act,
        **usual,
    }
    with ForwardCounter().watching(pipe) as counter:
        if "adapter" in options:
            with adapted(pipe, options.pop("adapter")):
                return pipe(**arguments, **options).images, counter.count
        return pipe(**{**arguments, **options}).images, counter.count


def choose(pipe: Any, rank: int = 0) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """Make three candidates, of which the worst are dropped on the way.

    Returns:
        The last latents, and the seed and the steps of each candidate, the best first.
    """
    last: list[torch.Tensor] = []

    def keep(_pipe: Any, _step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        last[:] = [
            tensors["latents"][:, -1].clone()
        ]  # the references before it are those that this process drew
        return {}

    output = pipe(
        image=load_example("shapes").image,
        prompt="Recolor the heart orange.",
        generator=torch.Generator().manual_seed(3 + rank),
        callback_on_step_end=keep,
        **CANDIDATES,
    )
    return last[0], [(one.seed, one.steps) for one in output.candidates]


class Exchanged(TorchDispatchMode):
    """Counts the bytes that this process hands to collectives.

    Attributes:
        all_to_all: Bytes of tensors that Ulysses exchanges, with what stays here.
        all_reduce: Bytes of tensors that are summed.
        all_gather: Bytes of floating-point tensors that are gathered.
        text_tokens: Tokens of each branch's text, before processes divide them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.all_to_all = self.all_reduce = self.all_gather = 0
        self.text_tokens: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "all_to_all" in func.name():
            self.all_to_all += args[0].nbytes
        elif "allreduce" in func.name():
            self.all_reduce += sum(one.nbytes for one in args[0])
        elif "allgather" in func.name():
            self.all_gather += sum(one.nbytes for one in args[1] if one.is_floating_point())
        return func(*args, **(kwargs or {}))

    def see_text(self, _module: Any, _inputs: Any, tokens: torch.Tensor) -> None:
        """Take the number of tokens from the output of the text's projection."""
        self.text_tokens.append(tokens.shape[1])


def count_exchange(pipe: Any, rank: int) -> dict[str, Any]:
    """Run the first edit, and return what its collectives took from this process."""
    with Exchanged() as exchanged:
        handle = pipe.transformer.condition_embedder.text_embedder.register_forward_hook(exchanged.see_text)
        run_edit(pipe, EDITS["guided"], rank)
        handle.remove()
    names = ("all_to_all", "all_reduce", "all_gather", "text_tokens")
    return {name: getattr(exchanged, name) for name in names}


def count_weights(pipe: Any) -> list[int]:
    """Return how many weights and biases of the blocks' large layers are here, and how many other parameters."""
    layers = [one for one in pipe.transformer.double_blocks.modules() if isinstance(one, torch.nn.Linear)]
    large = sum(one.numel() for layer in layers for one in layer.parameters())
    return [large, sum(one.numel() for one in pipe.transformer.parameters()) - large]


def edit_adapted(rank: int = 0, num_processes: int = 1) -> dict[str, torch.Tensor]:
    """Edit with adapters from before the layers are divided and after, or on one process with whole layers."""
    made: dict[str, torch.Tensor] = {}
    for kind, edits in (("LoRA and DoRA", edit_with_adapters), ("LoKr", edit_with_products)):
        pipe = make_pipe("tensor")
        divide = (lambda: None) if num_processes == 1 else partial(pipe.parallel, num_processes, "tensor")

        def edit(pipe: Any = pipe, **call: Any) -> torch.Tensor:
            return run_edit(pipe, {"num_inference_steps": 1, **call}, rank)[0]

        made |= {f"{kind}: {name}": one for name, one in edits(pipe, divide, edit).items()}
    return made


def run_sliced(rank: int) -> dict[str, Any]:
    """Make edits with a slice of the layers on each process."""
    pipe = make_pipe("tensor")
    pipe.parallel(NUM, layout="tensor")
    assert report(pipe).parallelism == f"tensor {NUM}"
    with adapted(pipe, None):
        exchange_of_adapter = count_exchange(pipe, rank)
    return {
        "edits": {name: run_edit(pipe, call, rank) for name, call in EDITS.items()},
        "adapted": edit_adapted(rank, NUM),
        "weights": count_weights(pipe),
        "exchange": count_exchange(pipe, rank),
        "exchange with an adapter": exchange_of_adapter,
    }


def run_rank(rank: int, folder: Path) -> None:
    """Be one of four processes: make all edits, then one in which the last process dies."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=NUM)
    pipe, tiny = make_pipe(), load_tiny()
    # diffusers divides by the number of accelerators, and a machine without any has none.
    with mock.patch.object(torch.accelerator, "device_count", return_value=NUM):
        pipe.parallel(NUM)
        tiny.parallel(NUM)
    assert report(pipe).parallelism == "guidance 2, ulysses 2"
    found = {
        "edits": {name: run_edit(pipe, call, rank) for name, call in EDITS.items()},
        "candidates": choose(tiny, rank),
        "exchange": count_exchange(pipe, rank),
        "sliced": run_sliced(rank),
    }
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()  # a process that leaves early would close connections that others still use
    started = time.monotonic()
    try:
        run_edit(pipe, {}, rank, dies_at=1)
    except ParallelError as error:
        message = str(error)
    else:
        message = "no error"
    took = time.monotonic() - started
    (folder / f"{rank}.txt").write_text(f"{took < DEAD_PROCESS_SECONDS + 5} {message}")
    os._exit(0)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], list[str]]:
    """Return what each of four processes found, and what those that were left said when the last one died."""
    folder = tmp_path_factory.mktemp("shared")
    processes = [start(run_rank, rank, folder) for rank in range(NUM)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0, 3]
    said = [(folder / f"{rank}.txt").read_text() for rank in range(NUM - 1)]
    return [torch.load(folder / f"{rank}.pt") for rank in range(NUM)], said


def test_edit_when_one_of_four_processes_dies_then_the_others_end_with_one_sentence(shared: Any) -> None:
    for sentence in shared[1]:
        assert sentence.startswith("True Another process of this edit has ended")


def test_edit_when_four_processes_share_it_then_as_one(shared: Any) -> None:
    alone = make_pipe()

    for name, call in EDITS.items():
        expected, forwards = run_edit(alone, call)
        assert all(
            (one["edits"][name][0] - expected).abs().max() < 1e-5 * expected.abs().max() for one in shared[0]
        ), name
        # Processes 0 and 1 run the conditional branch, and 2 and 3 the other one.
        counts = [one["edits"][name][1] for one in shared[0]]
        assert counts[0] == counts[1], name
        assert counts[2] == counts[3], name
        assert counts[0] + counts[2] == forwards, name
        if name in REUSING:
            assert 0 < counts[2] < call["num_inference_steps"] > counts[0], name


def test_candidates_when_four_processes_make_them_then_the_same_are_kept(shared: Any) -> None:
    expected, tried = choose(load_tiny())

    assert sorted(steps for _, steps in tried) == [1, 1, 4]
    for rank, one in enumerate(shared[0]):
        latents, found = one["candidates"]
        assert (latents - expected).abs().max() < 1e-5 * expected.abs().max(), rank
        assert [(seed - rank, steps) for seed, steps in found] == tried


def test_exchange_when_counted_then_as_documented(shared: Any) -> None:
    """`docs/speed.md` states the bytes of the published model by the same formula."""
    config = random_models.TRANSFORMER_CONFIG
    steps, float_bytes, image_tokens = 3, 4, 16  # of the target, and of the reference
    for rank, one in enumerate(shared[0]):
        found = one["exchange"]
        (text_tokens,) = found["text_tokens"]
        # Of an odd number of tokens, the first part has one more.
        text_part = (text_tokens + 1 - rank % 2) // 2
        part, whole = image_tokens + text_part, 2 * image_tokens + text_tokens
        # Queries, keys and values of a part of the tokens; the result of all tokens in half of the heads.
        values = 3 * part * config["hidden_size"] + whole * config["hidden_size"] // 2
        assert found["all_to_all"] == steps * config["num_layers"] * values * float_bytes, rank
        velocity = steps * 16 * 8 * 8
        head = steps * image_tokens * 4 * 16  # this part's patches of 4 latent pixels with 16 channels
        assert found["all_gather"] == (velocity + head) * float_bytes, rank


def test_edit_when_four_processes_have_slices_of_the_layers_then_as_one(shared: Any) -> None:
    alone = make_pipe("tensor")

    for name, call in EDITS.items():
        expected, forwards = run_edit(alone, call)
        for rank, one in enumerate(shared[0]):
            latents, count = one["sliced"]["edits"][name]
            assert (latents - expected).abs().max() < 1e-5 * expected.abs().max(), (rank, name)
            assert count == forwards, name


def test_adapters_when_four_processes_have_slices_of_the_layers_then_as_one(shared: Any) -> None:
    expected = edit_adapted()

    assert distinct(expected)
    for rank, one in enumerate(shared[0]):
        for name, latents in one["sliced"]["adapted"].items():
            assert biggest_difference(latents, expected[name]) < 1e-5, (rank, name)


def test_weights_when_layers_are_sliced_then_each_process_has_its_share(shared: Any) -> None:
    large, others = count_weights(make_pipe("tensor"))
    config = random_models.TRANSFORMER_CONFIG
    biases = 4 * config["num_layers"] * config["hidden_size"]  # behind the sums, which each process has whole

    for one in shared[0]:
        assert one["sliced"]["weights"] == [(large - biases) // NUM + biases, others]


def test_exchange_when_layers_are_sliced_then_as_documented(shared: Any) -> None:
    """`docs/speed.md` states the bytes of the published model by the same formula."""
    config = random_models.TRANSFORMER_CONFIG
    for one in shared[0]:
        found = one["sliced"]["exchange"]
        # Both branches share a forward, whose texts are padded to the longer one. The last block is the target's alone.
        text = max(found["text_tokens"])
        tokens = 2 * (config["num_layers"] - 1) * (2 * 16 + text) + 2 * 16
        assert found["all_reduce"] == 3 * 2 * tokens * config["hidden_size"] * 4
        assert (found["all_to_all"], found["all_gather"]) == (0, 0)
        # Of the adapter's layers four are sliced by inputs: one of images, two of texts, and one of the target.
        sums = 3 * (2 * 2 * 16 + 2 * 2 * text + 2 * 16) * RANK * 4
        assert one["sliced"]["exchange with an adapter"]["all_reduce"] == found["all_reduce"] + sums


def test_parallel_when_it_cannot_be_then_the_message_says_why() -> None:
    pipe = make_pipe()

    with pytest.raises(InvalidInputError, match="`num_processes` is 3; expected 2, 4, 8"):
        pipe.parallel(3)
    with pytest.raises(InvalidInputError, match="the number of connected processes is 1"):
        pipe.parallel(4)
    pipe.processes = GuidanceGroup(rank=0, group=None, meeting=None, pair=None, num_parts=2)
    with pytest.raises(InvalidInputError, match="tokens are divided; load the pipeline again"):
        pipe.parallel(1)
    with pytest.raises(InvalidInputError, match="`layout` is 'rows'; expected guidance, tensor"):
        pipe.parallel(2, layout="rows")
