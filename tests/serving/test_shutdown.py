"""How a server ends: in order, with a device that is broken or hangs, or before it has begun."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from joyimage.cli.commands.serve import run_server
from joyimage.cli.main import main
from joyimage.serving import app
from joyimage.serving.jobs import dispatcher as dispatcher_module
from joyimage.serving.jobs.clock import SteadyClock
from joyimage.serving.jobs.store import JobStore
from tests.serving.parts import Gate, LiveServer, Workshop, create, make_settings, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx2

    from joyimage.serving.workers.local import LocalRunner

    Serve = Callable[..., LiveServer]

GENERATIONS = "/v1/images/generations"


def states(folder: Path) -> dict[str, str]:
    """The state of every job in a folder's database, by its prompt."""
    store = JobStore(make_settings(folder).database_url, SteadyClock(), 100)
    found = {job.task["edit"]["prompt"]: job.state for job in store.list()}
    store.close()
    return found


def test_server_when_stopped_then_running_edits_are_answered_and_waiting_ones_told_to_come_back(
    serve: Serve, runner: LocalRunner, tmp_path: Path
) -> None:
    gate = Gate(runner)
    server = serve(gate, shutdown_grace_s=30, max_batch=1)

    def ask(client: httpx2.Client, prompt: str) -> httpx2.Response:
        return client.post(GENERATIONS, json={"prompt": prompt})

    with server.client() as client, ThreadPoolExecutor(2) as pool:
        running = pool.submit(ask, client, "running")
        wait_for(lambda: gate.steps)
        waiting = pool.submit(ask, client, "waiting")
        wait_for(lambda: server.service.store.counts()["queued"] == 1)
        create(client, prompt="later")
        server.begin_close()
        rejected = waiting.result(30)
        gate.is_open.set()
        answered = running.result(30)
    server.close()

    assert answered.status_code == 200
    assert (rejected.status_code, rejected.json()["error"]["code"]) == (503, "server_stopped")
    assert int(rejected.headers["retry-after"]) >= 1
    assert gate.batches == [1]
    assert states(tmp_path) == {"running": "succeeded", "waiting": "failed", "later": "queued"}


def test_server_when_its_grace_time_is_over_then_an_awaited_edit_ends_and_is_not_run_again(
    serve: Serve, runner: LocalRunner, tmp_path: Path
) -> None:
    gate = Gate(runner)
    server = serve(gate, shutdown_grace_s=0.2)
    with server.client() as client, ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.post, GENERATIONS, json={"prompt": "running"})
        wait_for(lambda: gate.steps)
        server.begin_close()
        answer = running.result(30)
    server.close()

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_stopped")
    assert states(tmp_path) == {"running": "failed"}


def test_server_when_it_stops_while_a_device_call_hangs_then_it_ends_and_the_job_waits_again(
    workshop: Callable[..., Workshop], runner: LocalRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_module, "_LEAVING_S", 0.1)
    hanging, released = threading.Event(), threading.Event()

    class Hanging(Gate):
        def run(self, items: Any, report: Any, is_stopped: Any) -> Any:
            hanging.set()
            released.wait(60)

    shop = workshop(Hanging(runner), shutdown_grace_s=0.05)
    job = shop.submit()
    wait_for(hanging.is_set)

    shop.dispatcher.stop()
    is_stuck, found = shop.dispatcher.is_stuck, shop.store.get(job.id)
    released.set()
    wait_for(lambda: not shop.dispatcher.is_stuck)

    assert is_stuck
    assert found is not None
    assert (found.state, found.restarted) == ("queued", 0)


