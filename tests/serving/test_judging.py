"""Free words, candidates and verdicts over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from joyimage.understanding import judge
from tests.serving.parts import ended, png

if TYPE_CHECKING:
    from joyimage.serving.workers.local import LocalRunner
    from tests.serving.parts import LiveServer


@pytest.fixture(autouse=True)
def judging(runner: LocalRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that answers about edits, whatever its random weights say."""
    monkeypatch.setattr(runner.pipe.text_encoder.config, "judges_edits", True)


def post(server: LiveServer, route: str, **fields: Any) -> httpx2.Response:
    data = {name: str(value) for name, value in fields.items()}
    return httpx2.post(f"{server.url}{route}", data=data, files={"image": ("a.png", png(1))}, timeout=120)


def test_candidates_when_asked_for_then_one_image_with_the_seed_of_the_best(server: LiveServer) -> None:
    answer = post(server, "/v1/images/edits", prompt="red", steps=4, seed=5, num_candidates=4).json()

    assert len(answer["data"]) == len(answer["verdicts"]) == 1
    assert sorted(one["seed"] for one in answer["candidates"]) == [5, 6, 7, 8]
    assert answer["seed"] == answer["candidates"][0]["seed"]
    job = httpx2.get(f"{server.url}/v1/jobs/{answer['job_id']}").json()
    assert (job["seed"], job["candidates"]) == (answer["seed"], answer["candidates"])
    alone = post(server, "/v1/images/edits", prompt="red", steps=4, seed=answer["seed"]).json()
    assert "candidates" not in alone


def test_candidates_when_some_are_dropped_between_previews_then_the_job_succeeds_with_all_steps(
    server: LiveServer,
) -> None:
    with server.client() as client:
        made = post(server, "/v1/jobs", kind="edit", prompt="red", steps=10, seed=5, num_candidates=8).json()
        job = ended(client, made)
        events = client.get(f"/v1/jobs/{made['id']}/events").text

    assert job["state"] == "succeeded", job["error"]
    assert len(job["candidates"]) == 8
    assert events.count("event: progress") == 10


def test_judge_when_asked_for_then_a_verdict_for_each_image(server: LiveServer) -> None:
    answer = post(server, "/v1/images/edits", prompt="red", steps=1, n=2, judge="true").json()

    assert [0 < verdict["done"] < 1 for verdict in answer["verdicts"]] == [True, True]


def test_move_when_judged_then_pixels_are_part_of_it(server: LiveServer) -> None:
    answer = post(
        server, "/v1/spatial/move", object="car", box="5,5,40,40", steps=1, judge="true", force="true"
    ).json()

    assert answer["verdicts"][0]["checks"] == answer["checks"][0]


@pytest.mark.parametrize("prompt", ["Remove the elephant.", "Recolor the elephant red."])
def test_edit_when_the_model_sees_no_such_object_then_400_unless_forced(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, prompt: str
) -> None:
    monkeypatch.setattr(
        "joyimage.understanding.judge.is_absent", lambda _reader, _image, name: name == "elephant"
    )

    rejected = post(server, "/v1/images/edits", prompt=prompt, steps=1)
    assert rejected.status_code == 400
    assert "There is no elephant in this image" in rejected.json()["error"]["message"]
    assert rejected.json()["error"]["message"].endswith("or edit anyway with `force`.")
    assert post(server, "/v1/images/edits", prompt=prompt, steps=1, force="true").status_code == 200
    assert post(server, "/v1/images/edits", prompt="Remove the star.", steps=1).status_code == 200


def test_move_when_there_is_no_such_object_then_its_own_code_in_the_answer_the_record_and_a_plan(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "is_absent", lambda *_: True)
    answer = post(server, "/v1/spatial/move", object="car", box="5,5,40,40", steps=1)
    move = {"kind": "move", "object": "car", "box": [5, 5, 40, 40], "steps": 1}
    with server.client() as client:
        jobs = [
            client.post("/v1/jobs", data=data, files=[("image", png(1))]).json()
            for data in (
                {**move, "box": "5,5,40,40"},
                {"kind": "plan", "steps": json.dumps([{**move, "force": True}, move])},
            )
        ]
        alone, planned = [ended(client, job) for job in jobs]

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "missing_object")
    assert alone["error"]["code"] == "missing_object"
    assert (planned["error"]["code"], planned["error"]["plan_step"]) == ("missing_object", 2)
    assert len(planned["images"]) == 1


def test_free_words_when_they_ask_for_a_view_then_run_as_a_camera_move_unless_literal(
    server: LiveServer,
) -> None:
    found = post(server, "/v1/images/edits", prompt="show it from the left", steps=1).json()
    literal = post(
        server, "/v1/images/edits", prompt="show it from the left", steps=1, intent="literal"
    ).json()

    assert "Yaw -90°" in found["prompt"]
    assert "prompt" not in literal


def test_free_words_when_they_ask_for_a_move_then_a_box_is_asked_for_only_where_intent_is(
    server: LiveServer,
) -> None:
    words = "put the cup on the left shelf"

    assert post(server, "/v1/images/edits", prompt=words, steps=1).status_code == 200
    rejected = post(server, "/v1/images/edits", prompt=words, steps=1, intent="auto")
    assert rejected.status_code == 400
    assert "`box`" in rejected.json()["error"]["message"]


@pytest.mark.parametrize(
    "fields", [{"num_candidates": 11}, {"num_candidates": 2, "n": 2}, {"until": 3}, {"intent": "other"}]
)
def test_field_when_not_accepted_then_400(server: LiveServer, fields: dict[str, Any]) -> None:
    assert post(server, "/v1/images/edits", prompt="red", steps=1, **fields).status_code == 400


def test_parse_when_free_words_then_the_edit_that_would_run(server: LiveServer) -> None:
    answer = httpx2.post(
        f"{server.url}/v1/spatial/parse",
        content=json.dumps({"prompt": "zoom in a bit"}),
        headers={"content-type": "application/json"},
    ).json()

    assert answer["edit"] is None
    assert answer["intent"] == {"kind": "camera", "zoom": "in", "shown": "move the camera: zoom in"}
