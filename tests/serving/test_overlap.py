"""What needs no device stays out of its way, and comes out as if the pipeline did it all."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from joyimage.serving.jobs import dispatcher as dispatcher_module
from joyimage.serving.jobs.execution import BatchRun
from joyimage.serving.workers.local import LocalRunner
from joyimage.serving.workers.preparation import prepare
from joyimage.serving.workers.protocol import ModelOutput
from tests import random_models
from tests.serving.parts import SIDE, Gate, Workshop, make_runner, make_task, opened, png, run_on, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def shop(tmp_path: Path, runner: LocalRunner) -> Iterator[Workshop]:
    """A workshop with one pipeline, whose gate is open."""
    gate = Gate(runner)
    gate.is_open.set()
    shop = Workshop(tmp_path, gate)
    yield shop
    shop.close()


def test_next_job_when_one_is_done_then_it_begins_before_the_results_file_is_written(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = type(shop.files).write
    may_write = threading.Event()

    def hold(self: Any, job_id: str, name: str, data: bytes) -> None:
        if name == "output-0" and job_id == first.id:
            assert may_write.wait(30)
        write(self, job_id, name, data)

    monkeypatch.setattr(type(shop.files), "write", hold)
    shop.runner.is_open.clear()
    first, second = shop.submit(), shop.submit()
    shop.runner.is_open.set()

    ended = shop.ended(second)
    unfinished = shop.store.get(first.id)
    may_write.set()

    assert ended.state == "succeeded"
    assert unfinished is not None
    assert unfinished.state == "running"
    assert shop.ended(first).state == "succeeded"


def test_pipelines_when_many_jobs_wait_then_each_has_one_run_in_flight(
    tmp_path: Path, runner: LocalRunner
) -> None:
    class Watched(Gate):
        now = most = total = 0

        def run(self, items: Any, report: Any, is_stopped: Any) -> Any:
            self.now += 1
            self.total += 1
            self.most = max(self.most, self.now)
            threading.Event().wait(0.02)
            self.now -= 1
            return [ModelOutput(images=(Image.new("RGB", (8, 8)),), metadata={})]

    pipelines = [Watched(runner), Watched(runner)]
    shop = Workshop(tmp_path, None, is_started=False, replicas=2)
    jobs = [shop.submit() for _ in range(16)]
    shop.dispatcher.start(lambda number: pipelines[number])
    states = {shop.ended(job).state for job in jobs}
    shop.close()

    assert states == {"succeeded"}
    assert [one.most for one in pipelines] == [1, 1]
    assert sum(one.total for one in pipelines) == 16
    assert min(one.total for one in pipelines) >= 4


def test_results_when_they_can_not_be_written_fast_enough_then_the_next_run_waits(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write = threading.Event()
    write = type(shop.files).write

    def hold(self: Any, job_id: str, name: str, data: bytes) -> None:
        if name == "output-0":
            assert may_write.wait(30)
        write(self, job_id, name, data)

    monkeypatch.setattr(type(shop.files), "write", hold)
    jobs = [shop.submit() for _ in range(5)]
    wait_for(lambda: len(shop.runner.batches) == 2)
    threading.Event().wait(0.3)
    # Else the images of a fast model would pile up in memory.
    assert len(shop.runner.batches) == 2
    may_write.set()

    assert {shop.ended(job).state for job in jobs} == {"succeeded"}


def test_next_job_when_one_runs_then_its_images_are_prepared_beside(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[str] = []
    late: list[str] = []

    def note(job: Any, *arguments: Any) -> Any:
        prepared.append(job.id)
        return prepare_job(job, *arguments)

    def note_late(self: Any, job: Any) -> Any:
        if job.id not in self._prefetched:
            late.append(job.id)
        return prepare_in_run(self, job)

    prepare_job, prepare_in_run = dispatcher_module.prepare_job, BatchRun._prepare
    monkeypatch.setattr(dispatcher_module, "prepare_job", note)
    monkeypatch.setattr(BatchRun, "_prepare", note_late)
    shop.runner.is_open.clear()
    first, second = shop.submit(image=png(1)), shop.submit(image=png(2))
    wait_for(lambda: prepared)
    assert prepared == [second.id]
    queued = shop.store.get(second.id)
    assert queued is not None
    assert queued.state == "queued"  # a server that dies now hasn't begun it
    shop.runner.is_open.set()

    assert shop.ended(second).state == "succeeded"
    assert late == [first.id]


def test_next_job_when_cancelled_after_it_was_prepared_then_the_one_behind_it_runs(shop: Workshop) -> None:
    shop.runner.is_open.clear()
    jobs = [shop.submit(image=png(number)) for number in range(3)]
    wait_for(lambda: shop.dispatcher._prefetch_pool._work_queue.empty() and shop.runner.steps)

    cancelled = shop.dispatcher.cancel(jobs[1].id)
    shop.runner.is_open.set()

    assert cancelled is not None
    assert cancelled.state == "cancelled"
    assert [shop.ended(job).state for job in jobs] == ["succeeded", "cancelled", "succeeded"]
    assert shop.files.read(jobs[2].id, "output-0")


@pytest.fixture(scope="module")
def own() -> LocalRunner:
    """A pipeline of this file alone."""
    return make_runner()


def direct(runner: LocalRunner, task: Any, image: Any, region: Any = None) -> Any:
    """The same with the pipeline's own methods."""
    edit, sampling, framing = task.edit, task.edit.sampling, task.edit.framing
    call: dict[str, Any] = {
        "num_inference_steps": sampling.num_inference_steps,
        "guidance_scale": sampling.guidance_scale,
        "num_images_per_prompt": sampling.num_images,
        "generator": [torch.Generator().manual_seed(sampling.seed + n) for n in range(sampling.num_images)],
        "fit": framing.fit,
        "restore": framing.restore,
        "preserve": framing.preserve,
    }
    if sampling.size is not None:
        call |= {"width": sampling.size.width, "height": sampling.size.height}
    if task.kind == "edit":
        return runner.pipe(image=image, prompt=edit.prompt, region=region, **call)
    return getattr(runner.pipe, task.kind)(image, **SPATIAL[task.kind], **call)


