"""What operators see: ids of requests, logs, metrics, readiness."""

from __future__ import annotations

import json
import logging
import socket
from typing import TYPE_CHECKING

import pytest

from joyimage.serving.logs import REQUEST_ID, configure_logging
from joyimage.serving.workers.protocol import DeviceFailedError
from tests.serving.parts import Gate, LiveServer, create, ended, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from joyimage.serving.workers.local import LocalRunner

    Serve = Callable[..., LiveServer]

KEY = "0123456789abcdef"


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """Returns what was logged on stderr since `configure_logging` ran."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield lambda: capsys.readouterr().err
    root.handlers[:] = before
    root.setLevel(level)


def test_request_when_answered_then_with_an_id_that_the_client_may_choose(server: LiveServer) -> None:
    with server.client() as client:
        made = client.get("/healthz").headers["x-request-id"]
        other = client.get("/nowhere").headers["x-request-id"]
        own = client.get("/healthz", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"]
        odd = client.get("/healthz", headers={"X-Request-Id": 'a"b c'}).headers["x-request-id"]

    assert len({made, other, odd, "mine-1"}) == 4
    assert own == "mine-1"


def test_log_when_as_json_then_each_line_has_id_and_client_and_neither_key_nor_prompt(
    log: Callable[[], str], serve: Serve
) -> None:
    configure_logging(verbose=True, as_json=True)
    server = serve(api_keys=f"anna:{KEY}")
    with server.client(KEY) as client:
        body = {"prompt": "a secret prompt"}
        answer = client.post("/v1/images/generations", json=body, headers={"X-Request-Id": "mine-1"})

    text = ""

    def find_line() -> dict[str, str] | None:
        nonlocal text
        text += log()
        lines = [json.loads(line) for line in text.splitlines()]
        return next((one for one in lines if one["request_id"] == "mine-1"), None)

    line = wait_for(find_line)  # written when the answer has been sent
    assert answer.status_code == 200
    assert line["message"].startswith("anna POST /v1/images/generations 200 ")
    assert {"time", "level", "logger"} <= set(line)
    assert "secret prompt" not in text
    assert KEY not in text


def test_log_when_the_same_error_comes_again_and_again_then_one_traceback_and_later_how_many_more(
    log: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    configure_logging()
    token = REQUEST_ID.set("mine-1")
    logger = logging.getLogger("joyimage.test")

    def fail(kind: type[Exception]) -> None:
        try:
            raise kind("x")
        except kind:
            logger.exception("Job %s failed.", "x")

    for _ in range(50):
        fail(ValueError)
    fail(KeyError)  # another one is no repetition
    now += 61
    fail(ValueError)
    REQUEST_ID.reset(token)

    text = log()
    assert text.count("Traceback") == 3
    assert "[mine-1] Job x failed." in text
    assert "(49 more like this since the last one)" in text


def test_log_when_strangers_send_what_is_not_http_then_one_line_and_not_one_for_each(
    server: LiveServer, log: Callable[[], str]
) -> None:
    configure_logging()
    address = server.url.removeprefix("http://").split(":")

    for line in (b"nonsense\r\n\r\n", b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"):
        for _ in range(5):
            with socket.create_connection((address[0], int(address[1])), timeout=10) as connection:
                connection.sendall(line + b"Connection: Upgrade, close\r\n\r\n")
                connection.makefile("rb").read()

    assert len(log().splitlines()) == 1


def test_log_when_a_job_fails_then_it_names_the_job(
    serve: Serve, runner: LocalRunner, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Gate):
        def run(self, items: object, report: object, is_stopped: object) -> object:
            raise ZeroDivisionError

    server = serve(Failing(runner))
    with server.client() as client:
        job = ended(client, create(client).json())

    assert job["state"] == "failed"
    assert f"Job {job['id']} failed." in caplog.text


def test_metrics_when_methods_are_invented_then_no_series_for_each(serve: Serve) -> None:
    server = serve()
    host, port = server.url.removeprefix("http://").split(":")
    for number in range(5):
        with socket.create_connection((host, int(port)), timeout=10) as sender:
            sender.sendall(f"FOO{number} /x{number} HTTP/1.1\r\nHost: evil\r\n\r\n".encode())
            assert b" 400 " in sender.recv(4096)
    with server.client() as client:
        page = client.get("/metrics").text

    assert "FOO" not in page
    assert 'joyimage_http_requests_total{method="other",route="other",status="400"} 5.0' in page


def test_metrics_when_jobs_ran_failed_and_wait_then_seconds_ages_and_versions(
    serve: Serve, runner: LocalRunner
) -> None:
    gate = Gate(runner)
    server = serve(gate, max_batch=1)
    with server.client() as client:
        first = create(client).json()
        wait_for(lambda: gate.steps)
        create(client)
        # The database's column keeps fractions of a second.
        age = wait_for(lambda: _value(client.get("/metrics").text, "joyimage_oldest_job_seconds"))
        client.delete(f"/v1/jobs/{first['id']}")
        gate.is_open.set()
        ended(client, first)
        page = wait_for(
            lambda: (
                (text := client.get("/metrics").text).find('run_seconds_count{kind="generate"} 2.0') > 0
                and text
            )
        )

    assert age > 0
    assert _value(page, 'joyimage_http_request_seconds_count{method="POST",route="/v1/jobs"}') == 2
    assert "joyimage_build_info{version=" in page
    assert "process_resident_memory_bytes" in page


def _value(page: str, name: str) -> float:
    (line,) = [one for one in page.splitlines() if one.startswith(f"{name} ")]
    return float(line.rpartition(" ")[2])


def test_readiness_when_asked_by_a_stranger_then_neither_model_nor_paths_are_told(
    serve: Serve, runner: LocalRunner
) -> None:
    server = serve(api_keys=f"anna:{KEY}")
    with server.client() as stranger:
        fine = stranger.get("/readyz").json()
        server.service.dispatcher._load_problem = "No such file: /home/user/secret-project/ckpt"
        answers = [stranger.get(path) for path in ("/readyz", "/healthz")]
        alive = stranger.get("/livez").status_code
        server.service.dispatcher._load_problem = None

    assert fine == {"status": "ready"}
    assert answers[0].status_code == 503
    assert answers[1].json()["is_ready"] is False
    assert alive == 200  # loading is tried again, so there is no need for a restart
    assert all("secret-project" not in answer.text for answer in answers)


def test_liveness_when_the_device_is_broken_then_503_so_that_the_process_is_replaced(
    serve: Serve, runner: LocalRunner
) -> None:
    class Broken(Gate):
        def run(self, items: object, report: object, is_stopped: object) -> object:
            raise DeviceFailedError("CUDA error: device-side assert triggered")

    server = serve(Broken(runner))
    with server.client() as client:
        job = create(client).json()
        wait_for(lambda: client.get("/livez").status_code == 503)
        assert client.get("/readyz").status_code == 503
        record = client.get(f"/v1/jobs/{job['id']}").json()
        rejected = create(client)

    assert (record["state"], record["restarted"]) == ("queued", 1)
    assert rejected.status_code == 503
