"""Faults around jobs: damaged records, threads that fail, devices, other servers, clocks that are wrong."""

from __future__ import annotations

import os
import shutil
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch

from joyimage.serving.jobs import dispatcher as dispatcher_module
from joyimage.serving.jobs import files as files_module
from joyimage.serving.jobs import housekeeping as housekeeping_module
from joyimage.serving.jobs import loops as loops_module
from joyimage.serving.jobs import store as store_module
from joyimage.serving.jobs.completion import JobCompletion
from joyimage.serving.jobs.housekeeping import Housekeeping
from joyimage.serving.jobs.loops import GuardedLoop
from joyimage.serving.workers.protocol import WorkItem
from tests.serving.parts import (
    Gate,
    LiveServer,
    Workshop,
    create,
    ended,
    make_runner,
    make_task,
    png,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from joyimage.serving.workers.local import LocalRunner

    Open = Callable[..., Workshop]
    Serve = Callable[..., LiveServer]


class PanicError(BaseException):
    """What libraries in Rust raise."""


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "_TICK_S", 0.05)
    monkeypatch.setattr(loops_module, "_FIRST_PAUSE_S", 0.01)


@pytest.mark.parametrize("text", ['{"num_images": "x"}', '{"num_images": -1, "num_masks": [3]}', "[1]"])
def test_result_when_its_record_is_damaged_then_the_job_has_no_images_and_the_others_are_listed(
    serve: Serve, text: str
) -> None:
    server = serve()
    with server.client() as client:
        bad, good = (ended(client, create(client).json()) for _ in range(2))
        with server.service.store.database.write() as connection:
            connection.exec_driver_sql("UPDATE joyimage_jobs SET result = ? WHERE id = ?", (text, bad["id"]))
        listed = client.get("/v1/jobs")
        image = client.get(f"/v1/jobs/{bad['id']}/images/0")

    assert listed.status_code == 200
    images = {record["id"]: len(record["images"]) for record in listed.json()["data"]}
    assert images == {bad["id"]: 0, good["id"]: 1}
    assert image.status_code == 404


@pytest.mark.parametrize(
    "text",
    [
        "this is not JSON",
        "[1, 2]",
        "{}",
        '{"version": 1, "edit": {"kind": "edit"}}',
        '{"version": 2, "edit": {"kind": "edit", "prompt": "x"}, "num_inputs": 1}',
    ],
)
def test_record_when_damaged_then_its_job_fails_with_a_sentence_and_the_others_run(
    serve: Serve, runner: LocalRunner, text: str
) -> None:
    gate = Gate(runner)
    server = serve(gate)
    with server.client() as client:
        create(client)
        wait_for(lambda: gate.steps)
        bad, good = create(client).json(), create(client).json()
        with server.service.store.database.write() as connection:
            connection.exec_driver_sql("UPDATE joyimage_jobs SET task = ? WHERE id = ?", (text, bad["id"]))
        listed = client.get("/v1/jobs")
        gate.is_open.set()
        failed = ended(client, bad)
        assert ended(client, good)["state"] == "succeeded"
        assert client.get("/readyz").status_code == 200

    assert listed.status_code == 200
    assert len(listed.json()["data"]) == 3
    assert failed["state"] == "failed"
    assert failed["error"]["code"] == "unreadable_job"
    assert "submit the job again" in failed["error"]["message"]


@pytest.mark.parametrize("error", [KeyError("size"), PanicError("panic"), SystemExit(3)])
def test_loop_when_its_step_fails_then_it_continues_and_says_so_while_it_does(error: BaseException) -> None:
    stopped, is_broken, calls = threading.Event(), True, 0

    def step() -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.001)
        if is_broken:
            raise error

    loop = GuardedLoop("test", step, stopped)
    loop.start()
    problem = wait_for(lambda: loop.problem)
    is_broken = False
    wait_for(lambda: loop.problem is None)
    stopped.set()
    loop.join(10)

    assert problem == f"The test loop fails again and again ({type(error).__name__})."
    assert calls > 3


