"""Our own client against a real server, over a bad line too."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from joyimage.client import AsyncClient, Client, Job, Progress, ServerError
from joyimage.client import protocol as client_requests
from tests import random_models
from tests.serving.parts import SIDE, Gate, LiveServer, opened, png, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from joyimage.serving.workers.local import LocalRunner

    Serve = Callable[..., LiveServer]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_requests, "_FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(client_requests, "_LONGEST_PAUSE_S", 0.2)


def same(first: bytes, second: bytes) -> bool:
    return (
        int(np.abs(np.asarray(opened(first), dtype=int) - np.asarray(opened(second), dtype=int)).max()) <= 1
    )


def test_edit_when_sent_as_file_bytes_or_image_then_the_same_image_with_progress(
    server: LiveServer, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(1))
    seen: list[Progress] = []
    with Client(server.url) as client:
        made = [
            client.edit(image, "red", seed=1, steps=3, progress=seen.append)[0]
            for image in (path, png(1), random_models.make_image(1, SIDE, SIDE))
        ]

    assert same(made[0], made[1])
    assert same(made[0], made[2])
    assert [one.step for one in seen[:5] if one.step] == [1, 2, 3]
    assert any(one.preview and opened(one.preview).size == (32, 32) for one in seen)


def test_async_client_when_several_edits_then_all_at_once(server: LiveServer) -> None:
    async def work() -> list[list[bytes]]:
        async with AsyncClient(server.url) as client:
            assert (await client.models())[0]["id"] == "tiny"
            edits = [
                client.edit(png(1), "red", seed=1),
                client.generate("x", n=2),
                client.edit(png(1), "red", seed=1),
            ]
            return list(await asyncio.gather(*edits))

    first, generated, second = asyncio.run(work())

    assert same(first[0], second[0])
    assert len(generated) == 2


def test_async_client_when_a_job_is_cancelled_described_or_unknown_then_as_the_other(
    serve: Serve, runner: LocalRunner
) -> None:
    gate = Gate(runner)
    server = serve(gate)

    async def work() -> tuple[str, str]:
        async with AsyncClient(server.url) as client:
            stopped: list[asyncio.Task[Job]] = []

            def cancel(progress: Progress) -> None:
                if progress.state == "running" and not stopped:
                    job_id = server.service.store.list()[0].id
                    stopped.append(asyncio.ensure_future(client.cancel(job_id)))

            with pytest.raises(ServerError, match="was cancelled"):
                await client.generate("x", steps=50, progress=cancel)
            gate.is_open.set()
            with pytest.raises(ServerError, match="no such job"):
                await client.get("0" * 32)
            text = await client.describe([png(1), png(2)], "What?", max_new_tokens=2)
            return (await client.get((await stopped[0]).id)).state, text

    state, text = asyncio.run(work())

    assert state == "cancelled"
    assert isinstance(text, str)


def test_spatial_edit_and_question_when_run_then_job_and_text(server: LiveServer) -> None:
    with Client(f"{server.url}/v1/") as client:
        job = client.run("move", [png(1)], object="car", box=(10, 10, 40, 50), restore=True)
        text = client.describe([png(1), png(2)], "What?", max_new_tokens=2)
        again = client.get(job.id)

    assert again == job
    assert job.prompt is not None
    assert "Move the car" in job.prompt
    assert isinstance(text, str)


def test_masks_when_the_edit_has_them_then_fetched_with_and_without_waiting(server: LiveServer) -> None:
    settings = {"prompt": "red", "preserve": True, "restore": True, "seed": 1, "n": 2}

    async def fetch() -> list[bytes]:
        async with AsyncClient(server.url) as client:
            return await client.masks(await client.run("edit", [png(1, 90, 70)], **settings))

    with Client(server.url) as client:
        job = client.run("edit", [png(1, 90, 70)], **settings)
        masks = client.masks(job)
        plain = client.run("generate", [], prompt="x")

    assert len(job.masks) == len(masks) == 2
    assert [opened(mask).size for mask in masks] == [(90, 70)] * 2
    assert asyncio.run(fetch()) == masks
    assert plain.masks == []


def test_request_when_rejected_then_the_servers_sentence(server: LiveServer) -> None:
    with Client(server.url) as client:
        with pytest.raises(ServerError, match="`steps` is 101") as rejection:
            client.generate("x", steps=101)
        with pytest.raises(TypeError, match="expected a PIL image"):
            client.edit(3, "x")  # type: ignore[arg-type]
        with pytest.raises(ServerError, match="no such job"):
            client.get("0" * 32)

    assert rejection.value.status == 400


def test_client_when_no_one_listens_then_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with (
        Client(f"http://127.0.0.1:{port}", retries=1) as client,
        pytest.raises(ServerError, match="cannot be reached"),
    ):
        client.generate("x")
    with pytest.raises(ValueError, match="expected an address"):
        Client("127.0.0.1:8600")


def test_client_when_the_queue_is_full_then_it_comes_back(serve: Serve, runner: LocalRunner) -> None:
    gate = Gate(runner)
    server = serve(gate, queue_size=1, max_batch=1)
    with Client(server.url) as first, Client(server.url, retries=200) as second:
        threads = [threading.Thread(target=first.generate, args=("x",)) for _ in range(1)]
        threads[0].start()
        wait_for(lambda: gate.batches)
        filler = second._http.post("/v1/jobs", json={"kind": "generate", "prompt": "y"})
        assert filler.status_code == 202
        made: list[bytes] = []
        threads.append(threading.Thread(target=lambda: made.extend(second.generate("z", steps=1))))
        threads[1].start()
        wait_for(lambda: server.service.metrics.rejected.labels("queue_full")._value.get() >= 2)
        gate.is_open.set()
        for thread in threads:
            thread.join(timeout=30)

    assert len(made) == 1


class BadLine:
    """A proxy that cuts some connections after a number of bytes and answers others in the server's place."""

    def __init__(self, target: str, cuts: list[int | bytes | None]) -> None:
        host, port = target.removeprefix("http://").split(":")
        self._target = (host, int(port))
        self._cuts = cuts
        self.num_connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._socket.accept()
            except OSError:
                return
            cut = self._cuts[self.num_connections] if self.num_connections < len(self._cuts) else None
            self.num_connections += 1
            threading.Thread(target=self._join, args=(near, cut), daemon=True).start()

    def _join(self, near: socket.socket, cut: int | bytes | None) -> None:
        if isinstance(cut, bytes):
            with near:
                near.recv(65536)
                near.sendall(cut)
            return
        far = socket.create_connection(self._target)
        threading.Thread(target=self._copy, args=(near, far, None), daemon=True).start()
        self._copy(far, near, cut)

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket, cut: int | None) -> None:
        num_bytes = 0
        try:
            while data := source.recv(65536):
                sink.sendall(data if cut is None else data[: cut - num_bytes])
                num_bytes += len(data)
                if cut is not None and num_bytes > cut:
                    break
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("which", ["Client", "AsyncClient"])
def test_client_when_the_line_breaks_then_it_continues_and_nothing_runs_twice(
    serve: Serve, runner: LocalRunner, which: str
) -> None:
    gate = Gate(runner)
    gate.is_open.set()
    server = serve(gate)
    # The answer to the first POST is lost, the stream of events breaks, and so does an image.
    line = BadLine(server.url, [10, 3000, 2500])

    async def edit() -> list[bytes]:
        async with AsyncClient(line.url) as client:
            return await client.edit(png(1), "red", seed=1, steps=6)

    try:
        if which == "AsyncClient":
            made = asyncio.run(edit())
        else:
            with Client(line.url) as client:
                made = client.edit(png(1), "red", seed=1, steps=6)
    finally:
        line.close()
    with Client(server.url) as client:
        expected = client.edit(png(1), "red", seed=1, steps=6)

    assert same(made[0], expected[0])
    assert gate.batches == [1, 1]
    assert line.num_connections >= 3


