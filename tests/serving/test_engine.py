"""The engine: every job ends, in its own way."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from joyimage.serving.jobs import dispatcher as dispatcher_module
from joyimage.serving.workers.protocol import ReplicaLostError
from joyimage.types import ImageSize
from tests import random_models
from tests.serving.parts import (
    SIDE,
    Gate,
    Workshop,
    difference,
    opened,
    png,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from joyimage.serving.workers.local import LocalRunner

    Open = Callable[..., Workshop]


def test_edit_when_run_then_as_a_direct_call(workshop: Open, runner: LocalRunner) -> None:
    shop = workshop()
    job = shop.ended(shop.submit(image=png(3), prompt="red", seed=5))

    direct = runner.pipe(
        image=random_models.make_image(3, SIDE, SIDE),
        prompt="red",
        num_inference_steps=2,
        guidance_scale=1,
        generator=torch.Generator().manual_seed(5),
    ).images[0]

    assert job.state == "succeeded"
    assert job.result is not None
    assert (job.result["width"], job.result["height"], job.result["num_images"]) == (SIDE, SIDE, 1)
    assert job.result["usage"]["image_tokens"] == job.result["usage"]["output_tokens"] == 16
    made = opened(shop.files.read(job.id, "output-0"))
    assert np.abs(np.asarray(made, dtype=int) - np.asarray(direct, dtype=int)).max() <= 1
    wait_for(lambda: not shop.has(job, "input-0"))


def test_alike_jobs_when_waiting_then_run_together_and_equal_single_runs(
    workshop: Open, runner: LocalRunner
) -> None:
    gate = Gate(runner)
    shop = workshop(gate, is_started=False)
    settings = [("red", 1, png(1)), ("a long blue thing", 2, png(2)), ("x", 3, png(3))]
    jobs = [
        shop.submit(prompt=prompt, seed=seed, image=image, batch_key="k", target_size=ImageSize(SIDE, SIDE))
        for prompt, seed, image in settings
    ]
    gate.is_open.set()
    shop.start()
    together = [shop.files.read(shop.ended(job).id, "output-0") for job in jobs]

    alone = [
        shop.files.read(shop.ended(shop.submit(prompt=prompt, seed=seed, image=image)).id, "output-0")
        for prompt, seed, image in settings
    ]

    assert gate.batches == [3, 1, 1, 1]
    assert all(difference(*pair) <= 1 for pair in zip(together, alone, strict=True))
    assert difference(together[0], together[1]) > 20


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_alike_jobs_when_the_text_of_one_is_cut_off_then_that_one_says_so(
    workshop: Open, runner: LocalRunner, field: str
) -> None:
    gate = Gate(runner)
    shop = workshop(gate, is_started=False)
    texts = ["red", "red " * 6000, "blue"]
    common: dict[str, Any] = {"prompt": "x", "negative_prompt": "y", "guidance": 2, "steps": 1}
    jobs = [
        shop.submit(
            image=png(number), batch_key="k", target_size=ImageSize(SIDE, SIDE), **common | {field: text}
        )
        for number, text in enumerate(texts)
    ]
    gate.is_open.set()
    shop.start()

    results = [shop.ended(job).result for job in jobs]

    assert gate.batches == [3]
    assert [len(result["warnings"]) for result in results if result is not None] == [0, 1, 0]
    assert results[1] is not None
    assert results[1]["warnings"][0].endswith("tokens too long; its end is left out.")


def test_job_when_both_its_texts_are_cut_off_alike_then_that_is_said_once(
    workshop: Open, runner: LocalRunner
) -> None:
    shop = workshop(runner)
    long = "red " * 6000

    job = shop.submit(
        image=png(0),
        prompt=long,
        negative_prompt=long,
        guidance=2,
        steps=1,
        target_size=ImageSize(SIDE, SIDE),
    )

    result = shop.ended(job).result
    assert result is not None
    assert len(result["warnings"]) == 1


def test_alike_jobs_when_large_then_run_one_by_one(workshop: Open, runner: LocalRunner) -> None:
    gate = Gate(runner)
    gate.is_open.set()
    shop = workshop(gate, is_started=False, batch_pixels=2 * SIDE * SIDE)
    jobs = [shop.submit(batch_key="k", target_size=ImageSize(SIDE, SIDE), steps=1) for _ in range(3)]
    shop.start()
    for job in jobs:
        shop.ended(job)

    assert gate.batches == [2, 1]


def test_one_of_a_batch_when_it_is_bad_then_the_others_succeed(workshop: Open) -> None:
    shop = workshop(is_started=False)
    bad = shop.submit(batch_key="k", steps=1, image=png(), region=[2, 2, 400, 400])
    good = shop.submit(batch_key="k", steps=1, image=png())
    shop.start()

    failed = shop.ended(bad)

    assert shop.ended(good).state == "succeeded"
    assert failed.state == "failed"
    assert failed.error is not None
    assert failed.error["code"] == "invalid_value"
    assert "400" in failed.error["message"]


def test_running_job_when_cancelled_then_ends_at_the_next_step(workshop: Open, runner: LocalRunner) -> None:
    gate = Gate(runner)
    shop = workshop(gate)
    job = shop.submit(steps=50)
    wait_for(lambda: gate.steps)

    asked = shop.dispatcher.cancel(job.id)
    cancelled = shop.ended(job)

    assert asked is not None
    assert (asked.state, cancelled.state, gate.steps) == ("running", "cancelled", 1)
    gate.is_open.set()
    assert shop.ended(shop.submit(steps=1)).state == "succeeded"


def test_running_job_when_too_long_then_failed_with_a_sentence(workshop: Open, runner: LocalRunner) -> None:
    gate = Gate(runner)
    shop = workshop(gate, job_timeout_s=0.05)

    job = shop.ended(shop.submit(steps=50))

    assert job.error is not None
    assert job.error["code"] == "job_timeout"
    assert "more than 0.05 s" in job.error["message"]


def test_waiting_job_when_too_long_then_failed_with_a_sentence(
    workshop: Open, runner: LocalRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_module, "_TICK_S", 0.05)
    gate = Gate(runner)
    shop = workshop(gate, queue_timeout_s=0.3)
    running = shop.submit()
    wait_for(lambda: gate.steps)

    late = shop.ended(shop.submit(image=png()))
    gate.is_open.set()

    assert late.error is not None
    assert late.error["code"] == "queue_timeout"
    wait_for(lambda: not shop.has(late, "input-0"))
    assert shop.ended(running).state == "succeeded"


@pytest.mark.parametrize("mistake", [ZeroDivisionError, TypeError])
def test_pipeline_when_it_breaks_then_500_without_its_words_and_the_server_continues(
    workshop: Open, runner: LocalRunner, monkeypatch: pytest.MonkeyPatch, mistake: type[Exception]
) -> None:
    shop = workshop()

    def fail(*_: Any, **_options: Any) -> Any:
        raise mistake("secret")

    with monkeypatch.context() as patch:
        patch.setattr("joyimage.pipeline.edit.decode_target", fail)
        job = shop.ended(shop.submit())

    assert job.error is not None
    assert job.error["code"] == "internal_error"
    assert "secret" not in job.error["message"]
    assert shop.ended(shop.submit()).state == "succeeded"


def test_disk_when_full_then_the_job_fails_with_a_sentence_and_no_partial_file(
    workshop: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = workshop()

    def reject(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", reject)
        job = shop.ended(shop.submit())

    assert job.error is not None
    assert job.error["code"] == "storage_full"
    assert "No space left" in job.error["message"]
    assert list(shop.settings.data_dir.rglob("*output-0*")) == []
    assert shop.ended(shop.submit()).state == "succeeded"


def test_server_when_stopped_in_order_then_the_job_continues_later_and_nothing_counts(
    workshop: Open, runner: LocalRunner
) -> None:
    gate = Gate(runner)
    first = workshop(gate, shutdown_grace_s=0.05)
    job = first.submit(steps=3)
    wait_for(lambda: gate.steps)
    first.close()

    second = workshop()
    again = second.ended(job)

    assert (again.state, again.restarted) == ("succeeded", 0)


def test_replica_when_lost_then_the_job_runs_again_once(workshop: Open, runner: LocalRunner) -> None:
    class Fragile(Gate):
        losses = 1

        def run(self, items: Any, report: Any, is_stopped: Any) -> Any:
            if self.losses:
                self.losses -= 1
                raise ReplicaLostError("gone")
            return super().run(items, report, is_stopped)

    fragile = Fragile(runner)
    fragile.is_open.set()
    shop = workshop(fragile)

    once = shop.ended(shop.submit())
    fragile.losses = 2
    twice = shop.ended(shop.submit())

    assert (once.state, once.restarted) == ("succeeded", 1)
    assert (twice.state, twice.restarted) == ("failed", 1)


def test_image_when_edited_again_then_by_the_replica_that_knows_it(
    workshop: Open, runner: LocalRunner
) -> None:
    shop = workshop(is_started=False, replicas=3)
    shop.dispatcher._free = [0, 1, 2]
    homes = {image: shop.dispatcher._choose(image) for image in ("a", "b", "c", "d", "e", "f")}

    assert len(set(homes.values())) > 1
    assert all(shop.dispatcher._choose(image) == home for image, home in homes.items())
    shop.dispatcher._free = [number for number in range(3) if number != homes["a"]]
    assert shop.dispatcher._choose("a") != homes["a"]