def test_server_when_interrupted_again_then_running_edits_end_at_once_and_clients_are_told(
    serve: Serve, runner: LocalRunner, tmp_path: Path
) -> None:
    gate = Gate(runner)
    server = serve(gate, shutdown_grace_s=600, max_batch=1)
    with server.client() as client, ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.post, GENERATIONS, json={"prompt": "awaited"})
        wait_for(lambda: gate.steps)
        create(client, prompt="later")
        server.press_interrupt()
        wait_for(lambda: server.service.dispatcher.is_stopping)
        server.press_interrupt()
        answer = running.result(30)
    server.close()

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_stopped")
    assert states(tmp_path) == {"awaited": "failed", "later": "queued"}


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signal")
def test_server_when_its_terminal_is_closed_then_it_stops_in_order_and_its_jobs_wait(
    runner: LocalRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(runner)
    monkeypatch.setattr(app, "load_runner", lambda *_: gate)
    monkeypatch.setattr(
        signal, "getsignal", lambda _: signal.SIG_DFL
    )  # whatever runs the tests may ignore it

    def hang_up(url: str) -> None:
        import httpx2

        with httpx2.Client(base_url=url, timeout=30) as client:
            wait_for(lambda: client.get("/healthz").json()["is_ready"])
            client.post("/v1/jobs", json={"kind": "generate", "prompt": "running"})
            wait_for(lambda: gate.steps)
        os.kill(os.getpid(), signal.SIGHUP)

    def listening_on(url: str) -> None:
        threading.Thread(target=hang_up, args=(url,)).start()

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run_server(make_settings(tmp_path, shutdown_grace_s=0.2), listening_on=listening_on)
        assert signal.signal(signal.SIGHUP, before) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)

    store = JobStore(make_settings(tmp_path).database_url, SteadyClock(), 100)
    (job,) = store.list()
    store.close()
    assert (job.state, job.restarted) == ("queued", 0)


def test_device_when_it_fails_then_jobs_wait_for_the_next_start_and_the_process_ends_with_1(
    runner: LocalRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    hook = runner.pipe.transformer.register_forward_pre_hook(fail)
    monkeypatch.setattr(app, "load_runner", lambda *_: runner)
    settings = make_settings(tmp_path, max_batch=1)

    def fill(url: str) -> None:
        import httpx2

        with httpx2.Client(base_url=url, timeout=30) as client:
            wait_for(lambda: client.get("/healthz").json()["is_ready"])
            for number in range(3):
                client.post("/v1/jobs", json={"kind": "generate", "prompt": str(number)})

    def listening_on(url: str) -> None:
        # Its claims begin when all jobs are there.
        filling.append(threading.Thread(target=fill, args=(url,)))
        filling[0].start()

    filling: list[threading.Thread] = []
    claim = JobStore.claim

    def claim_later(self: JobStore, *arguments: Any) -> Any:
        return claim(self, *arguments) if self.counts()["queued"] == 3 else []

    monkeypatch.setattr(JobStore, "claim", claim_later)

    try:
        with pytest.raises(SystemExit) as ended:
            run_server(settings, listening_on=listening_on)
    finally:
        hook.remove()
    filling[0].join()

    assert ended.value.code == 1
    assert states(tmp_path) == {"0": "queued", "1": "queued", "2": "queued"}


def test_device_when_a_call_hangs_after_the_time_limit_then_the_job_has_ended_and_the_server_asks_for_its_end(
    workshop: Callable[..., Workshop], runner: LocalRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_module, "_TICK_S", 0.05)
    released = threading.Event()

    class Hanging(Gate):
        def run(self, items: Any, report: Any, is_stopped: Any) -> Any:
            released.wait(60)

    shop = workshop(Hanging(runner), job_timeout_s=0.1, hang_timeout_s=0.3)
    waiting = [shop.submit(), shop.submit()]

    first = shop.ended(waiting[0])
    wait_for(lambda: shop.fatal)
    problem, fatal_problem = shop.dispatcher.problem, shop.dispatcher.fatal_problem
    second = shop.store.get(waiting[1].id)
    released.set()

    assert first.error is not None
    assert first.error["code"] == "job_timeout"
    assert second is not None
    assert second.state == "queued"
    assert problem == fatal_problem == shop.fatal[0]
    assert "hangs" in shop.fatal[0]


def test_serve_when_the_database_is_no_database_then_one_line_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jobs.sqlite3").write_bytes(b"this is no database at all" * 100)

    code = main(["serve", "--model", "tiny", "--data-dir", str(tmp_path), "--port", "0"])

    printed = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert len(printed) == 2  # that it starts, and why it does not
    assert "cannot be opened: file is not a database" in printed[-1]


def test_model_when_it_cannot_be_loaded_at_first_then_tried_again(
    runner: LocalRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_module, "_FIRST_RELOAD_S", 0.05)
    shop = Workshop(tmp_path, runner, is_started=False)
    failed = threading.Event()

    def load(_: int) -> LocalRunner:
        if not failed.is_set():
            failed.set()
            raise OSError("the hub is away")
        return runner

    shop.dispatcher.start(load)

    assert shop.ended(shop.submit()).state == "succeeded"
    assert failed.is_set()
    wait_for(lambda: shop.dispatcher.problem is None)
    shop.close()