@pytest.mark.parametrize("which", ["Client", "AsyncClient"])
@pytest.mark.parametrize(
    ("cuts", "retries"),
    [
        ([2500] * 3, 1),  # each time something new comes
        ([b"HTTP/1.1 503 Away\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 502 Away\r\n\r\n", 0], 3),
    ],
    ids=["breaks", "away"],
)
def test_client_when_it_follows_a_job_over_a_bad_line_then_to_its_end(
    server: LiveServer, which: str, cuts: list[int | bytes | None], retries: int
) -> None:
    with Client(server.url) as client:
        job = client.run("generate", [], prompt="x", steps=60)
    line = BadLine(server.url, cuts)
    seen: list[int] = []

    async def follow() -> Job:
        async with AsyncClient(line.url, retries=retries) as client:
            return await client.wait(job, lambda progress: seen.append(progress.step))

    try:
        if which == "AsyncClient":
            found = asyncio.run(follow())
        else:
            with Client(line.url, retries=retries) as client:
                found = client.wait(job, lambda progress: seen.append(progress.step))
    finally:
        line.close()

    assert (found.id, found.state, found.seed) == (job.id, "succeeded", job.seed)
    assert line.num_connections == 4
    assert [step for step in seen if step] == list(range(1, 61))


@pytest.mark.parametrize("which", ["Client", "AsyncClient"])
def test_client_when_told_to_come_back_then_it_sends_the_same_job_again(
    server: LiveServer, which: str
) -> None:
    busy = b"HTTP/1.1 429 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    line = BadLine(server.url, [busy, busy])

    async def generate() -> list[bytes]:
        async with AsyncClient(line.url) as client:
            return await client.generate("x", seed=1)

    if which == "AsyncClient":
        made = asyncio.run(generate())
    else:
        with Client(line.url) as client:
            made = client.generate("x", seed=1)
    line.close()

    assert opened(made[0]).size == (SIDE, SIDE)
    assert line.num_connections >= 3


