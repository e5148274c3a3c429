"""Jobs over HTTP: records, events, cancelling, idempotency, limits, restarts."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from joyimage.serving.jobs.events import EventLog
from joyimage.serving.jobs.records import STATES
from joyimage.serving.workers.preview import Preview
from tests.serving.parts import SIDE, Gate, LiveServer, create, ended, opened, png, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx2

    from joyimage.serving.workers.local import LocalRunner

    Serve = Callable[..., LiveServer]


def read_events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    event: dict[str, Any] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line == "" and "data" in event:
            yield event
            event = {}
        elif name in {"id", "event"}:
            event[name] = value
        elif name == "data":
            event["data"] = json.loads(value)


def test_job_when_queued_then_a_record_at_once_and_the_result_later(server: LiveServer) -> None:
    with server.client() as client:
        answer = client.post(
            "/v1/jobs", data={"kind": "edit", "prompt": "red", "seed": "4"}, files=[("image", png(1))]
        )
        record = ended(client, answer.json())
        direct = client.post(
            "/v1/images/edits", data={"prompt": "red", "seed": "4"}, files=[("image", png(1))]
        )
        image = client.get(f"/v1/jobs/{record['id']}/images/0")

    assert answer.status_code == 202
    assert answer.json()["state"] in {"queued", "running"}
    assert answer.headers["location"] == f"/v1/jobs/{record['id']}"
    assert (record["state"], record["seed"], record["width"], record["restarted"]) == (
        "succeeded",
        4,
        SIDE,
        0,
    )
    assert record["expires_at"] > record["finished_at"] >= record["started_at"] >= record["created_at"]
    expected = np.asarray(opened(direct.json()["data"][0]["b64_json"]), dtype=int)
    assert np.abs(np.asarray(opened(image.content), dtype=int) - expected).max() <= 1


def test_events_when_followed_then_queue_steps_previews_and_the_record(
    serve: Serve, runner: LocalRunner
) -> None:
    gate = Gate(runner)
    server = serve(gate)
    with server.client() as client:
        job = create(client, steps=3).json()
        with client.stream("GET", f"/v1/jobs/{job['id']}/events") as stream:
            gate.is_open.set()
            events = list(read_events(stream.iter_lines()))

    assert [event["event"] for event in events] == ["queued", "running", *["progress"] * 3, "succeeded"]
    assert [event["data"]["step"] for event in events[2:5]] == [1, 2, 3]
    numbers = [int(event["id"]) for event in events]
    assert numbers == sorted(set(numbers))
    previews = [event["data"]["preview"] for event in events if "preview" in event["data"]]
    assert opened(previews[-1].partition(",")[2]).size == (32, 32)
    assert [event["data"].get("preview_kind") for event in events if "preview" in event["data"]] == (
        ["latent"] * len(previews)
    )
    assert events[-1]["data"]["job"]["images"]


def test_events_when_resumed_then_only_what_came_since(server: LiveServer) -> None:
    with server.client() as client:
        job = create(client, steps=3).json()
        ended(client, job)
        path = f"/v1/jobs/{job['id']}/events"
        everything = list(read_events(iter(client.get(path).text.split("\n"))))
        rest = client.get(path, headers={"Last-Event-ID": everything[2]["id"]})
        nothing = client.get(path, headers={"Last-Event-ID": everything[-1]["id"]})

    assert list(read_events(iter(rest.text.split("\n")))) == everything[3:]
    assert (nothing.status_code, nothing.text) == (204, "")


def test_events_when_the_server_has_forgotten_them_then_the_end_alone(server: LiveServer) -> None:
    with server.client() as client:
        job = create(client).json()
        ended(client, job)
        path = f"/v1/jobs/{job['id']}/events"
        before = list(read_events(iter(client.get(path).text.split("\n"))))
        server.service.events._logs.pop(job["id"])
        after = list(read_events(iter(client.get(path).text.split("\n"))))

    assert [event["event"] for event in after] == ["succeeded"]
    assert after == before[-1:]


def test_job_when_deleted_then_cancelled_waiting_or_running(serve: Serve, runner: LocalRunner) -> None:
    gate = Gate(runner)
    server = serve(gate)
    with server.client() as client:
        running = create(client, steps=50).json()
        wait_for(lambda: gate.steps)
        waiting = create(client).json()

        assert client.delete(f"/v1/jobs/{waiting['id']}").json()["state"] == "cancelled"
        client.delete(f"/v1/jobs/{running['id']}")

        assert ended(client, running)["state"] == "cancelled"
        gate.is_open.set()
        done = ended(client, create(client, steps=1).json())
        assert client.delete(f"/v1/jobs/{done['id']}").json()["state"] == "succeeded"
    assert gate.steps <= 3


def test_idempotency_key_when_sent_by_many_at_once_then_one_job(serve: Serve, runner: LocalRunner) -> None:
    gate = Gate(runner)
    gate.is_open.set()
    server = serve(gate)
    answers: list[httpx2.Response] = []
    with server.client() as client:

        def send() -> None:
            answers.append(create(client, key="order-1"))

        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        job = ended(client, answers[0].json())
        # The waiting kind of request, with the same key: not run again either.
        other = create(client, key="order-1", prompt="y")

    assert {answer.json()["id"] for answer in answers} == {job["id"]}
    assert sorted(answer.headers["x-job-is-new"] for answer in answers) == ["false"] * 7 + ["true"]
    assert gate.batches == [1]
    assert other.status_code == 422
    assert other.json()["error"]["code"] == "idempotency_key_reused"


def test_edit_when_repeated_with_its_key_then_the_same_image_without_a_run(
    serve: Serve, runner: LocalRunner
) -> None:
    gate = Gate(runner)
    gate.is_open.set()
    server = serve(gate)
    with server.client() as client:
        ask: dict[str, Any] = {"json": {"prompt": "x"}, "headers": {"Idempotency-Key": "k"}}
        first, second = (client.post("/v1/images/generations", **ask).json() for _ in range(2))

    assert first == second
    assert gate.batches == [1]


@pytest.mark.parametrize(("batch_pixels", "batches"), [(4 * SIDE * SIDE, [3, 1, 1]), (SIDE * SIDE, [1] * 5)])
def test_requests_when_small_and_alike_then_run_together(
    serve: Serve, runner: LocalRunner, batch_pixels: int, batches: list[int]
) -> None:
    gate = Gate(runner)
    server = serve(gate, batch_pixels=batch_pixels)
    changes: list[dict[str, Any]] = [
        {"seed": 1},
        {"steps": 2},
        {"prompt": "a long blue thing", "seed": 2, "output_format": "jpeg"},
        {"negative_prompt": "dark"},
        {"prompt": "y"},
    ]
    with server.client() as client:
        jobs = [create(client, steps=1).json()]
        wait_for(lambda: gate.batches)
        jobs += [create(client, **{"steps": 3, **change}).json() for change in changes]
        gate.is_open.set()

        assert [ended(client, job)["state"] for job in jobs] == ["succeeded"] * 6
        jpeg = client.get(f"/v1/jobs/{jobs[3]['id']}/images/0")

    assert gate.batches[1:] == batches
    assert opened(jpeg.content).format == "JPEG"


def test_queue_when_full_then_429_with_a_time_to_come_back(serve: Serve, runner: LocalRunner) -> None:
    gate = Gate(runner)
    server = serve(gate, queue_size=2)
    with server.client() as client:
        create(client)
        wait_for(lambda: gate.batches)
        create(client, steps=3)
        create(client, steps=4)
        rejected = create(client)
        rejected_edit = client.post("/v1/images/generations", json={"prompt": "x"})
        gate.is_open.set()

    for answer in (rejected, rejected_edit):
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "queue_full"
        assert answer.json()["error"]["type"] == "rate_limit_error"


def test_clients_when_one_floods_the_queue_then_another_is_served_next(
    serve: Serve, runner: LocalRunner
) -> None:
    gate = Gate(runner)
    server = serve(
        gate, api_keys="anna:anna-0123456789abc,bert:bert-0123456789abc", max_batch=1, client_jobs=12
    )
    with server.client("anna-0123456789abc") as anna, server.client("bert-0123456789abc") as bert:
        first = create(anna).json()
        wait_for(lambda: gate.batches)
        flood = [create(anna).json() for _ in range(11)]
        too_many = create(anna)
        single = create(bert).json()
        assert bert.get(f"/v1/jobs/{single['id']}").json()["position"] == 0
        gate.is_open.set()
        ends = [ended(anna, job)["finished_at"] for job in (first, *flood)]
        mine = ended(bert, single)["finished_at"]
        listed = bert.get("/v1/jobs").json()["data"]
        foreign = bert.get(f"/v1/jobs/{first['id']}")

    assert too_many.json()["error"]["code"] == "too_many_jobs"
    assert sorted([*ends, mine]).index(mine) == 1
    assert [job["id"] for job in listed] == [single["id"]]
    assert foreign.status_code == 404


def test_jobs_when_listed_then_in_pages_and_by_state(server: LiveServer) -> None:
    with server.client() as client:
        jobs = [create(client).json() for _ in range(3)]
        for job in jobs:
            ended(client, job)
        page = client.get("/v1/jobs", params={"limit": 2}).json()
        rest = client.get("/v1/jobs", params={"limit": 1, "after": jobs[1]["id"]}).json()
        queued = client.get("/v1/jobs", params={"state": "queued"}).json()

    assert [job["id"] for job in page["data"]] == [jobs[2]["id"], jobs[1]["id"]]
    assert page["has_more"]
    assert [job["id"] for job in rest["data"]] == [jobs[0]["id"]]
    assert queued["data"] == []


def test_query_when_a_parameter_is_unknown_or_repeated_then_400_on_every_route(server: LiveServer) -> None:
    with server.client() as client:
        job = ended(client, create(client).json())
        paths = server.app.openapi()["paths"]
        probes = ("/healthz", "/livez", "/readyz", "/metrics")
        assert {client.get(probe, params={"t": "1"}).status_code for probe in probes} == {200}
        for path, operations in paths.items():
            if path in probes:
                continue
            url = path.replace("{job_id}", job["id"]).replace("{number}", "0").replace("{name}", "tiny")
            for method, operation in operations.items():
                answer = client.request(method, url, params={"foo": "1"})
                assert answer.status_code == 400, (method, path)
                error = answer.json()["error"]
                assert (error["param"], error["code"]) == ("foo", "unknown_parameter")
                known = [one["name"] for one in operation.get("parameters", []) if one["in"] == "query"]
                assert (", ".join(known) or "accepts none") in error["message"]
        twice = client.get("/v1/jobs?limit=1&limit=2").json()["error"]
        kept = client.get(f"/v1/jobs/{job['id']}").json()

    assert (twice["param"], twice["code"]) == ("limit", "invalid_value")
    assert kept["images"], "the job was not deleted by a request that was rejected"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("state", "done", "'queued', 'running', 'succeeded', 'failed' or 'cancelled'"),
        ("state", "", "'queued'"),
        ("limit", "0", "1 or more"),
        ("limit", "1.5", "integer"),
        ("limit", "201", "200 or less"),
        ("after", "0" * 32, "id of one of your jobs"),
        ("after", "\0", "id of one of your jobs"),
        ("after", "", "id of one of your jobs"),
    ],
)
def test_query_when_a_value_is_not_accepted_then_400_with_what_is(
    server: LiveServer, name: str, value: str, expected: str
) -> None:
    with server.client() as client:
        answer = client.get("/v1/jobs", params={name: value})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == name
    assert expected in answer.json()["error"]["message"]


@pytest.mark.parametrize("state", STATES)
def test_jobs_when_any_state_is_asked_for_then_accepted(server: LiveServer, state: str) -> None:
    with server.client() as client:
        assert client.get("/v1/jobs", params={"state": state}).status_code == 200


def test_query_when_azures_client_sends_its_version_then_accepted(server: LiveServer) -> None:
    with server.client() as client:
        url = f"/openai/deployments/{server.settings.served_name}/images/generations"
        answer = client.post(url, params={"api-version": "2025-04-01-preview"}, json={"prompt": "x"})

    assert answer.status_code == 200


def test_spatial_edits_when_asked_then_images_with_checks(server: LiveServer) -> None:
    files = [("image", png(1))]
    with server.client() as client:
        moved = client.post("/v1/spatial/move", data={"object": "car", "box": "10,10,40,50"}, files=files)
        turned = client.post("/v1/spatial/rotate", data={"object": "car", "view": "rear-left"}, files=files)
        seen = client.post("/v1/spatial/camera", data={"yaw": "45"}, files=files)
        wrong = client.post("/v1/spatial/move", data={"object": "car", "box": "10,10,400,50"}, files=files)

    for answer, words in ((moved, "Move the car"), (turned, "rear left side"), (seen, "Yaw 45")):
        assert answer.status_code == 200, answer.text
        assert words in answer.json()["prompt"]
        assert "summary" in answer.json()["checks"][0]
        assert opened(answer.json()["data"][0]["b64_json"]).size == (SIDE, SIDE)
    assert wrong.status_code == 400
    assert "`box`" in wrong.json()["error"]["message"]


def test_prompt_when_parsed_then_the_edit_or_what_is_wrong(server: LiveServer) -> None:
    with server.client() as client:

        def parse(prompt: str) -> Any:
            return client.post("/v1/spatial/parse", json={"prompt": prompt}).json()

        rotation = parse("Rotate the car to show the rear left side view.")
        nearly = parse("Rotate the car to show the upper side view.")

        assert rotation["edit"] == {"kind": "rotate", "object": "car", "view": "rear left"}
        assert "upper" in nearly["problem"]
        assert parse("Make it red.") == {"edit": None, "problem": None, "intent": None}


def test_description_when_asked_then_text(server: LiveServer) -> None:
    with server.client() as client:
        answer = client.post(
            "/v1/describe", data={"question": "What?", "max_new_tokens": "2"}, files=[("image", png())]
        )

    assert answer.status_code == 200
    assert isinstance(answer.json()["text"], str)


def test_description_when_the_model_reads_drawn_scenes_alone_then_anything_else_is_rejected_in_one_sentence(
    server: LiveServer, runner: LocalRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.pipe.text_encoder.config, "language_scope", "drawn scenes", raising=False)
    drawn = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), "white").save(drawn, "png")
    with server.client() as client:
        photograph, chinese, scene = (
            client.post("/v1/describe", data={"max_new_tokens": "2", **question}, files=[("image", image)])
            for image, question in (
                (png(), {}),
                (drawn.getvalue(), {"question": "这是什么?"}),
                (drawn.getvalue(), {"question": "What is this?"}),
            )
        )

    assert [photograph.status_code, chinese.status_code, scene.status_code] == [400, 400, 200]
    for answer, why in (
        (photograph, "the image has the colors of a photograph"),
        (chinese, "the question is not in English"),
    ):
        assert answer.json()["error"]["message"].startswith(f"`image` can't be described: {why}.")


def test_status_when_asked_then_alive_ready_and_counted(server: LiveServer) -> None:
    with server.client() as client:
        client.post("/v1/images/generations", json={"prompt": "x"})
        assert client.get("/healthz").json() == {
            "status": "alive",
            "is_ready": True,
            "problem": None,
            "needs_key": False,
        }
        assert client.get("/readyz").json()["status"] == "ready"
        page = client.get("/metrics").text

    assert 'joyimage_jobs_ended_total{kind="generate",state="succeeded"}' in page
    assert 'joyimage_http_requests_total{method="POST",route="/v1/images/generations",status="200"}' in page
    assert 'joyimage_replicas{state="idle"} 1.0' in page


def test_preview_when_steps_are_faster_than_who_follows_then_the_newest_is_still_there() -> None:
    log = EventLog()
    for step in (1, 2, 3):
        preview = Preview(b"%d" % step, "latent") if step < 3 else None
        log.publish("job", "progress", {"step": step}, preview=preview)
    log.publish("job", "succeeded", {})

    async def follow() -> list[Any]:
        return [event async for event in log.follow("job")]

    events = asyncio.run(follow())

    assert [event.preview and event.preview.file for event in events] == [None, b"2", None, None]


def test_input_when_its_job_succeeded_then_fetched_until_the_results_are_removed(server: LiveServer) -> None:
    with server.client() as client:
        files = {"image": ("a.png", png(1), "image/png")}
        asked = client.post("/v1/jobs", data={"kind": "edit", "prompt": "x"}, files=files)
        job = ended(client, asked.json())
        (address,) = job["inputs"]
        found = client.get(address)
        assert (found.status_code, found.headers["content-type"]) == (200, "image/png")
        assert opened(found.content).size == opened(png(1)).size
        assert client.get(f"/v1/jobs/{job['id']}/inputs/1").status_code == 404

        assert client.delete(f"/v1/jobs/{job['id']}").json()["inputs"] == []
        assert client.get(f"/v1/jobs/{job['id']}/inputs/0").status_code == 410
