"""The client's protocol, step by step, without a server."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joyimage.client import ServerError
from joyimage.client.protocol import Open, Protocol, Send, Sleep, as_edit, make_form
from joyimage.client.records import EventReader
from joyimage.edits import Edit, FieldError, Framing, Move, Sampling

PROTOCOL = Protocol("http://127.0.0.1:1/v1/", retries=2)


def answer(status: int, headers: dict[str, str] | None = None, **body: Any) -> httpx2.Response:
    return httpx2.Response(status, headers=headers, json=body)


def fields_of(form: dict[str, Any]) -> dict[str, str]:
    return {name: part[1].decode() for name, part in form["files"] if part[0] is None}


def test_send_when_the_server_says_not_to_retry_then_one_request_only() -> None:
    steps = PROTOCOL.send("GET", "/v1/models")
    assert isinstance(next(steps), Send)

    with pytest.raises(ServerError, match="out of memory") as caught:
        steps.send(
            answer(503, {"x-should-retry": "false"}, error={"message": "out of memory", "code": "oom"})
        )

    assert (caught.value.status, caught.value.code) == (503, "oom")


def test_send_when_the_server_is_busy_then_as_often_as_allowed_with_its_pause() -> None:
    steps = PROTOCOL.send("GET", "/v1/models")
    pauses = []
    action = next(steps)
    with pytest.raises(ServerError) as caught:  # noqa: PT012 - the third answer raises
        while True:
            assert isinstance(action, Send)
            action = steps.send(answer(429, {"retry-after": "3"}, error={"message": "full", "code": None}))
            assert isinstance(action, Sleep)
            pauses.append(action.seconds)
            action = next(steps)

    assert pauses == [3.0, 3.0]
    assert caught.value.status == 429


def test_send_when_the_request_is_wrong_then_never_again() -> None:
    steps = PROTOCOL.send("POST", "/v1/jobs")
    next(steps)

    with pytest.raises(ServerError, match="answered 400 without a reason"):
        steps.send(answer(400, oops=1))


def test_follow_when_the_connection_is_lost_then_it_continues_after_the_last_event() -> None:
    job = {"id": "a", "kind": "edit", "state": "running"}
    from joyimage.client import Job

    steps = PROTOCOL.follow(Job.from_json(job), None)
    assert next(steps) == Open("/v1/jobs/a/events", {})
    steps.send(httpx2.Response(200))
    for line in ("id: 7", 'data: {"state": "running", "step": 1, "steps": 4}', ""):
        action = steps.send(line)
    action = steps.throw(httpx2.ReadError("gone"))
    assert isinstance(action, Sleep)
    assert next(steps) == Open("/v1/jobs/a/events", {"Last-Event-ID": "7"})


def test_form_when_an_edit_is_sent_then_its_own_field_names_and_the_requests() -> None:
    edit = Move(object="heart", box=(1, 2, 3, 4), sampling=Sampling(seed=0), framing=Framing(restore=False))

    fields = fields_of(make_form(edit, [b"x"], None, {"output_format": "webp", "masks": True}, "key"))

    assert fields == {
        "kind": "move",
        "object": "heart",
        "box": "1,2,3,4",
        "seed": "0",
        "restore": "false",
        "output_format": "webp",
        "masks": "true",
    }


def test_edit_when_fields_are_given_beside_it_then_they_win_and_others_belong_to_the_request() -> None:
    edit = Edit(prompt="x", sampling=Sampling(seed=1, num_inference_steps=4))

    value, extra = as_edit(edit, {"seed": 2, "output_format": "jpeg", "user": None})

    assert value == edit.replace(seed=2)
    assert extra == {"output_format": "jpeg"}


def test_edit_when_a_field_is_not_accepted_then_rejected_before_anything_is_sent() -> None:
    with pytest.raises(FieldError, match="`steps`"):
        as_edit("edit", {"prompt": "x", "steps": 0})
    with pytest.raises(FieldError, match="`kind`"):
        as_edit("paint", {})


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3), max_size=5))
def test_events_when_written_as_lines_then_read_in_order(events: list[dict[str, str]]) -> None:
    import json

    reader = EventReader()
    lines = [line for n, one in enumerate(events) for line in (f"id: {n}", f"data: {json.dumps(one)}", "")]

    assert [data for line in lines if (data := reader.read(line)) is not None] == events
    assert reader.last_id == (str(len(events) - 1) if events else None)
