"""Memory plans of the published model on many machines, and what is loaded by them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from PIL import Image

from joyimage.acceleration import plans as plans_module
from joyimage.acceleration import streaming
from joyimage.acceleration.plans import (
    OFFLOADS,
    Machine,
    MemoryPlan,
    PartSize,
    PipelineSize,
    candidates,
    choose_plan,
    next_plan,
    predict,
)
from joyimage.acceleration.reporting import report
from joyimage.acceleration.streaming import stream_of
from joyimage.devices import FreeMemory, free_memory
from joyimage.errors import OutOfMemoryError
from joyimage.loading import load_pipeline
from joyimage.pipeline import planned

if TYPE_CHECKING:
    from pathlib import Path

GB = 10**9

PUBLISHED = PipelineSize(
    parts={
        "transformer": PartSize(
            num_bytes=32_500_000_000, resident_bytes=280_000_000, window_bytes=1_610_000_000
        ),
        "text_encoder": PartSize(
            num_bytes=17_530_000_000, resident_bytes=90_000_000, window_bytes=1_245_000_000
        ),
        "vae": PartSize(num_bytes=254_000_000, resident_bytes=254_000_000),
    },
    base_size=1024,
    hidden_size=4096,
    vae_width=96,
    dtype_bytes=2,
)


@pytest.mark.parametrize(
    ("device", "device_gb", "host_gb", "offload"),
    [
        ("cuda", 141, 256, "none"),  # H200
        ("cuda", 80, 256, "none"),  # H100
        ("cuda", 80, 16, "none"),  # the weights go straight to the device
        ("cuda", 64, 128, "none"),
        ("cuda", 48, 128, "model"),
        ("cuda", 48, 64, "model"),
        ("cuda", 48, 32, "disk"),
        ("cuda", 40, 96, "model"),
        ("cuda", 32, 96, "block"),
        ("cuda", 24, 128, "block"),
        ("cuda", 24, 64, "block"),
        ("cuda", 24, 32, "disk"),
        ("cuda", 16, 64, "block"),
        ("cuda", 16, 16, "disk"),
        ("cuda", 12, 64, "block"),
        ("cuda", 8, 64, "block"),
        ("cuda", 8, 12, "disk"),
        ("xpu", 48, 96, "model"),
        ("mps", 48, 60, "model"),
        ("cpu", 0, 128, "none"),
        ("cpu", 0, 24, "disk"),
        ("cpu", 0, 8, "disk"),
    ],
)
def test_plan_when_machine_has_this_much_free_then_the_fastest_that_fits(
    device: str, device_gb: int, host_gb: int, offload: str
) -> None:
    machine = Machine(device=device, device_bytes=device_gb * GB, host_bytes=host_gb * GB)

    assert choose_plan(PUBLISHED, machine).offload == offload


@given(
    device=st.sampled_from(["cuda", "xpu", "mps", "cpu"]),
    device_gb=st.floats(0, 200),
    host_gb=st.floats(0, 300),
)
def test_plan_when_chosen_then_it_fits_and_no_faster_one_does(
    device: str, device_gb: float, host_gb: float
) -> None:
    machine = Machine(device=device, device_bytes=int(device_gb * GB), host_bytes=int(host_gb * GB))

    plans = [predict(offload, PUBLISHED, device) for offload in candidates(device)]
    if not any(_fits(plan, machine) for plan in plans):
        with pytest.raises(OutOfMemoryError, match="the smallest memory plan, `offload` 'disk', takes"):
            choose_plan(PUBLISHED, machine)
        return
    chosen = choose_plan(PUBLISHED, machine)
    assert _fits(chosen, machine)
    assert (chosen.reason == "") == (chosen.offload == "none")
    faster = plans[: candidates(device).index(chosen.offload)]
    assert not any(_fits(plan, machine) for plan in faster)


def test_plans_when_in_order_then_each_takes_less_of_the_device_and_disk_least_of_the_host() -> None:
    plans = [predict(offload, PUBLISHED, "cuda") for offload in OFFLOADS]

    on_device = [plan.device_bytes for plan in plans]
    assert on_device == sorted(on_device, reverse=True)
    assert plans[-1].host_bytes < 5 * GB < plans[1].host_bytes
    assert [next_plan(plan.offload, OFFLOADS) for plan in plans] == ["model", "block", "disk", None]
    assert next_plan("none", candidates("cpu")) == "disk"


def test_plan_when_printed_then_peak_and_what_each_step_moves() -> None:
    text = str(predict("block", PUBLISHED, "cuda"))

    assert text.startswith("Memory plan 'block': predicted peak ")
    assert "of device memory and 5" in text
    assert "each step moves to the device 32.2 GB, 2.7 s at 12 GB/s, beside which computing" in text
    assert "each step reads from disk 32.2 GB, 32.2 s at 1 GB/s" in str(predict("disk", PUBLISHED, "cpu"))
    assert predict("none", PUBLISHED, "cuda").transfer_seconds == 0


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have memory plans made for checkpoints of any size."""
    monkeypatch.setattr(planned, "_SMALL_BYTES", 0)


