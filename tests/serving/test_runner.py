"""One pipeline: images are read once, memory that runs out, previews, adapters."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from joyimage.pipeline import base as base_module
from joyimage.pipeline import edit as edit_module
from joyimage.serving.jobs.task import Task
from joyimage.serving.workers import preview as preview_module
from joyimage.serving.workers.preview import Previewer
from joyimage.serving.workers.protocol import DeviceFailedError
from tests import random_models
from tests.serving.parts import (
    SIDE,
    Workshop,
    difference,
    make_runner,
    make_settings,
    make_task,
    opened,
    png,
    run_on,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from joyimage.serving.workers.local import LocalRunner

    Open = Callable[..., Workshop]


def correlation(first: bytes, second: bytes) -> float:
    pair = [np.asarray(opened(file).convert("RGB"), dtype=float).ravel() for file in (first, second)]
    return float(np.corrcoef(pair)[0, 1])


@contextmanager
def counting(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count passes of the vision tower and images that are encoded."""
    counts: Counter[str] = Counter()
    encode = base_module.encode_frame
    monkeypatch.setattr(base_module, "encode_frame", lambda *a: (counts.update(["vae"]), encode(*a))[1])
    hook = pipe.text_encoder.model.visual.blocks[0].register_forward_hook(
        lambda *_: counts.update(["vision"])
    )
    try:
        yield counts
    finally:
        hook.remove()


