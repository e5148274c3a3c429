"""What may befall a server around a job: clients that leave or dawdle, full disks, clocks that jump."""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
import sqlite3
import tempfile
import time
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from sqlalchemy import event

from joyimage.serving.jobs import dispatcher as dispatcher_module
from tests.serving.parts import Gate, LiveServer, create, ended, png, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from joyimage.serving.workers.local import LocalRunner

    Serve = Callable[..., LiveServer]


def _ask_and_leave(server: LiveServer, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
    """Send a request and close the connection as soon as the server has a job of it, however long that takes."""
    url = httpx2.URL(server.url)
    connection = http.client.HTTPConnection(url.host, url.port)
    content_type = {"Content-Type": "application/json"}
    connection.request(
        "POST", "/v1/images/generations", json.dumps(body), {**content_type, **(headers or {})}
    )
    wait_for(server.service.store.list)
    connection.close()


def test_client_when_it_goes_away_then_its_edit_ends(serve: Serve, runner: LocalRunner) -> None:
    gate = Gate(runner)
    server = serve(gate)
    _ask_and_leave(server, {"prompt": "x", "steps": 50})

    job = wait_for(lambda: [job for job in server.service.store.list() if job.is_finished])[0]

    assert job.state == "cancelled"
    assert gate.steps <= 2


def test_client_when_it_goes_away_and_its_edit_has_a_key_then_it_can_come_back_for_it(
    serve: Serve, runner: LocalRunner
) -> None:
    gate = Gate(runner)
    server = serve(gate)
    ask: dict[str, Any] = {"json": {"prompt": "x"}, "headers": {"Idempotency-Key": "k"}}
    with server.client() as client:
        _ask_and_leave(server, ask["json"], ask["headers"])
        gate.is_open.set()
        answer = client.post("/v1/images/generations", **ask)

    assert answer.status_code == 200, answer.text
    assert gate.batches == [1]


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_client_when_it_goes_away_while_it_sends_then_that_is_no_mistake_of_the_server(
    serve: Serve, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    server = serve()
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: 999\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as leaving:
        leaving.sendall(head.encode() + b"--x\r\n")

    with server.client() as client:
        page = wait_for(lambda: (text := client.get("/metrics").text).find('"/v1/jobs"') >= 0 and text)

    assert 'joyimage_http_requests_total{method="POST",route="/v1/jobs",status="499"} 1.0' in page
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_stream_when_its_client_goes_away_then_its_edit_ends(serve: Serve, runner: LocalRunner) -> None:
    gate = Gate(runner)
    server = serve(gate)
    body = {"prompt": "x", "steps": 50, "stream": True}
    with server.client() as client:
        with client.stream("POST", "/v1/images/generations", json=body):
            wait_for(lambda: gate.steps)

        job = wait_for(lambda: [job for job in server.service.store.list() if job.is_finished])[0]

    assert job.state == "cancelled"


def test_clock_when_set_forward_or_back_then_nothing_expires_and_jobs_run(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_module, "_TICK_S", 0.05)
    server = serve(keep_s=60, queue_timeout_s=30, job_timeout_s=30)
    store = server.service.store
    rounds: list[list[str]] = []
    remove = store.remove_expired
    monkeypatch.setattr(store, "remove_expired", lambda: rounds.append(remove()) or rounds[-1])
    with server.client() as client:
        first = ended(client, create(client).json())
        real = time.time
        for jump in (10 * 86400, -10 * 86400):
            monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
            job = ended(client, create(client).json())
            before = len(rounds)
            wait_for(lambda before=before: len(rounds) > before + 1)  # what has expired has been looked for
            assert job["state"] == "succeeded"
            assert client.get(f"/v1/jobs/{first['id']}/images/0").status_code == 200
            assert client.get(job["images"][0]).status_code == 200


def test_server_when_on_postgresql_then_jobs_and_results_are_there_after_a_restart(
    serve: Serve, tmp_path: Path, postgres_url: str
) -> None:
    first = serve(database=postgres_url)
    with first.client() as client:
        job = ended(client, create(client, key="k").json())
        image = client.get(f"/v1/jobs/{job['id']}/images/0").content
    first.close()

    second = serve(database=postgres_url)
    with second.client() as client:
        assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "succeeded"
        assert client.get(f"/v1/jobs/{job['id']}/images/0").content == image
        assert create(client, key="k").json()["id"] == job["id"]
    assert not list(tmp_path.glob("*.sqlite3"))


def test_disk_when_full_at_the_upload_then_503_to_come_back_to_and_no_record(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()

    def reject(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with server.client() as client:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", reject)
            answer = client.post("/v1/jobs", data={"prompt": "x"}, files=[("image", png())])
        listed = client.get("/v1/jobs").json()["data"]
        again = client.post("/v1/jobs", data={"prompt": "x", "steps": "1"}, files=[("image", png())])
        assert ended(client, again.json())["state"] == "succeeded"

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "storage_full"
    assert int(answer.headers["retry-after"]) >= 1
    assert listed == []
    assert [folder.name for folder in (server.settings.data_dir / "jobs").iterdir()] == [again.json()["id"]]


def test_disk_when_full_while_a_form_arrives_then_503_to_come_back_to(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()

    def reject(_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with server.client() as client:
        monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", reject)
        answer = client.post("/v1/jobs", data={"prompt": "x"}, files=[("image", bytes(2_000_000))])

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "storage_full"
    assert int(answer.headers["retry-after"]) >= 1


def test_database_when_its_disk_is_full_then_503_and_jobs_that_run_end_when_there_is_room(
    serve: Serve, runner: LocalRunner
) -> None:
    gate = Gate(runner)
    server = serve(gate)
    connections = server.service.store.database.engine
    with server.client() as client:
        job = create(client, steps=2).json()
        wait_for(lambda: gate.steps)
        is_full = True

        def reject(*_: Any) -> None:
            if is_full:
                raise sqlite3.OperationalError("database or disk is full")

        event.listen(connections, "before_cursor_execute", reject)
        rejected = create(client)
        gate.is_open.set()
        wait_for(lambda: server.service.dispatcher._completion._unsettled)
        is_full = False

        assert ended(client, job)["state"] == "succeeded"
        event.remove(connections, "before_cursor_execute", reject)

    assert rejected.status_code == 503
    assert rejected.json()["error"]["code"] == "database"


def test_stream_when_its_reader_is_slow_then_others_are_served_and_the_reader_gets_all(
    serve: Serve, runner: LocalRunner
) -> None:
    server = serve()
    host, port = server.url.removeprefix("http://").split(":")
    with server.client() as client, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        slow.connect((host, int(port)))
        slow.settimeout(30)
        job = create(client, steps=60).json()
        path = f"/v1/jobs/{job['id']}/events"
        slow.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        assert ended(client, job)["state"] == "succeeded"  # while nothing is read
        assert ended(client, create(client, steps=1).json())["state"] == "succeeded"
        answer = b""
        while part := slow.recv(65536):
            answer += part

    assert answer.count(b"event: progress") >= 1
    assert answer.count(b"event: succeeded") == 1


def test_results_when_their_time_is_over_then_gone_with_their_record(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_module, "_TICK_S", 0.05)
    server = serve(keep_s=0.2)
    with server.client() as client:
        job = create(client).json()
        folder = server.settings.data_dir / "jobs" / job["id"]
        wait_for(lambda: client.get(f"/v1/jobs/{job['id']}").status_code == 404)

    wait_for(lambda: not folder.exists())


def test_server_when_the_model_can_not_be_loaded_then_alive_but_not_ready(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from starlette.testclient import TestClient

    from joyimage.serving.app import create_app
    from tests.serving.parts import make_settings

    settings = make_settings(tmp_path, model=str(tmp_path / "nothing"), allowed_hosts=("testserver",))
    with TestClient(create_app(settings)) as client:
        service = client.app.state.service  # type: ignore[attr-defined]
        wait_for(lambda: service.dispatcher.problem)
        assert client.get("/healthz").status_code == 200
        answers = [client.get("/readyz"), client.post("/v1/images/generations", json={"prompt": "x"})]

    for answer in answers:
        assert answer.status_code == 503
        assert "cannot be loaded" in answer.json()["error"]["message"]
    logged = [one for one in caplog.records if "cannot be loaded" in one.getMessage()]
    assert [one.exc_info for one in logged[:1]] == [None]  # the message says all; a traceback is for bugs