@pytest.mark.parametrize(
    "name",
    [
        "claim",
        "peek",
        "owners",
        "waiters",
        "fail_overdue",
        "remove_expired",
        "record_progress",
        "heartbeat",
        "unfinished_among",
        "ids",
    ],
)
def test_server_when_a_call_of_its_loops_fails_then_not_ready_and_when_it_works_again_jobs_run(
    name: str, serve: Serve, runner: LocalRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping_module, "_HEARTBEAT_S", 0)
    monkeypatch.setattr(housekeeping_module, "_PRUNE_S", 0)
    gate = Gate(runner)
    server = serve(gate)
    server.close()
    gate = Gate(runner)
    (folder := server.settings.data_dir / "jobs" / ("0" * 32)).mkdir()
    os.utime(folder, (0, 0))
    is_broken = name == "ids"  # called once, at the start
    plain = getattr(type(server.service.store), name)

    def call(*arguments: Any, **options: Any) -> Any:
        if is_broken and threading.current_thread().name in {"joyimage-dispatch", "joyimage-housekeeping"}:
            raise PanicError(name)
        return plain(*arguments, **options)

    monkeypatch.setattr(type(server.service.store), name, call)
    server = serve(gate)
    with server.client() as client:
        first = create(client, steps=3).json()
        wait_for(lambda: gate.steps)
        second = create(client).json()
        if name == "claim":  # not called while no pipeline is free
            gate.is_open.set()
        is_broken = True
        if name not in {"ids", "record_progress"}:  # not called again and again
            wait_for(lambda: client.get("/readyz").status_code == 503)
            assert client.get("/livez").status_code == 503
        is_broken = False
        gate.is_open.set()
        wait_for(lambda: client.get("/readyz").status_code == 200)
        assert [ended(client, job)["state"] for job in (first, second)] == ["succeeded", "succeeded"]


