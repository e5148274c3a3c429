"""What a client should know of a job that runs: images read in part, values without effect or hardly trained."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import pytest

from joyimage.client import Client
from joyimage.edits import Camera, Edit, Sampling
from joyimage.serving.jobs.task import Task
from tests.imaging.test_color_tags import cicp
from tests.imaging.test_color_tags import png as with_chunks
from tests.serving.parts import LiveServer, ended, opened, png

if TYPE_CHECKING:
    from collections.abc import Callable

    Serve = Callable[..., LiveServer]


def animation() -> bytes:
    frames = [opened(png(number)).convert("RGB") for number in (1, 2, 3)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def hdr() -> bytes:
    return with_chunks(opened(png(1)).convert("RGB"), cicp(9, 16))


FRAMES = "it has 3 frames; the first one is used."
UNUSED = "`negative_prompt` has no effect: `guidance_scale` is 1"
UNTRAINED = "Yaw 44° with pitch 0° is not on the trained grid"


@pytest.mark.parametrize(
    ("fields", "file", "expected"),
    [
        ({"kind": "edit", "prompt": "x"}, animation(), [f"`image`: {FRAMES}"]),
        ({"kind": "edit", "prompt": "x"}, hdr(), ["`image`: it is an HDR image"]),
        ({"kind": "edit", "prompt": "x", "negative_prompt": "y", "guidance": "1"}, png(1), [UNUSED]),
        ({"kind": "camera", "yaw": "44"}, png(1), [UNTRAINED]),
        ({"kind": "camera", "yaw": "44"}, animation(), [f"`image`: {FRAMES}", UNTRAINED]),
        ({"kind": "describe"}, animation(), [f"`image`: {FRAMES}"]),
        ({"kind": "edit", "prompt": "x", "negative_prompt": "y", "guidance": "2"}, png(1), []),
    ],
)
def test_job_when_something_is_to_be_known_then_its_record_says_so_from_the_start(
    server: LiveServer, fields: dict[str, str], file: bytes, expected: list[str]
) -> None:
    with server.client() as client:
        first = client.post("/v1/jobs", data=fields, files=[("image", file)])
        assert first.status_code == 202, first.text
        last = ended(client, first.json())

    for record in (first.json(), last):
        assert len(record["warnings"]) == len(expected), record["warnings"]
        for warning, start in zip(record["warnings"], expected, strict=True):
            assert warning.startswith(start)


def test_images_when_something_is_to_be_known_then_the_answer_says_so_and_else_is_as_before(
    server: LiveServer,
) -> None:
    with server.client() as client:
        told = client.post("/v1/images/edits", data={"prompt": "x"}, files=[("image", animation())]).json()
        plain = client.post("/v1/images/edits", data={"prompt": "x"}, files=[("image", png(1))]).json()
        described = client.post("/v1/describe", files=[("image", animation())]).json()

    assert told["warnings"] == [f"`image`: {FRAMES}"]
    assert "warnings" not in plain
    assert described["warnings"] == [f"`image`: {FRAMES}"]


def test_plan_when_a_step_is_hardly_trained_then_that_step_says_so(server: LiveServer) -> None:
    steps: list[dict[str, Any]] = [{"kind": "camera", "yaw": 45}, {"kind": "camera", "yaw": 44}]
    with server.client() as client:
        image = "data:image/png;base64," + base64.b64encode(png(1)).decode("ascii")
        answer = client.post("/v1/jobs", json={"kind": "plan", "steps": steps, "image": image})
        plan = ended(client, answer.json())

    assert [len(step["warnings"]) for step in plan["plan"]] == [0, 1]
    assert plan["plan"][1]["warnings"][0].startswith(UNTRAINED)


def test_job_when_its_prompt_is_cut_off_then_its_record_says_so_in_the_end(server: LiveServer) -> None:
    with server.client() as client:
        fields = {"kind": "edit", "prompt": "red " * 6000}
        record = ended(client, client.post("/v1/jobs", data=fields, files=[("image", png(1))]).json())

    assert [warning.endswith("tokens too long; its end is left out.") for warning in record["warnings"]] == [
        True
    ]


def test_client_when_something_is_to_be_known_then_the_job_has_it(server: LiveServer) -> None:
    job = Client(server.url).run(Camera(yaw=44), [opened(png(1))])

    assert [warning.startswith(UNTRAINED) for warning in job.warnings] == [True]


def test_task_when_written_by_an_older_server_then_without_warnings() -> None:
    task = Task(edit=Edit(prompt="x", sampling=Sampling(seed=1)), warnings=("a", "b"))
    row = task.to_dict()
    assert Task.from_dict(row) == task
    del row["warnings"]
    assert Task.from_dict(row).warnings == ()