def test_load_when_free_memory_is_short_then_blocks_stay_on_disk_and_it_is_announced(
    checkpoint: Path, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[MemoryPlan] = []
    monkeypatch.setattr(plans_module, "PROCESS_BYTES", 0)  # the model alone decides
    needed = predict("none", _measure(checkpoint), "cpu").host_bytes
    monkeypatch.setattr(planned, "free_memory", lambda _: FreeMemory(device=0, host=int(needed / 0.951)))

    loaded = load_pipeline(checkpoint, device="cpu", announce=plans.append)

    assert loaded.offload == "disk"
    assert stream_of(loaded.pipe.transformer) is not None
    assert plans == [loaded.plan]
    assert "All parts on the device would take" in str(plans[0])


def test_load_when_memory_runs_out_then_the_next_plan_is_tried(
    checkpoint: Path, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = planned.PlannedLoad._load
    tried: list[str] = []

    def fail_first(*arguments: Any) -> Any:
        tried.append(arguments[-1])
        if len(tried) == 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return load(*arguments)

    monkeypatch.setattr(planned.PlannedLoad, "_load", fail_first)

    assert load_pipeline(checkpoint, device="cpu").offload == "disk"
    assert tried == ["none", "disk"]


def fail_first_edits(pipe: Any, count: int) -> None:
    """Let the first edits run out of the device's memory in the middle of the transformer."""
    left = [count]

    def fail(*_: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    pipe.transformer.double_blocks[-1].register_forward_pre_hook(fail)


def edit(pipe: Any) -> torch.Tensor:
    pipe.register_to_config(base_size=64)
    return pipe(
        image=Image.new("RGB", (64, 64), "teal"),
        prompt="Make it red.",
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images


def test_run_when_an_edit_runs_out_of_memory_then_the_next_plan_is_announced_and_gives_the_same_image(
    checkpoint: Path,
) -> None:
    plans: list[MemoryPlan] = []
    loaded = load_pipeline(checkpoint, device="cpu", announce=plans.append)
    expected = edit(loaded.pipe)
    fail_first_edits(loaded.pipe, 1)

    image = loaded.run(lambda: edit(loaded.pipe))

    assert torch.equal(image, expected)
    assert loaded.offload == "disk"
    assert plans == [loaded.plan]
    assert str(plans[0]).startswith("Memory plan 'disk': predicted peak")
    assert str(plans[0]).endswith("Memory ran out with the plan before it.")
    fail_first_edits(loaded.pipe, 1)
    with pytest.raises(OutOfMemoryError, match="Out of memory"):
        loaded.run(lambda: edit(loaded.pipe))


def test_run_when_the_plan_was_requested_then_raised(checkpoint: Path) -> None:
    loaded = load_pipeline(checkpoint, device="cpu", offload="none")
    fail_first_edits(loaded.pipe, 1)

    with pytest.raises(OutOfMemoryError, match="Out of memory"):
        loaded.run(lambda: edit(loaded.pipe))

    assert loaded.offload == "none"


def test_change_when_a_pipeline_goes_through_all_plans_then_image_and_adapter_stay(
    checkpoint: Path, tmp_path: Path
) -> None:
    loaded = load_pipeline(checkpoint, device="cpu")
    pipe: Any = loaded.pipe
    config = LoraConfig(r=2, target_modules=["img_attn_qkv"], init_lora_weights=False)
    pipe.transformer.add_adapter(config)
    expected = edit(pipe)
    # Moves between the CPU and itself are those between host and device.
    load = replace(loaded._load, device=torch.device("cpu:0"))

    for offload in ("model", "block", "disk"):
        load.change(pipe, MemoryPlan(offload=offload, device_bytes=0, host_bytes=0))

        assert report(pipe).offload == offload
        assert torch.equal(edit(pipe), expected)
    pipe.unload_lora_weights()
    assert torch.equal(edit(pipe), edit(load_pipeline(checkpoint, device="cpu").pipe))


def test_load_when_the_requested_plan_runs_out_of_memory_then_raised(
    checkpoint: Path, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(planned.PlannedLoad, "_load", fail)

    with pytest.raises(OutOfMemoryError, match="Out of memory"):
        load_pipeline(checkpoint, device="cpu", offload="none")


@pytest.mark.parametrize(("dtype", "is_mapped"), [(torch.float32, True), (torch.bfloat16, False)])
def test_prediction_when_a_vocabulary_runs_as_stored_then_a_resident_one_on_the_cpu_does_not_count(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, is_mapped: bool
) -> None:
    from joyimage.pipeline.streamed import measure

    monkeypatch.setattr(streaming, "LARGE_LAYER_SIZE", 4096)
    size = measure(checkpoint, dtype)
    mapped = size.parts["text_encoder"].mapped_bytes
    without = replace(size, parts={name: replace(part, mapped_bytes=0) for name, part in size.parts.items()})

    assert bool(mapped) == is_mapped
    assert predict("none", without, "cpu").host_bytes - predict("none", size, "cpu").host_bytes == sum(
        part.mapped_bytes for part in size.parts.values()
    )
    assert predict("none", without, "cuda") == predict("none", size, "cuda")
    assert predict("disk", without, "cpu") == predict("disk", size, "cpu")


def test_prediction_when_weights_are_cast_then_their_source_counts_where_it_is_mapped(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from joyimage.pipeline.streamed import measure

    monkeypatch.setattr(streaming, "LARGE_LAYER_SIZE", 4096)
    cast, plain = measure(checkpoint, torch.bfloat16), measure(checkpoint, torch.float32)

    for part in ("transformer", "text_encoder"):
        # A window is two blocks in half of the bytes; the source is one block as stored.
        assert cast.parts[part].window_source_bytes == cast.parts[part].window_bytes > 0
        assert plain.parts[part].window_source_bytes == plain.parts[part].layer_source_bytes == 0
    assert cast.parts["text_encoder"].layer_source_bytes == 2 * cast.parts["text_encoder"].layer_bytes > 0
    without = replace(
        cast,
        parts={
            name: replace(part, window_source_bytes=0, layer_source_bytes=0)
            for name, part in cast.parts.items()
        },
    )
    assert predict("disk", cast, "cpu").host_bytes > predict("disk", without, "cpu").host_bytes
    assert predict("disk", cast, "cuda") == predict("disk", without, "cuda")
    # While all parts are loaded, the kernel takes back what has been cast.
    assert predict("none", cast, "cpu") == predict("none", without, "cpu")


def test_prediction_when_a_vocabulary_is_large_then_not_beside_what_blocks_compute() -> None:
    block = PartSize(num_bytes=100 * GB, resident_bytes=0, window_bytes=2 * GB, decoded_bytes=3 * GB)
    vocabulary = PartSize(num_bytes=100 * GB, resident_bytes=0, window_bytes=GB, layer_bytes=4 * GB)
    both = replace(PUBLISHED, base_size=16, parts={"transformer": block, "text_encoder": vocabulary})
    alone = replace(both, parts={"transformer": block})

    assert predict("disk", both, "cpu") == predict("disk", alone, "cpu")


@pytest.mark.parametrize(
    ("line", "folder", "limit", "used", "stat"),
    [
        ("0::/service/worker", "service", "memory.max", "memory.current", "file 1500000"),
        (
            "4:memory:/jobs/7",
            "memory/jobs/7",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "cache 5\ntotal_cache 1500000",
        ),
        ("0::/", "", "memory.max", "memory.current", "file 1500000"),
    ],
)
def test_free_memory_when_a_group_of_the_process_has_a_limit_then_what_it_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, folder: str, limit: str, used: str, stat: str
) -> None:
    from joyimage import devices

    group = tmp_path / "groups" / folder
    group.mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text(f"9:name=systemd:/\n{line}\n")
    for name, text in ((limit, "5000000"), (used, "4000000"), ("memory.stat", f"{stat}\n")):
        (group / name).write_text(text)
    monkeypatch.setattr(devices, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(devices, "_OWN_GROUPS", own)

    assert free_memory(torch.device("cpu")) == FreeMemory(device=0, host=2_500_000)

    (group / limit).write_text("max\n")
    assert free_memory(torch.device("cpu")).host > 5_000_000


@pytest.mark.parametrize(("free", "expected"), [(70 * GB, 7 * GB), (5 * GB, 5 * GB)])
def test_free_memory_when_the_process_may_use_a_share_of_a_gpu_then_no_more_than_that(
    monkeypatch: pytest.MonkeyPatch, free: int, expected: int
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 80 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 1 * GB)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 0.1, raising=False)

    assert free_memory(torch.device("cuda")).device == expected


def _fits(plan: MemoryPlan, machine: Machine) -> bool:
    on_device = machine.device == "cpu" or plan.device_bytes <= 0.95 * machine.device_bytes
    return on_device and plan.host_bytes <= 0.95 * machine.host_bytes


def _measure(folder: Path) -> PipelineSize:
    from joyimage.pipeline.streamed import measure

    return measure(folder, torch.float32)