SPATIAL: dict[str, dict[str, Any]] = {
    "move": {"object": "car", "box": [10, 10, 40, 50], "box_form": "xyxy"},
    "rotate": {"object": "car", "view": "rear left"},
    "camera": {"yaw": 45.0, "pitch": 0.0, "zoom": "unchanged"},
}


@pytest.mark.filterwarnings("ignore:`box` is")
@pytest.mark.parametrize("kind", ["edit", "move", "rotate", "camera"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"fit": "crop", "restore": True, "preserve": True},
        {"fit": "pad", "restore": True, "preserve": False, "num_images": 2},
        {"fit": "exact", "restore": False, "preserve": True},
        {"fit": "exact", "restore": True, "preserve": False, "size": "96x64"},
        {"size": "80x50"},
    ],
)
def test_edit_when_prepared_and_finished_apart_then_bitwise_the_pipelines_own(
    own: LocalRunner, kind: str, settings: dict[str, Any]
) -> None:
    fields = SPATIAL.get(kind, {"prompt": "red"})
    task = make_task(kind=kind, seed=3, num_inputs=1, **fields, **settings)

    (outcome,) = run_on(own, (task, png(1, 97, 71)))
    expected = direct(own, task, opened(png(1, 97, 71)))

    assert len(outcome.images) == task.num_images
    for file, image in zip(outcome.images, expected.images, strict=True):
        assert np.array_equal(np.asarray(opened(file)), np.asarray(image))
    assert len(outcome.masks) == len(expected.masks or [])
    for file, mask in zip(outcome.masks, expected.masks or [], strict=True):
        assert np.array_equal(np.asarray(opened(file)), np.asarray(mask))
    assert (outcome.metadata["width"], outcome.metadata["height"]) == expected.images[0].size
    if kind != "edit":
        assert outcome.metadata["prompt"] == expected.prompt
        assert [one["summary"] for one in outcome.metadata["checks"]] == [
            one.summary for one in expected.checks
        ]


def test_edit_when_of_a_transparent_image_with_a_mask_then_bitwise_the_pipelines_own(
    own: LocalRunner,
) -> None:
    import io

    image = random_models.make_image(1, 71, 97).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    mask = Image.new("RGBA", image.size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 40, 71))
    files = []
    for one in (image, mask):
        file = io.BytesIO()
        one.save(file, "PNG")
        files.append(file.getvalue())
    framing = {"fit": "crop", "restore": True, "preserve": False}
    task = make_task(kind="edit", prompt="red", num_inputs=1, has_mask=True, **framing)

    prepared = prepare(task, [files[0]], files[1], own.info)
    made = own.run([prepared.item], lambda *_: None, lambda: False)
    assert made is not None
    outcome = prepared.finish(made[0])
    region = mask.getchannel("A").point([255] + [0] * 255)
    expected = direct(own, task, image, region)

    assert opened(outcome.images[0]).mode == "RGBA"
    assert np.array_equal(np.asarray(opened(outcome.images[0])), np.asarray(expected.images[0]))
    assert np.array_equal(np.asarray(opened(outcome.masks[0])), np.asarray(expected.masks[0]))


def test_spatial_edit_when_on_a_model_of_several_images_then_bitwise_the_pipelines_own() -> None:
    pipe = random_models.make_plus_pipeline()
    pipe.register_to_config(base_size=SIDE, default_num_inference_steps=2, default_guidance_scale=1.0)
    pipe.text_encoder.config.judges_edits = False  # with random weights it would find no object anywhere
    runner = LocalRunner(pipe, preview_px=32)
    framing = {"fit": "pad", "restore": True, "preserve": False}
    task = make_task(kind="move", seed=3, steps=2, num_inputs=1, **SPATIAL["move"], **framing)

    (outcome,) = run_on(runner, (task, png(1, 97, 71)))
    expected = direct(runner, task, opened(png(1, 97, 71)))

    assert np.array_equal(np.asarray(opened(outcome.images[0])), np.asarray(expected.images[0]))