def test_image_when_it_comes_again_then_not_read_again_and_bitwise_the_same(
    workshop: Open, runner: LocalRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = workshop()
    runner.sessions.clear()
    edits = [(png(1), "red"), (png(1), "blue"), (png(2), "blue"), (png(1), "red")]

    with counting(runner.pipe, monkeypatch) as counts:
        jobs = [shop.ended(shop.submit(image=image, prompt=prompt)) for image, prompt in edits]
        done = dict(counts)
    fresh = make_runner(session_bytes=0)
    plain = [
        run_on(fresh, (Task.from_dict(job.task), image)) for job, (image, _) in zip(jobs, edits, strict=True)
    ]

    assert done == {"vision": 2, "vae": 2}
    assert [(job.result or {})["reused"] for job in jobs] == [False, True, False, True]
    for job, alone in zip(jobs, plain, strict=True):
        assert shop.files.read(job.id, "output-0") == alone[0].images[0]
    assert not fresh.sessions.num_bytes


def test_known_image_when_in_a_batch_then_bitwise_as_if_it_were_new(runner: LocalRunner) -> None:
    tasks = [
        (make_task(kind="edit", prompt="red", seed=seed, steps=2, num_inputs=1), png(seed)) for seed in (1, 2)
    ]

    def run_both() -> list[bytes]:
        return [outcome.images[0] for outcome in run_on(runner, *tasks)]

    runner.sessions.clear()
    new = run_both()
    runner.sessions.clear()
    run_on(runner, tasks[1])

    assert run_both() == new


def test_memory_when_kept_images_fill_it_then_they_go_first(
    workshop: Open, runner: LocalRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = workshop()
    runner.sessions.clear()
    shop.ended(shop.submit(image=png(1)))
    decode = edit_module.decode_target
    kept = len(runner.sessions)
    assert kept

    def need_room(*arguments: Any, **options: Any) -> Any:
        if len(runner.sessions) > kept:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return decode(*arguments, **options)

    monkeypatch.setattr(edit_module, "decode_target", need_room)
    job = shop.ended(shop.submit(image=png(2)))

    assert job.state == "succeeded", job.error
    assert (job.result or {})["memory"] == "an empty image cache"
    assert not runner.sessions.num_bytes


def test_memory_when_short_then_less_of_it_and_the_same_image(
    workshop: Open, runner: LocalRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = workshop()
    expected = shop.ended(shop.submit(image=png(), num_images=2, seed=4))
    pipe = runner.pipe
    decode = edit_module.decode_target

    def need_tiles(pipe: Any, target: Any, *arguments: Any, **options: Any) -> Any:
        if len(target) > 1 or not pipe.vae.use_tiling:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return decode(pipe, target, *arguments, **options)

    monkeypatch.setattr(edit_module, "decode_target", need_tiles)
    job = shop.ended(shop.submit(image=png(), num_images=2, seed=4))

    assert job.state == "succeeded", job.error
    assert job.result is not None
    assert job.result["memory"] == "one output at a time and a tiled VAE"
    for name in ("output-0", "output-1"):
        assert difference(shop.files.read(job.id, name), shop.files.read(expected.id, name)) <= 1
    assert not pipe.vae.use_tiling


def test_memory_when_never_enough_then_503_and_the_server_continues(
    workshop: Open, runner: LocalRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = workshop()

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")

    with monkeypatch.context() as patch:
        patch.setattr(edit_module, "decode_target", fail)
        job = shop.ended(shop.submit())

    assert job.error is not None
    assert job.error["code"] == "out_of_memory"
    assert "even with one output at a time and a tiled VAE; request a smaller size" in job.error["message"]
    assert shop.ended(shop.submit()).state == "succeeded"


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (torch.ones(8), ValueError),
        (torch.zeros(8), DeviceFailedError),
        (RuntimeError("unspecified launch failure"), DeviceFailedError),
        (torch.OutOfMemoryError("CUDA out of memory."), ValueError),
    ],
)
def test_error_when_unknown_then_the_device_is_asked_whether_it_still_computes(
    runner: LocalRunner, monkeypatch: pytest.MonkeyPatch, result: Any, expected: type[Exception]
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("something new")

    real_ones = torch.ones

    def ones(*size: Any, **options: Any) -> Any:
        if size != (8,):
            return real_ones(*size, **options)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(edit_module, "decode_target", fail)
    monkeypatch.setattr(torch, "ones", ones)

    with pytest.raises(expected, match="something new"):
        run_on(runner, (make_task(kind="generate", prompt="x", seed=1), None))


def test_memory_when_short_on_a_gpu_then_parts_leave_it_for_a_while_and_come_back_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = make_runner()
    expected = run_on(runner, (make_task(kind="edit", prompt="x", seed=1, num_inputs=1), png(1)))
    pipe, device = runner.pipe, torch.device("cuda:0")
    moves: list[Any] = []
    is_full = False

    def to(where: torch.device) -> None:
        moves.append(where)
        if is_full:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    def decode(*arguments: Any, **options: Any) -> Any:
        if needed not in moves[-1:]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(*arguments, **options)

    whole, needed = edit_module.decode_target, "parts"
    # What moves weights: there is no GPU here to move them from.
    monkeypatch.setattr(runner, "_device", device)
    monkeypatch.setattr(pipe, "to", to)
    monkeypatch.setattr(pipe, "enable_model_cpu_offload", lambda device: moves.append("parts"))
    monkeypatch.setattr(pipe, "enable_sequential_cpu_offload", lambda device: moves.append("layers"))

    def edit() -> Any:
        return run_on(runner, (make_task(kind="edit", prompt="x", seed=1, num_inputs=1), png(1)))[0]

    with monkeypatch.context() as patch:
        patch.setattr(edit_module, "decode_target", decode)
        parts = edit()
        needed = "layers"
        layers = edit()
        assert moves == ["parts", device, "parts", "layers", device]
        is_full = True
        stranded = edit()
    assert moves[5:] == ["parts", "layers", device, "parts"]
    moves.clear()
    still = edit()
    is_full = False
    back, again = edit(), edit()

    assert [one.metadata.get("memory") for one in (parts, layers, stranded, still, back)] == [
        "model offload",
        "sequential offload",
        "sequential offload",
        None,
        None,
    ]
    assert moves == [device, "parts", device]
    assert all(difference(one.images[0], expected[0].images[0]) <= 1 for one in (parts, layers, stranded))
    assert still.images == back.images == again.images == expected[0].images


def test_preview_when_drawn_then_shows_the_image_in_little(runner: LocalRunner) -> None:
    seen: list[Any] = []
    task = make_task(kind="edit", prompt="x", steps=3, num_inputs=1)

    run_on(runner, (task, png(1)), report=lambda *report: seen.append(report))

    assert [(step, steps) for step, steps, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    previews = [previews[0] for _, _, previews in seen]
    assert previews[2] is None
    assert (opened(previews[0].file).size, previews[0].kind) == ((32, 32), "latent")


@pytest.mark.parametrize("mode", ["decoded", "auto"])
def test_preview_when_decoded_then_as_the_vae_shows_it_and_the_image_stays_the_same(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, decoding = make_runner(preview="latent"), make_runner(preview=mode)
    if mode == "auto":
        monkeypatch.setattr(preview_module, "SHARE", 1e9)  # as if a decode took no time
        decoding._previewer.record_decode(1, 1e-9)
    edit = (make_task(kind="edit", prompt="x", steps=4, num_inputs=1), png(1))
    seen: list[Any] = []

    expected = run_on(plain, edit)
    made = run_on(decoding, edit, report=lambda *report: seen.append(report))

    assert made[0].images == expected[0].images
    previews = [previews[0] for _, _, previews in seen]
    assert [preview and preview.kind for preview in previews] == ["decoded"] * 3 + [None]
    # 64 pixels at most, and the last guess is nearly the image.
    assert opened(previews[2].file).size == (SIDE, SIDE)
    assert correlation(previews[2].file, made[0].images[0]) > 0.9


def test_preview_when_a_decode_is_slow_then_only_as_often_as_it_hardly_counts(runner: LocalRunner) -> None:
    previewer = Previewer(runner.pipe, 32)

    assert not previewer.is_worth_decoding(100, since_s=1e9)  # nothing is known yet
    previewer.record_decode(100, 1.0)

    assert not previewer.is_worth_decoding(100, since_s=19)
    assert previewer.is_worth_decoding(100, since_s=21)
    assert not previewer.is_worth_decoding(400, since_s=21)


def test_preview_when_an_edit_has_run_then_its_decode_is_what_counts() -> None:
    runner = make_runner()
    assert runner._previewer._seconds_per_pixel is None

    run_on(runner, (make_task(kind="generate", prompt="x"), None))

    seconds = runner._previewer._seconds_per_pixel
    assert seconds is not None
    assert 0 < seconds * SIDE * SIDE < 10


def test_preview_when_its_decode_runs_out_of_memory_then_latents_are_drawn_and_the_edit_continues(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = make_runner(preview="decoded")
    seen: list[Any] = []

    def fail(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(preview_module, "decode_frame", fail)
    task = make_task(kind="edit", prompt="x", steps=3, num_inputs=1)
    made = run_on(runner, (task, png(1)), report=lambda *report: seen.append(report))

    assert "memory" not in made[0].metadata
    assert [previews[0] and previews[0].kind for _, _, previews in seen] == ["latent", "latent", None]


def test_preview_when_a_trained_vae_then_latents_look_like_their_image() -> None:
    from joyimage.pipeline.edit import JoyImageEditPipeline
    from joyimage.pipeline.images import to_pixels
    from joyimage.pipeline.vae import encode_frame
    from joyimage.serving.workers.preview import LatentPreview

    pipe = JoyImageEditPipeline.from_pretrained("tiny")
    image = random_models.make_image(1, SIDE, SIDE)

    pixels = to_pixels([image], torch.device("cpu"), torch.float32)
    latents = pipe.normalize_latents(encode_frame(pipe.vae, pixels).mode())[0, :, 0]
    drawn = np.asarray(LatentPreview(pipe, 32).draw(latents).resize((8, 8)), dtype=float)
    wanted = np.asarray(image.resize((8, 8), resample=4), dtype=float)
    assert np.corrcoef(drawn.ravel(), wanted.ravel())[0, 1] > 0.9


def test_adapters_when_named_then_change_the_image_and_are_off_otherwise(
    checkpoint: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig

    from joyimage.serving.workers.loading import load_runner

    source = random_models.make_pipeline()
    source.transformer.add_adapter(LoraConfig(r=2, target_modules=["img_attn_qkv"], init_lora_weights=False))
    source.transformer.save_lora_adapter(tmp_path / "style")
    settings = {"model": str(checkpoint), "device": "cpu", "base_size": SIDE}
    plain = run_on(
        load_runner(make_settings(tmp_path, **settings)), (make_task(kind="generate", prompt="x"), None)
    )
    runner = load_runner(make_settings(tmp_path, **settings, loras={"style": tmp_path / "style"}))

    def run(lora: str | None) -> bytes:
        return run_on(runner, (make_task(kind="generate", prompt="x", lora=lora), None))[0].images[0]

    assert difference(run(None), plain[0].images[0]) <= 1
    assert difference(run("style"), plain[0].images[0]) > 5
    assert difference(run(None), plain[0].images[0]) <= 1