@pytest.mark.parametrize("where", ["run", "finish"])
def test_job_when_a_library_panics_then_it_fails_and_the_next_succeeds(
    where: str, workshop: Open, runner: LocalRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from joyimage.serving.workers.preparation import PreparedTask

    def panic(*_: Any) -> Any:
        raise PanicError("secret")

    shop = workshop()
    with monkeypatch.context() as patch:
        if where == "run":
            patch.setattr(runner, "run", panic)
        else:
            patch.setattr(PreparedTask, "finish", panic)
        failed = shop.ended(shop.submit())

    assert failed.error is not None
    assert failed.error["code"] == "internal_error"
    assert "secret" not in failed.error["message"]
    assert shop.ended(shop.submit()).state == "succeeded"


def test_model_when_it_makes_no_numbers_then_the_job_fails_with_a_sentence(
    workshop: Open, runner: LocalRunner
) -> None:
    shop = workshop()

    def spoil(_module: Any, _arguments: Any, output: Any) -> Any:
        return tuple(one * torch.nan for one in output) if isinstance(output, tuple) else output * torch.nan

    hook = runner.pipe.transformer.register_forward_hook(spoil)
    try:
        failed = shop.ended(shop.submit())
    finally:
        hook.remove()

    assert failed.error is not None
    assert failed.error["code"] == "invalid_result"
    assert "not finite" in failed.error["message"]
    assert shop.ended(shop.submit()).state == "succeeded"


def test_folder_when_removed_while_the_server_runs_then_made_again(
    workshop: Open, runner: LocalRunner, tmp_path: Path
) -> None:
    shop = workshop()
    shop.ended(shop.submit())
    shutil.rmtree(tmp_path / "jobs")

    job = shop.submit(image=png())

    assert shop.ended(job).state == "succeeded"
    assert (tmp_path / "jobs").stat().st_mode & 0o777 == 0o700


def test_inputs_when_their_job_ends_in_any_way_then_removed(workshop: Open, runner: LocalRunner) -> None:
    gate = Gate(runner)
    shop = workshop(gate, max_batch=1)
    running = shop.submit(image=png())
    wait_for(lambda: gate.steps)
    cancelled, bad = shop.submit(image=png(1)), shop.submit(image=png(2), region=[2, 2, 400, 400])
    shop.dispatcher.cancel(cancelled.id)
    gate.is_open.set()

    states = {job.id: shop.ended(job).state for job in (running, cancelled, bad)}

    assert list(states.values()) == ["succeeded", "cancelled", "failed"]
    wait_for(lambda: not list(shop.settings.data_dir.rglob("input-*")))
    wait_for(lambda: [path.name for path in (shop.settings.data_dir / "jobs").iterdir()] == [running.id])


def test_result_when_its_owner_deletes_it_then_files_are_gone_and_the_record_says_so(serve: Serve) -> None:
    key = "0123456789abcdef"
    server = serve(api_keys=f"anna:{key},bert:{key}x")
    with server.client(key) as anna, server.client(f"{key}x") as bert:
        job = ended(anna, create(anna).json())
        assert bert.delete(f"/v1/jobs/{job['id']}").status_code == 404
        assert anna.get(f"/v1/jobs/{job['id']}/images/0").status_code == 200
        deleted = anna.delete(f"/v1/jobs/{job['id']}").json()
        gone = [anna.get(f"/v1/jobs/{job['id']}/images/0"), anna.get(job["images"][0])]

    assert (deleted["state"], deleted["images"]) == ("succeeded", [])
    assert [answer.status_code for answer in gone] == [410, 410]
    assert not (server.settings.data_dir / "jobs" / job["id"]).exists()
    assert server.service.store.get(job["id"]).stored_bytes == 0


@pytest.mark.parametrize("hours", [25, -25])
def test_clock_when_wrong_at_a_start_then_nothing_expires_and_jobs_that_waited_run(
    hours: int, workshop: Open, runner: LocalRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(runner)
    first = workshop(gate, keep_s=3600, queue_timeout_s=600, shutdown_grace_s=0.05)
    gate.is_open.set()
    done = first.ended(first.submit())
    gate.is_open.clear()
    first.submit(steps=50)
    wait_for(lambda: gate.steps > 2)
    waiting = first.submit()
    first.close()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + hours * 3600)

    second = workshop(keep_s=3600, queue_timeout_s=600)
    found = second.ended(waiting)

    assert found.state == "succeeded", found.error
    assert second.store.get(done.id) is not None
    assert second.has(done, "output-0")


def test_folder_when_another_database_is_used_with_it_then_its_results_stay(
    workshop: Open, tmp_path: Path
) -> None:
    first = workshop()
    done = first.ended(first.submit())
    first.close()
    os.utime(tmp_path / "jobs" / done.id, (0, 0))

    for _ in range(2):  # the first start binds a new folder, the next one cleans up
        other = workshop(database=f"sqlite:///{tmp_path / 'other.sqlite3'}")
        other.ended(other.submit(steps=1))
        wait_for(lambda other=other: other.dispatcher._housekeeping._orphans is None)
        other.close()
    again = workshop()
    wait_for(lambda: again.dispatcher._housekeeping._orphans is None)

    assert again.has(done, "output-0")


def test_orphans_when_a_killed_server_left_them_then_removed_at_the_next_start(
    workshop: Open, tmp_path: Path
) -> None:
    workshop().close()
    old, young = (tmp_path / "jobs" / (letter * 32) for letter in "ab")
    for folder in (old, young):
        folder.mkdir()
        (folder / "input-0").write_bytes(b"x")
    os.utime(old, (0, 0))

    workshop()

    wait_for(lambda: not old.exists())
    assert young.exists()


def test_orphans_and_expired_jobs_when_there_are_many_then_jobs_are_watched_in_between(
    workshop: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "_AT_ONCE", 2)
    monkeypatch.setattr(store_module, "_AT_ONCE", 2)
    monkeypatch.setattr(housekeeping_module, "_LONGEST_REMOVAL_S", 0.0)
    workshop().close()  # the first start binds the folder to its database
    orphans = [tmp_path / "jobs" / f"{number:032x}" for number in range(5)]
    for folder in orphans:
        folder.mkdir()
        os.utime(folder, (0, 0))
    shop = workshop(is_started=False, keep_s=1e-9)
    counts: list[tuple[int, int]] = []

    def watch() -> None:
        counts.append((sum(folder.exists() for folder in orphans), len(shop.store.list())))

    housekeeping = Housekeeping(
        shop.settings,
        shop.store,
        shop.files,
        shop.events,
        shop.liveness,
        JobCompletion(shop.store, shop.files, shop.events, shop.metrics, "me"),
        lambda: None,
        watch,
    )
    housekeeping.begin()
    for _ in range(5):
        shop.dispatcher.cancel(shop.submit().id)
    for _ in range(4):
        housekeeping.step()

    assert counts == [(5, 5), (3, 3), (1, 1), (0, 0)]


def test_description_when_stopped_then_it_ends_at_the_next_token(runner: LocalRunner) -> None:
    task = make_task("describe", num_inputs=1, question="What?", max_new_tokens=1024)
    from tests.serving.parts import opened

    item = WorkItem(task=task, prompt="", images=(opened(png()).convert("RGB"),))
    asked = 0

    def is_stopped() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2

    assert runner.run([item], lambda *_: None, is_stopped) is None
    assert asked == 3
    assert runner.run([item], lambda *_: None, lambda: False) is not None  # the hook is gone


def test_job_when_cancelled_while_a_device_call_hangs_then_it_ends_at_once(
    workshop: Open, runner: LocalRunner
) -> None:
    released, hanging = threading.Event(), threading.Event()

    class Hanging(Gate):
        def run(self, items: Any, report: Any, is_stopped: Any) -> Any:
            hanging.set()
            released.wait(60)

    shop = workshop(Hanging(runner))
    job = shop.submit()
    wait_for(hanging.is_set)
    shop.dispatcher.cancel(job.id)

    cancelled = shop.ended(job)
    released.set()

    assert cancelled.state == "cancelled"


def test_image_when_another_client_sent_it_before_then_nothing_tells_that(serve: Serve) -> None:
    key = "0123456789abcdef"
    server = serve(api_keys=f"anna:{key},bert:{key}x")
    with server.client(key) as anna, server.client(f"{key}x") as bert:

        def edit(client: Any) -> bool:
            answer = client.post("/v1/images/edits", data={"prompt": "x"}, files=[("image", png(77))])
            return answer.json()["reused"]

        assert [edit(client) for client in (anna, bert, anna, bert)] == [False, False, True, True]


def test_job_when_another_server_runs_it_then_its_followers_here_see_it_run_and_nothing_is_kept(
    serve: Serve, runner: LocalRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping_module, "_PRUNE_S", 0)
    busy, other = Gate(runner), Gate(make_runner())  # a pipeline runs one call at a time
    here = serve(busy)
    with here.client() as client:
        mine = create(client).json()
        wait_for(lambda: busy.steps)
        there = serve(other)  # on the same database and folder
        job = create(client, steps=3).json()
        seen: list[str] = []
        with client.stream("GET", f"/v1/jobs/{job['id']}/events", timeout=30) as events:
            for line in events.iter_lines():
                if line.startswith("event: "):
                    seen.append(line.removeprefix("event: "))
                    if seen[-1] == "running":
                        other.is_open.set()
        record = client.get(f"/v1/jobs/{job['id']}").json()
        wait_for(lambda: job["id"] not in here.service.events._logs)
        busy.is_open.set()
        ended(client, mine)
    there.close()

    assert (seen[0], seen[-1]) == ("queued", "succeeded")
    assert "running" in seen
    assert record["images"]
    assert not list((here.settings.data_dir / "servers").glob(f"{there.service._liveness.name}*"))


def test_job_when_another_server_is_asked_to_cancel_it_then_it_ends_and_no_server_keeps_its_id(
    serve: Serve, runner: LocalRunner
) -> None:
    gate = Gate(runner)
    here = serve(gate)
    with here.client() as client:
        job = create(client, steps=50).json()
        wait_for(lambda: gate.steps)
        there = serve(Gate(runner))
        with there.client() as other:
            assert other.delete(f"/v1/jobs/{job['id']}").status_code == 200
            assert ended(other, job)["state"] == "cancelled"

    for server in (here, there):
        completion = server.service.dispatcher._completion
        wait_for(lambda one=completion: not one._running)
        assert not completion._cancelled


def test_locks_when_servers_were_killed_then_removed_at_the_next_start(
    workshop: Open, tmp_path: Path
) -> None:
    folder = tmp_path / "servers"
    folder.mkdir()
    for number in range(3):
        (folder / f"killed-{number}.lock").touch()
    alive = workshop()

    workshop().close()

    assert [path.stem for path in folder.iterdir()] == [alive.liveness.name]
