"""Bounds on what requests take: memory, threads, values of a body, streams, requests a minute."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from joyimage.serving.http import budgets as budgets_module
from joyimage.serving.http import parsing
from joyimage.serving.http import service as service_module
from joyimage.serving.http.budgets import Budget, ByteBudget
from joyimage.serving.http.errors import ApiError
from joyimage.serving.security.errors import RateLimitError
from joyimage.serving.security.uploads import PixelBudget
from tests.serving.parts import Gate, LiveServer, create, ended, png, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx2

    from joyimage.serving.workers.local import LocalRunner

    Serve = Callable[..., LiveServer]

KEYS = "anna:anna-0123456789abc,bert:bert-0123456789abc"
GENERATIONS = "/v1/images/generations"


@pytest.mark.parametrize(
    "content",
    [
        {f"field{number}": 1 for number in range(30_000)},
        {"prompt": [[] for _ in range(30_000)]},
        {"prompt": [0.5] * 30_000},
    ],
)
def test_json_when_of_more_values_than_a_request_has_then_rejected_before_it_is_parsed(
    content: dict[str, Any], server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    with server.client() as client:
        answer = client.post(GENERATIONS, content=json.dumps(content).encode())

    assert answer.status_code == 413
    assert len(answer.content) < 500


def test_fields_when_too_many_or_too_long_then_a_short_answer(server: LiveServer) -> None:
    with server.client() as client:
        many = client.post(GENERATIONS, json={f"field{number}": 1 for number in range(100)})
        long_name = client.post(GENERATIONS, json={"x" * 1_000_000: 1, "prompt": "x"})
        long_value = client.post(GENERATIONS, json={"prompt": "x", "size": "x" * 1_000_000})
        unknown = client.post(GENERATIONS, json={"prompt": "x", "foo": "x" * 1_000_000})

    for answer in (many, long_name, long_value, unknown):
        assert answer.status_code == 400
        assert len(answer.content) < 5000


def test_bodies_when_read_then_outside_of_the_event_loop(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, set[str]] = {"json": set(), "base64": set(), "check": set(), "hash": set()}

    def note(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            threads[name].add(threading.current_thread().name)
            return plain(*arguments, **options)

        return call

    monkeypatch.setattr(parsing, "_parse_json", note("json", parsing._parse_json))
    monkeypatch.setattr(parsing, "decode_base64", note("base64", parsing.decode_base64))
    monkeypatch.setattr(service_module, "read_upload", note("check", service_module.read_upload))
    monkeypatch.setattr(service_module.Service, "_make_job", note("hash", service_module.Service._make_job))
    server = serve()
    import base64

    with server.client() as client:
        body = {"prompt": "x", "image": base64.b64encode(png()).decode()}
        assert client.post("/v1/images/edits", json=body).status_code == 200

    for name, names in threads.items():
        assert names, name
        assert all("AnyIO worker thread" in one for one in names), (name, names)


def test_decoders_when_one_client_holds_them_then_probes_and_other_routes_answer(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, entered = threading.Event(), threading.Semaphore(0)
    plain = service_module.read_upload

    def hold(*arguments: Any) -> Any:
        entered.release()
        released.wait(60)
        return plain(*arguments)

    server = serve(api_keys=KEYS, max_pending_uploads=6)
    monkeypatch.setattr(service_module, "read_upload", hold)

    def edit(client: httpx2.Client) -> httpx2.Response:
        return client.post("/v1/images/edits", data={"prompt": "x"}, files=[("image", png())])

    with (
        server.client("anna-0123456789abc") as anna,
        server.client("bert-0123456789abc") as bert,
        ThreadPoolExecutor(4) as pool,
    ):
        held = [pool.submit(edit, anna) for _ in range(3)]
        wait_for(lambda: server.service.budgets.decoding._clients["anna"] == 3)
        entered.acquire(timeout=30)
        more = edit(anna)
        mine = pool.submit(edit, bert)
        assert bert.get("/readyz").status_code == 200
        assert bert.get("/metrics").status_code == 200
        assert bert.post(GENERATIONS, json={"prompt": "x"}).status_code == 200
        released.set()
        answers = [one.result(30).status_code for one in (*held, mine)]

    assert (more.status_code, more.json()["error"]["code"]) == (429, "server_busy")
    assert int(more.headers["retry-after"]) >= 1
    assert answers == [200] * 4


def test_thread_when_none_becomes_free_in_time_then_503_to_come_back_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budgets_module, "_LONGEST_WAIT_S", 0.05)
    released = threading.Event()

    async def use() -> ApiError:
        budget = Budget("waiting for the database", 1)
        first = asyncio.ensure_future(budget.run("a", released.wait, 60))
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as rejected:
            await budget.run("b", released.wait, 60)
        monkeypatch.setattr(budgets_module, "_LONGEST_WAIT_S", 60)
        released.set()
        assert await first
        assert await budget.run("b", released.wait, 60)
        return rejected.value

    error = asyncio.run(use())

    assert (error.status, error.code) == (503, "server_busy")


def test_memory_when_bodies_fill_it_then_429_and_each_client_has_its_half() -> None:
    budget = ByteBudget(100)
    with budget.reserve("a", 40):
        with pytest.raises(RateLimitError), budget.reserve("a", 20):
            pass
        with budget.reserve("b", 50), pytest.raises(RateLimitError), budget.reserve("c", 20):
            pass
        with budget.reserve("c", 20):
            pass
    with budget.reserve("a", 1000):  # alone, the largest body that is accepted has room
        pass


def test_bodies_when_they_do_not_fit_into_memory_then_429_before_they_are_read(
    serve: Serve, runner: LocalRunner
) -> None:
    server = serve(max_pending_bytes=1000)
    with server.client() as client, server.service.budgets.bodies.reserve("127.0.0.1", 400):
        answers = [
            client.post("/v1/images/edits", data={"prompt": "x"}, files=[("image", png())]),
            client.post("/v1/spatial/parse", json={"prompt": "x" * 600}),
            client.post(GENERATIONS, content=iter([b'{"prompt": "x"}'])),  # of unknown size
        ]
        assert client.post("/v1/spatial/parse", json={"prompt": "x"}).status_code == 200

    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "server_busy")


def test_pixels_when_two_images_do_not_fit_then_decoded_one_after_the_other() -> None:
    budget, order, inside = PixelBudget(100), [], threading.Event()

    def decode(name: str, pixels: int) -> None:
        with budget.reserve(pixels, "a"):
            order.append(name)
            inside.set()

    with budget.reserve(60, "a"):
        large = threading.Thread(target=decode, args=("large", 500))
        large.start()
        small = threading.Thread(target=decode, args=("small", 40))
        small.start()
        assert inside.wait(30)
        small.join(30)
        order.append("first ends")
    large.join(30)

    assert order == ["small", "first ends", "large"]


def test_pixels_when_one_client_has_its_share_then_another_decodes_and_a_third_waits() -> None:
    budget, order = PixelBudget(100, clients=2), []

    def decode(client: str) -> None:
        with budget.reserve(100, client):
            order.append(client)

    with budget.reserve(100, "a"):
        again = threading.Thread(target=decode, args=("a",))
        again.start()
        decode("b")
        with budget.reserve(100, "b"):
            third = threading.Thread(target=decode, args=("c",))
            third.start()
            order.append("both hold")
        third.join(30)
        order.append("first ends")
    again.join(30)

    assert order == ["b", "both hold", "c", "first ends", "a"]


def test_decoders_when_one_client_keeps_them_busy_then_one_is_left_for_the_others() -> None:
    released = threading.Event()

    async def use() -> tuple[int, str]:
        budget = Budget("being decoded", 3, spare_threads=1)
        begun: list[int] = []

        def hold(number: int) -> bool:
            begun.append(number)
            return released.wait(60)

        held = [asyncio.ensure_future(budget.run("a", hold, number)) for number in range(5)]
        other = await budget.run("b", str, "done")
        while len(begun) < 2:
            await asyncio.sleep(0.01)
        running = len(begun)
        released.set()
        assert all(await asyncio.gather(*held))
        assert not budget._shares
        return running, other

    assert asyncio.run(use()) == (2, "done")


def test_client_when_it_sends_more_than_its_requests_a_minute_then_429_for_it_alone(serve: Serve) -> None:
    server = serve(api_keys=KEYS, client_requests_per_minute=3)
    with server.client("anna-0123456789abc") as anna, server.client("bert-0123456789abc") as bert:
        codes = [anna.get("/v1/models").status_code for _ in range(4)]
        last = anna.get("/v1/models")
        assert bert.get("/v1/models").status_code == 200

    assert codes == [200, 200, 200, 429]
    assert last.json()["error"]["code"] == "too_many_requests"
    assert 1 <= int(last.headers["retry-after"]) <= 60


def test_client_when_it_follows_many_jobs_then_429_until_it_closes_a_stream(
    serve: Serve, runner: LocalRunner
) -> None:
    gate = Gate(runner)
    server = serve(gate, client_streams=1)
    with server.client() as client:
        job = create(client).json()
        path = f"/v1/jobs/{job['id']}/events"
        with client.stream("GET", path):
            wait_for(lambda: client.get(path).status_code == 429)
        gate.is_open.set()
        ended(client, job)
        wait_for(lambda: client.get(path).status_code == 200)
