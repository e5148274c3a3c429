"""Replicas on Ray Serve: the same answers, sticky by image, and a dead replica loses no job."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.serving.parts import (
    SIDE,
    LiveServer,
    find_descendants,
    make_settings,
    make_task,
    opened,
    png,
    run_on,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, Any]]:
    """A server with up to two replicas of the tiny model on Ray."""
    from joyimage.serving.workers.ray_serve import RayReplicas

    folder = tmp_path_factory.mktemp("ray")
    settings = make_settings(
        folder, model="tiny", device="cpu", base_size=SIDE, replicas=2, max_batch=1, shutdown_grace_s=1
    )
    replicas = RayReplicas(settings)
    server = LiveServer(settings, None, replicas.load)
    yield server, replicas
    server.close()
    replicas.close()


def test_replica_when_made_then_it_is_told_every_setting_that_loading_reads() -> None:
    from joyimage.serving.workers import loading
    from joyimage.serving.workers.ray_serve import MODEL_SETTINGS

    read = set(re.findall(r"settings\.([a-z]\w*)\b(?!\()", inspect.getsource(loading)))
    read -= {"model_fields_set", "replicas"}  # the server's own: how many of them it starts

    assert {"offload", "quantize", "transformer"} <= read
    assert read == set(MODEL_SETTINGS)


@pytest.mark.timeout(600)
def test_edits_when_on_ray_then_as_here_with_progress_and_cancel(scaled: tuple[LiveServer, Any]) -> None:
    from joyimage.serving.workers.loading import load_runner

    server, _ = scaled
    seen: list[Any] = []
    from joyimage.client import Client, ServerError

    with Client(server.url, timeout_s=200) as client:
        made = client.edit(png(1), "red", seed=1, steps=3, progress=seen.append)[0]
        with pytest.raises(ServerError, match="was cancelled"):
            client.generate(
                "x",
                steps=100,
                progress=lambda progress: (
                    progress.step == 1 and client.cancel(server.service.store.list()[0].id)
                ),
            )

    local = load_runner(make_settings(server.settings.data_dir, model="tiny", device="cpu", base_size=SIDE))
    task = make_task(kind="edit", prompt="red", seed=1, steps=3, guidance=local.info.guidance, num_inputs=1)
    here = run_on(local, (task, png(1)))
    difference = np.asarray(opened(made), dtype=int) - np.asarray(opened(here[0].images[0]), dtype=int)
    assert np.abs(difference).max() <= 1
    assert [one.step for one in seen if one.step] == [1, 2, 3]


def test_ray_when_started_here_then_it_listens_on_loopback_only(scaled: tuple[LiveServer, Any]) -> None:
    ours = set()
    for number in find_descendants():
        for link in Path(f"/proc/{number}/fd").glob("*"):
            with contextlib.suppress(OSError):  # it has just been closed
                ours.add(str(link.readlink()))

    # sl, local address, remote address, state (0A: it listens), ..., inode at place 9
    tables = [Path(f"/proc/net/{name}").read_text(encoding="ascii") for name in ("tcp", "tcp6")]
    sockets = [line.split() for table in tables for line in table.splitlines()]
    listening = [
        one[1].partition(":")[0] for one in sockets if one[3] == "0A" and f"socket:[{one[9]}]" in ours
    ]

    assert len(listening) > 5
    assert set(listening) <= {"0100007F", "0" * 16 + "FFFF00000100007F", "0" * 24 + "01000000"}


@pytest.mark.timeout(600)
def test_job_when_cancelled_before_a_replica_is_free_then_it_ends_at_once(
    scaled: tuple[LiveServer, Any],
) -> None:
    server, _ = scaled
    long = {"kind": "generate", "prompt": "x", "steps": 100, "n": 10}
    with server.client() as client:
        jobs = [client.post("/v1/jobs", json=long).json() for _ in range(2)]

        def states() -> list[str]:
            return [client.get(f"/v1/jobs/{job['id']}").json()["state"] for job in jobs]

        wait_for(lambda: states() == ["running"] * 2)
        wait_for(lambda: any(server.service.dispatcher.progress(job["id"]) for job in jobs))
        # With one replica, that which waits for it; with two, both have begun.
        jobs.sort(key=lambda job: server.service.dispatcher.progress(job["id"]) is None)
        client.delete(f"/v1/jobs/{jobs[1]['id']}")
        wait_for(lambda: states() == ["running", "cancelled"])
        client.delete(f"/v1/jobs/{jobs[0]['id']}")
        wait_for(lambda: states() == ["cancelled"] * 2)


@pytest.mark.timeout(600)
def test_image_when_edited_again_on_ray_then_not_read_again_and_bitwise_the_same(
    scaled: tuple[LiveServer, Any],
) -> None:
    from joyimage.client import Client

    server, _ = scaled
    with Client(server.url, timeout_s=200) as client:
        jobs = [
            client.run("edit", [png(image)], prompt=prompt, seed=1, steps=2)
            for image, prompt in ((5, "red"), (6, "red"), (5, "blue"), (5, "red"))
        ]
        files = [client.images(job)[0] for job in jobs]

    assert [(server.service.store.get(job.id).result or {})["reused"] for job in jobs] == [
        *(False, False),
        *(True, True),
    ]
    assert files[0] == files[3]
    assert files[0] != files[2]


def num_replicas() -> int:
    from ray import serve

    states = serve.status().applications["joyimage"].deployments["EditReplica"].replica_states
    return sum(number for state, number in states.items() if state == "RUNNING")


def submit(client: Any, number: int) -> list[str]:
    """Queue jobs that take a while."""
    request = {"kind": "generate", "prompt": "x", "steps": 100}
    return [client.post("/v1/jobs", json={**request, "seed": seed}).json()["id"] for seed in range(number)]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_images_when_jobs_that_wait_have_called_a_second_replica_then_each_is_known_by_its_own(
    scaled: tuple[LiveServer, Any],
) -> None:
    from joyimage.client import Client

    server, _ = scaled
    with server.client() as waiting, Client(server.url, timeout_s=200) as client:
        jobs = submit(waiting, 12)
        wait_for(lambda: num_replicas() == 2, 120)
        for job in jobs:
            wait_for(lambda job=job: client.get(job).is_finished, 120)

        def reused() -> list[bool]:
            edits = [client.run("edit", [png(number)], prompt="red", steps=1) for number in range(20, 28)]
            return [(server.service.store.get(edit.id).result or {})["reused"] for edit in edits]

        assert reused() == [False] * 8
        assert reused() == [True] * 8  # by chance one time in 256


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_replica_when_killed_in_the_middle_then_no_job_is_lost(scaled: tuple[LiveServer, Any]) -> None:
    server, replicas = scaled
    pid = next(iter(replicas.pids()))
    with server.client() as client:

        def both_are_busy() -> bool:
            steps = [server.service.dispatcher.progress(job) for job in jobs]
            return sum(step is not None and step[0] < 50 for step in steps) == 2

        jobs = submit(client, 12)
        wait_for(lambda: num_replicas() == 2, 120)  # as many as jobs that wait call for
        jobs += submit(client, 12)  # the first may be done: a model takes its time to load
        wait_for(both_are_busy, 120)
        os.kill(pid, signal.SIGKILL)

        def all_ended() -> Any:
            records = [client.get(f"/v1/jobs/{job}").json() for job in jobs]
            return all(record["state"] in {"succeeded", "failed"} for record in records) and records

        records = wait_for(all_ended, 400)

    assert [record["state"] for record in records] == ["succeeded"] * 24
    assert sum(record["restarted"] for record in records) == 1
