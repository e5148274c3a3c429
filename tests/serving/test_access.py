"""Who may see and touch which job: no one but the key that made it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from joyimage.edits import Defaults, Edit
from joyimage.serving.http.admission import batch_key
from joyimage.serving.jobs.task import Task
from joyimage.types import ImageSize
from tests.serving.parts import create, ended, make_settings, png

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.serving.parts import LiveServer

    Serve = Callable[..., LiveServer]

ANNA, BERT = "anna-0123456789abc", "bert-0123456789abc"
KEYS = f"anna:{ANNA},bert:{BERT}"
SECRET = "anna's secret plan"


def test_job_when_another_key_asks_for_it_then_not_found_on_every_route_and_untouched(serve: Serve) -> None:
    server = serve(api_keys=KEYS)
    paths = server.app.openapi()["paths"]
    routes = [(path, method) for path in paths for method in paths[path] if "{job_id}" in path]
    with server.client(ANNA) as anna, server.client(BERT) as bert:
        fields = {"kind": "edit", "prompt": SECRET, "preserve": "true"}
        job = ended(anna, anna.post("/v1/jobs", data=fields, files={"image": ("a.png", png())}).json())
        assert job["state"] == "succeeded"
        assert job["masks"]

        for path, method in [*routes, *((path, "head") for path, method in routes if method == "get")]:
            url = path.replace("{job_id}", job["id"]).replace("{number}", "0")
            answer = bert.request(method, url)
            assert answer.status_code == 404, (method, path)
            assert SECRET not in answer.text
            never_was = bert.request(method, url.replace(job["id"], "0" * 32))
            assert (never_was.status_code, never_was.text) == (404, answer.text)  # not even that it exists
        listed = bert.get("/v1/jobs")

        assert len(routes) >= 5  # record, events, cancel, images, masks
        assert listed.status_code == 200
        assert job["id"] not in listed.text
        assert SECRET not in listed.text
        again = anna.get(f"/v1/jobs/{job['id']}").json()
        assert (again["state"], len(again["images"])) == ("succeeded", len(job["images"]))
        assert anna.get(f"/v1/jobs/{job['id']}/images/0").status_code == 200
        assert anna.get(f"/v1/jobs/{job['id']}/masks/0").status_code == 200


def test_key_when_sent_in_another_scheme_then_401(serve: Serve) -> None:
    server = serve(api_keys=KEYS)
    with server.client() as stranger:
        for scheme in ("Basic", "Digest", "Token", "Negotiate", "ApiKey", "Bearer:", "Bearer,", ""):
            for url in ("/v1/models", "/v1/jobs", "/v1/jobs/" + "0" * 32):
                headers = {"Authorization": f"{scheme} {ANNA}".strip()}
                assert stranger.get(url, headers=headers).status_code == 401, scheme
        for header in (f"Bearer {ANNA}", f"bearer {ANNA}", f"BEARER  {ANNA}"):
            assert stranger.get("/v1/models", headers={"Authorization": header}).status_code == 200
        assert stranger.get("/v1/models", headers={"api-key": ANNA}).status_code == 200
        for url in (f"/v1/models?api_key={ANNA}", f"/v1/models?key={ANNA}", f"/v1/models?token={ANNA}"):
            assert stranger.get(url).status_code == 401


def test_address_of_a_result_when_its_time_has_passed_then_it_opens_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(api_keys=KEYS)
    with server.client(ANNA) as anna, server.client() as stranger, server.client(BERT) as bert:
        job = ended(anna, create(anna).json())
        url = httpx2.URL(job["images"][0])
        expires = int(url.params["expires"])
        now = server.service.clock()
        assert expires > now

        monkeypatch.setattr(server.service, "clock", lambda: expires - 1.0)
        assert stranger.get(url).status_code == 200
        monkeypatch.setattr(server.service, "clock", lambda: expires + 1.0)
        assert stranger.get(url).status_code == 401
        assert bert.get(url).status_code == 404
        assert anna.get(url).status_code == 200


def make_task(**changes: Any) -> Task:
    fields = {"prompt": "x", "seed": 1, **changes.pop("edit", {})}
    edit = Edit.from_dict(fields).resolve(Defaults(num_inference_steps=4, guidance_scale=1.0))
    return Task(edit=edit, given={}, **{"target_size": ImageSize(64, 64), **changes})


DIFFERENT: dict[str, dict[str, Any]] = {
    "num_inference_steps": {"edit": {"num_inference_steps": 5}},
    "guidance_scale": {"edit": {"guidance_scale": 2.0}},
    "num_images": {"edit": {"num_images": 2}},
    "loras": {"edit": {"loras": ["style"]}},
    "other loras": {"edit": {"loras": ["other"]}},
    "size": {"edit": {"size": "64x64"}},
    "fit": {"edit": {"fit": "pad"}},
    "restore": {"edit": {"restore": True}},
    "preserve": {"edit": {"preserve": True}},
    "region": {"edit": {"region": (0, 0, 9, 9)}},
    "close_up": {"edit": {"close_up": True, "region": (0, 0, 9, 9), "restore": True}},
    "feather": {"edit": {"feather": 3, "region": (0, 0, 9, 9)}},
    "speed": {"edit": {"speed": "fast"}},
    "num_candidates": {"edit": {"num_candidates": 2}},
    "until": {"edit": {"until": 0.5}},
    "max_attempts": {"edit": {"max_attempts": 2, "until": 0.5}},
    "judge": {"edit": {"judge": True}},
    "intent": {"edit": {"intent": "literal"}},
    "a negative prompt beside none": {"edit": {"negative_prompt": "y"}},
    "target_size": {"target_size": ImageSize(64, 80)},
    "num_inputs": {"num_inputs": 2},
}


def test_jobs_when_they_differ_in_any_setting_then_they_never_share_a_batch(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, batch_pixels=10**9)
    keys = {name: batch_key(make_task(**changes), settings) for name, changes in DIFFERENT.items()}
    keys["plain"] = batch_key(make_task(), settings)

    alone = {name for name, key in keys.items() if key is None}
    assert alone == {"close_up", "num_candidates", "until", "max_attempts"}
    assert len(set(keys.values())) == len(keys) - len(alone) + 1
    assert set(Edit.settings()) - set(DIFFERENT) <= {"prompt", "negative_prompt", "seed", "force"}


@pytest.mark.parametrize(
    "change",
    [
        {"edit": {"prompt": "another"}},
        {"edit": {"seed": 2}},
        {"edit": {"force": True}},
        {"output_format": "webp"},
    ],
)
def test_jobs_when_they_differ_in_what_is_each_ones_own_then_they_share_a_batch(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    settings = make_settings(tmp_path, batch_pixels=10**9)
    plain, changed = make_task(), make_task(**change)

    assert batch_key(plain, settings) is not None
    assert batch_key(changed, settings) == batch_key(plain, settings)