@pytest.mark.parametrize("which", ["Client", "AsyncClient"])
def test_client_when_the_server_stays_away_then_one_sentence_after_the_last_attempt(which: str) -> None:
    line = BadLine("http://127.0.0.1:9", [b"HTTP/1.1 503 Away\r\nContent-Length: 0\r\n\r\n"] * 9)
    job = Job(id="0" * 32, kind="edit", state="queued")

    async def follow() -> Job:
        async with AsyncClient(line.url, retries=2) as client:
            return await client.wait(job)

    with pytest.raises(ServerError, match="answered 503 without a reason") as rejection:
        asyncio.run(follow()) if which == "AsyncClient" else Client(line.url, retries=2).wait(job)
    line.close()

    assert rejection.value.status == 503
    assert line.num_connections == 3


def test_client_when_the_key_is_in_the_environment_then_it_is_sent(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(api_keys="anna:0123456789abcdef")
    with Client(server.url) as stranger, pytest.raises(ServerError, match="API key is needed"):
        stranger.models()
    monkeypatch.setenv("JOYIMAGE_API_KEY", "0123456789abcdef")
    with Client(server.url) as anna:
        assert anna.models()


def test_job_when_cancelled_then_waiting_ends_with_a_sentence(serve: Serve, runner: LocalRunner) -> None:
    gate = Gate(runner)
    server = serve(gate)
    with Client(server.url) as client:

        def cancel_first(progress: Progress) -> None:
            if progress.state == "running":
                client.cancel(server.service.store.list()[0].id)

        with pytest.raises(ServerError, match="was cancelled"):
            client.generate("x", steps=50, progress=cancel_first)
