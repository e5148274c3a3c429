"""Plans: several edits as one job, each of what the one before it made."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from PIL import Image

from joyimage.client import AsyncClient, Client, Progress, ServerError
from joyimage.edits import Edit, Rotate
from joyimage.errors import InvalidInputError, OutOfMemoryError
from joyimage.serving.jobs.plan import PlanTask
from joyimage.serving.jobs.plan_run import PlanRun
from joyimage.serving.jobs.records import Job
from joyimage.serving.jobs.task import UnreadableJobError
from joyimage.types import ImageSize
from tests.serving.parts import SIDE, Gate, LiveServer, difference, ended, make_task, opened, png, wait_for
from tests.serving.test_jobs_api import read_events

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx2

    from joyimage.serving.workers.local import LocalRunner

    Serve = Callable[..., LiveServer]

RED = {"kind": "edit", "prompt": "red", "seed": 1, "steps": 3}
TURN = {"kind": "rotate", "object": "car", "view": "back", "seed": 2, "steps": 2}
MOVE = {"kind": "move", "object": "car", "box": [2, 4, 40, 30], "seed": 3, "steps": 2}
CAMERA = {"kind": "camera", "yaw": 45, "seed": 4, "steps": 2}


def post(client: httpx2.Client, *steps: Any, key: str | None = None, **fields: Any) -> httpx2.Response:
    """Queue a plan as a form."""
    data = {"kind": "plan", "steps": json.dumps(steps), **fields}
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/v1/jobs", data=data, files=[("image", png(1))], headers=headers)


def alone(client: httpx2.Client, step: dict[str, Any], image: bytes, **files: bytes) -> bytes:
    """What a step makes as a job of its own."""
    data = {
        name: ",".join(map(str, one)) if isinstance(one, list) else str(one) for name, one in step.items()
    }
    given = [("image", image), *files.items()]
    record = ended(client, client.post("/v1/jobs", data=data, files=given).json())
    assert record["state"] == "succeeded", record["error"]
    return client.get(f"/v1/jobs/{record['id']}/images/0").content


def mask_png(side: int) -> bytes:
    """A mask of which the left half may change."""
    mask = Image.new("RGBA", (side, side), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, side // 2, side))
    file = io.BytesIO()
    mask.save(file, "PNG")
    return file.getvalue()


class Scripted:
    """A runner that fails at one of its calls, and at another waits until it is stopped."""

    def __init__(
        self, runner: LocalRunner, *, fails_at: int = 0, waits_at: int = 0, error: Exception | None = None
    ) -> None:
        self.info = runner.info
        self.calls = 0
        self._runner = runner
        self._fails_at = fails_at
        self._waits_at = waits_at
        self._error = error or InvalidInputError("There is no car in this image.")

    def run(self, items: Any, report: Any, is_stopped: Any) -> Any:
        self.calls += 1
        if self.calls == self._fails_at:
            raise self._error
        if self.calls == self._waits_at:
            wait_for(is_stopped)
            return None
        return self._runner.run(items, report, is_stopped)


def test_plan_when_run_then_every_step_works_on_the_result_before_and_each_is_kept(
    server: LiveServer,
) -> None:
    with server.client() as client:
        answer = post(client, RED, TURN, MOVE, CAMERA)
        record = ended(client, answer.json())
        images = [client.get(address).content for address in record["images"]]
        expected, image = [], png(1)
        for step in (RED, TURN, MOVE, CAMERA):
            image = alone(client, step, image)
            expected.append(image)
        before = client.get(record["inputs"][0]).content

    assert (answer.status_code, record["kind"], record["state"]) == (202, "plan", "succeeded")
    assert [difference(*pair) for pair in zip(images, expected, strict=True)] == [0] * 4
    assert before == png(1)
    assert [(one["kind"], one["state"], one["seed"], one["steps"]) for one in record["plan"]] == [
        ("edit", "succeeded", 1, 3),
        ("rotate", "succeeded", 2, 2),
        ("move", "succeeded", 3, 2),
        ("camera", "succeeded", 4, 2),
    ]
    assert [one["image"] for one in record["plan"]] == record["images"]
    assert "rear side view" in record["plan"][1]["prompt"]
    assert record["plan"][2]["checks"]
    assert record["plan"][2]["edit"]["box"] == [2, 4, 40, 30]


def test_plan_when_followed_then_progress_over_all_steps_and_an_event_for_each(
    serve: Serve, runner: LocalRunner
) -> None:
    gate = Gate(runner)
    server = serve(gate)
    with server.client() as client:
        job = post(client, RED, TURN).json()
        with client.stream("GET", f"/v1/jobs/{job['id']}/events") as stream:
            gate.is_open.set()
            events = list(read_events(stream.iter_lines()))

    assert [event["event"] for event in events] == [
        *("queued", "running"),
        *["progress"] * 3,
        "step",
        *["progress"] * 2,
        "step",
        "succeeded",
    ]
    progress = [event["data"] for event in events if event["event"] == "progress"]
    assert [(one["step"], one["steps"]) for one in progress] == [(n, 5) for n in range(1, 6)]
    assert [one["plan_step"] for one in progress] == [1, 1, 1, 2, 2]
    steps = [event["data"] for event in events if event["event"] == "step"]
    assert [(one["state"], one["plan_step"], one["plan_steps"]) for one in steps] == [
        ("running", 1, 2),
        ("running", 2, 2),
    ]
    assert len(events[-1]["data"]["job"]["images"]) == 2


def test_plan_when_steps_change_the_size_then_boxes_and_masks_lie_on_what_each_gets(
    server: LiveServer,
) -> None:
    first = {**RED, "size": f"{2 * SIDE}x{SIDE // 2}"}  # another aspect ratio
    with server.client() as client:
        made = alone(client, first, png(1, 96, 64))
        width, height = opened(made).size
        move = {**MOVE, "box": [0.1, 0.1, 0.6, 0.8]}
        masked = {**RED, "mask": "data:image/png;base64," + base64.b64encode(mask_png(40)).decode()}
        answer = client.post(
            "/v1/jobs",
            data={"kind": "plan", "steps": json.dumps([first, move, masked])},
            files=[("image", png(1, 96, 64))],
        )
        record = ended(client, answer.json())
        images = [client.get(address).content for address in record["images"]]
        moved = alone(client, move, made)
        (shown,) = [client.get(address).content for address in record["masks"]]

    assert record["state"] == "succeeded", record["error"]
    assert (width, height) != (96, 64)
    assert difference(images[1], moved) == 0
    assert [one["mask"] is not None for one in record["plan"]] == [False, False, True]
    assert opened(shown).size == opened(images[2]).size
    changed = np.asarray(opened(shown).convert("L"))
    assert changed[:, : changed.shape[1] // 4].max() == 255
    assert changed[:, -changed.shape[1] // 4 :].max() == 0


def test_plan_when_a_step_fails_then_the_results_before_it_stay_and_it_is_named(
    serve: Serve, runner: LocalRunner
) -> None:
    server = serve(Scripted(runner, fails_at=2))
    with server.client() as client:
        record = ended(client, post(client, RED, TURN, CAMERA).json())
        image = client.get(record["images"][0])
        again = client.get(f"/v1/jobs/{record['id']}").json()
        before = client.get(record["inputs"][0])

    assert record["state"] == "failed"
    assert record["error"] == {
        "message": "Step 2 of 3: There is no car in this image.",
        "code": "invalid_value",
        "plan_step": 2,
    }
    assert [one["state"] for one in record["plan"]] == ["succeeded", "failed", "not_run"]
    assert opened(image.content).size == (SIDE, SIDE)
    assert before.status_code == 200
    assert again["images"] == record["images"]


def test_plan_when_cancelled_within_a_step_then_the_results_before_it_stay(
    serve: Serve, runner: LocalRunner
) -> None:
    server = serve(Scripted(runner, waits_at=2))
    with server.client() as client:
        job = post(client, RED, TURN, CAMERA).json()
        path = f"/v1/jobs/{job['id']}"
        running = wait_for(lambda: (one := client.get(path).json())["images"] and one)  # while the job runs
        early = client.get(running["images"][0])
        client.delete(path)
        record = ended(client, job)
        kept = client.get(record["images"][0])
        gone = client.delete(path).json()

    assert (running["state"], len(running["images"])) == ("running", 1)
    assert [one["state"] for one in running["plan"]] == ["succeeded", "running", "queued"]
    assert early.content == kept.content
    assert record["state"] == "cancelled"
    assert [one["state"] for one in record["plan"]] == ["succeeded", "cancelled", "not_run"]
    assert (gone["images"], gone["plan"][0]["image"]) == ([], None)


def test_plan_when_memory_runs_out_then_it_is_that_steps_error(serve: Serve, runner: LocalRunner) -> None:
    server = serve(Scripted(runner, fails_at=1, error=OutOfMemoryError("Too large.")))
    with server.client() as client:
        record = ended(client, post(client, RED, TURN).json())

    assert (record["state"], record["images"]) == ("failed", [])
    assert record["error"] == {"message": "Step 1 of 2: Too large.", "code": "out_of_memory", "plan_step": 1}


def test_plan_when_its_server_stops_then_the_next_continues_after_the_last_result(
    tmp_path: Path, serve: Serve, runner: LocalRunner
) -> None:
    server = serve(Scripted(runner, waits_at=2), tmp_path, shutdown_grace_s=0.1)
    with server.client() as client:
        job = post(client, RED, TURN, CAMERA).json()
        running = wait_for(lambda: (one := client.get(f"/v1/jobs/{job['id']}").json())["images"] and one)
        first = client.get(running["images"][0]).content
    server.close()
    following = Scripted(runner)
    with serve(following, tmp_path).client() as client:
        record = ended(client, job)
        images = [client.get(f"/v1/jobs/{job['id']}/images/{number}").content for number in range(3)]

    assert record["state"] == "succeeded"
    assert [one["state"] for one in record["plan"]] == ["succeeded"] * 3
    assert images[0] == first
    assert following.calls == 2


@pytest.mark.parametrize(
    ("steps", "param", "words"),
    [
        ([RED, {"kind": "rotate", "view": "back"}], "steps[1].object", "`steps[1].object` is missing"),
        ([RED, {**MOVE, "box": [0, 0, 900, 900]}], "steps[1].box", "`steps[1].box`"),
        ([RED, TURN, {**CAMERA, "yaw": 900}], "steps[2].yaw", "`steps[2].yaw` is 900"),
        ([{"kind": "describe"}], "steps[0].kind", "expected one of edit, move, rotate, camera"),
        ([{**RED, "n": 2}], "steps[0].num_images", "expected 1"),
        ([{**RED, "steps": 100_000}], "steps[0].steps", "`steps[0].steps` is 100000"),
        ([{**RED, "image": "x"}], "steps[0].image", "no image in a step"),
        ([{**RED, "mask": "bm8="}], "steps[0].mask", "`steps[0].mask`"),
        ([{**RED, "tint": 1}], "steps[0].tint", "`steps[0].tint`"),
        (["red"], "steps[0]", "an object of fields"),
        ([], "steps", "a list of edits"),
        ([RED] * 21, "steps", "at most 20"),
    ],
)
def test_plan_when_a_step_cannot_work_then_rejected_whole_with_its_place(
    server: LiveServer, steps: list[Any], param: str, words: str
) -> None:
    with server.client() as client:
        number = len(client.get("/v1/jobs").json()["data"])
        answer = post(client, *steps)
        after = len(client.get("/v1/jobs").json()["data"])

    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert words in error["message"]
    assert after == number


def test_plan_when_its_form_is_wrong_then_one_clear_sentence(server: LiveServer) -> None:
    with server.client() as client:
        files = [("image", png(1))]
        no_json = client.post("/v1/jobs", data={"kind": "plan", "steps": "[{"}, files=files)
        no_image = client.post("/v1/jobs", json={"kind": "plan", "steps": [RED]})
        mask = client.post(
            "/v1/jobs",
            data={"kind": "plan", "steps": json.dumps([RED])},
            files=[*files, ("mask", mask_png(SIDE))],
        )
        unknown = client.post("/v1/jobs", data={"kind": "plant", "steps": "[]"}, files=files)

    assert no_json.json()["error"]["message"] == "`steps` is not valid JSON."
    assert no_image.json()["error"]["message"] == "`image` is missing; expected an image."
    assert "inside the step" in mask.json()["error"]["message"]
    assert "describe, plan" in unknown.json()["error"]["message"]
    assert {one.status_code for one in (no_json, no_image, mask, unknown)} == {400}


def test_plan_when_sent_again_with_its_key_then_one_job_and_another_plan_is_rejected(
    server: LiveServer,
) -> None:
    with server.client() as client:
        first = post(client, RED, TURN, key="plan-1")
        second = post(client, RED, TURN, key="plan-1")
        other = post(client, TURN, RED, key="plan-1")

    assert first.json()["id"] == second.json()["id"]
    assert other.status_code == 422


def test_client_when_it_runs_a_plan_then_images_progress_and_what_a_failed_one_made(
    serve: Serve, runner: LocalRunner, server: LiveServer
) -> None:
    steps = [Edit(prompt="red").replace(seed=1, num_inference_steps=3), {**TURN, "mask": None}]
    seen: list[Progress] = []
    with Client(server.url) as client, server.client() as plain:
        job = client.plan(png(1), steps, progress=seen.append, output_format="png")
        images = client.images(job)
        expected = alone(plain, TURN, alone(plain, RED, png(1)))
        with pytest.raises(InvalidInputError, match=r"`steps\[1\]`: `view` is 'up'"):
            client.plan(png(1), [RED, {**TURN, "view": "up"}])

    async def work() -> Any:
        async with AsyncClient(server.url) as client:
            return await client.plan(png(1), [Rotate(object="car", view="back")])

    assert difference(images[1], expected) == 0
    assert [(one.plan_step, one.plan_steps) for one in seen if one.step][-1] == (2, 2)
    assert [one["state"] for one in job.plan or []] == ["succeeded"] * 2
    assert len(asyncio.run(work()).images) == 1

    with Client(serve(Scripted(runner, fails_at=2)).url) as client:
        with pytest.raises(ServerError, match="Step 2 of 2") as caught:
            client.plan(png(1), [RED, TURN])
        assert caught.value.job is not None
        assert len(client.images(caught.value.job)) == 1


@pytest.mark.parametrize("harm", [{"plan": []}, {"plan": [{}]}, {"sizes": ["1x"]}, {"sizes": []}])
def test_plan_when_its_row_is_damaged_then_it_says_so(harm: dict[str, Any]) -> None:
    good = PlanTask(steps=(make_task("edit"),), sizes=(ImageSize(4, 4),)).to_dict()

    assert PlanTask.from_dict(good).cost == make_task("edit").cost
    with pytest.raises(UnreadableJobError, match="submit the job again"):
        PlanTask.from_dict({**good, **harm})


def test_plan_when_cancelled_as_it_is_taken_up_again_then_its_results_stay() -> None:
    settled: list[dict[str, Any]] = []

    class Completion:
        def settle(self, _job: Job, state: str, **values: Any) -> None:
            settled.append({"state": state, **values})

    known = {"plan": [{"image": 0, "mask": None, "seed": 1}], "plan_bytes": 7, "num_images": 1}
    job = Job(
        id="a",
        client="",
        kind="plan",
        task={},
        request_hash="",
        state="running",
        stored_bytes=3,
        result=known,
    )
    options = {"prefetched": {}, "timeout_s": 1.0, "is_interrupted": lambda: False}
    PlanRun(cast("Any", Completion()), cast("Any", None), [job], **options).fail_open("internal_error", "x")

    assert settled[0]["result"]["plan"] == known["plan"]
    assert (settled[0]["state"], settled[0]["stored_bytes"]) == ("failed", 10)
