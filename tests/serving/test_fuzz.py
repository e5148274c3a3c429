"""Requests that no one would send on purpose: the server answers each with a sentence, never with a 5xx."""

from __future__ import annotations

import io
import json
import random
import struct
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from PIL import Image
from schemathesis.core.result import Ok

from tests.serving.parts import LiveServer, make_settings, png

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from joyimage.serving.workers.local import LocalRunner


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, runner: LocalRunner) -> Iterator[LiveServer]:
    """A server whose limits keep wild requests short."""
    limits = {"max_steps": 2, "max_outputs": 2, "max_output_pixels": 128 * 128, "max_image_pixels": 1_000_000}
    server = LiveServer(make_settings(tmp_path_factory.mktemp("fuzz"), **limits), runner)
    yield server
    server.close()


def images() -> list[bytes]:
    made = []
    for kind, options in (
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
    ):
        for mode in ("RGB", "L"):
            file = io.BytesIO()
            Image.open(io.BytesIO(png(3, 48, 40))).convert(mode).save(file, kind, **options)
            made.append(file.getvalue())
    return made


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 20)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def flip_header(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(min(40, len(changed)))] = rng.randrange(256)
    return bytes(changed)


def enlarge(data: bytes, rng: random.Random) -> bytes:
    """Let the header claim a huge size."""
    size = rng.choice([65_535, 20_000, 2_000])
    if data[:4] == b"\x89PNG":
        return data[:16] + struct.pack(">II", size, size) + data[24:]
    place = data.find(b"\xff\xc0")
    if place > 0:
        return data[: place + 5] + struct.pack(">HH", size, size) + data[place + 9 :]
    return data[:24] + b"\xff" * 6 + data[30:]


def polyglot(data: bytes, rng: random.Random) -> bytes:
    """Let it be something else as well."""
    other = rng.choice(
        [b"<script>alert(1)</script>", b"%PDF-1.7\n", b"PK\x03\x04", b"GIF89a", b"#!/bin/sh\n", bytes(500)]
    )
    return data + other if rng.random() < 0.5 else other + data


def splice(data: bytes, rng: random.Random) -> bytes:
    other = rng.choice(images())
    place = rng.randrange(len(data))
    return data[:place] + other[rng.randrange(len(other)) :]


CHANGES: list[Callable[[bytes, random.Random], bytes]] = [cut, flip, flip_header, enlarge, polyglot, splice]


def check_uploads(server: LiveServer, num_cases: int) -> dict[int, int]:
    """Send broken images and count the answers."""
    rng = random.Random(0)
    whole = images()
    counts: dict[int, int] = {}
    fields = {"prompt": "x", "steps": "1"}
    with server.client() as client:
        for case in range(num_cases):
            data = CHANGES[case % len(CHANGES)](rng.choice(whole), rng)
            answer = client.post("/v1/images/edits", data=fields, files=[("image", ("a.png", data))])
            counts[answer.status_code] = counts.get(answer.status_code, 0) + 1
            assert answer.status_code in {200, 400, 413}, (case, answer.text)
            if answer.status_code != 200:
                assert answer.json()["error"]["message"].endswith(".")
        assert client.post("/v1/images/edits", data=fields, files=[("image", png())]).status_code == 200
    return counts


def test_uploads_when_broken_then_rejected_or_read_but_never_an_error(small: LiveServer) -> None:
    counts = check_uploads(small, 60)

    assert counts[400] >= 15
    assert counts[413] >= 5


@pytest.mark.slow
def test_uploads_when_broken_in_500_ways_then_never_an_error(small: LiveServer) -> None:
    print(check_uploads(small, 500))  # noqa: T201 - the report


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"prompt": NaN}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "x", "\\ud800": 1}',
        b'{"prompt": "x", "fit": "\\ud800"}',
        b'{"prompt": "x", "model": "\\ud800"}',
        b'{"prompt": "\\u0000", "steps": 1}',
        b'{"prompt": "x", "guidance": 1e999}',
        b'{"prompt": "x", "n": 1e30}',
        b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": "x", "size": "' + b"9" * 5000 + b"x" + b"9" * 5000 + b'"}',
        b'{"prompt": "x", "size": "\xd9\xa1x\xd9\xa1"}',
        b"\xff\xfe\x00",
    ],
)
def test_json_when_strange_then_a_sentence(small: LiveServer, body: bytes) -> None:
    with small.client() as client:
        for path in ("/v1/images/generations", "/v1/images/edits", "/v1/jobs", "/v1/spatial/parse"):
            answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code < 500, (path, answer.text)
            json.loads(answer.content)


@pytest.mark.parametrize("field", ["partial_images", "output_compression", "n"])
@pytest.mark.parametrize("value", [True, False])
def test_json_when_a_number_is_true_or_false_then_rejected_by_name(
    small: LiveServer, field: str, value: bool
) -> None:
    with small.client() as client:
        answer = client.post("/v1/images/generations", json={"prompt": "x", field: value})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"no boundary"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\n" * 1000),
        ("multipart/form-data; boundary=" + "x" * 1000, b"--" + b"x" * 1000),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx'),
        ("application/x-www-form-urlencoded", b"%ff%fe=%00&" * 50),
        ("text/plain", b"x"),
        ("application/octet-stream", bytes(1000)),
    ],
)
def test_form_when_strange_then_a_sentence(small: LiveServer, kind: str, body: bytes) -> None:
    with small.client() as client:
        answer = client.post("/v1/images/edits", content=body, headers={"Content-Type": kind})

    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"]["message"]


def check_document(server: LiveServer, num_examples: int) -> int:
    """Send what the OpenAPI document allows, and what it doesn't, to every operation."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    num_calls = 0
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()

        def call(case: Any) -> None:
            nonlocal num_calls
            num_calls += 1
            answer = case.call(timeout=30)
            assert answer.status_code < 500, (case.as_curl_command(), answer.text)
            if answer.status_code >= 400:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

        bounded = settings(
            max_examples=num_examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=tuple(HealthCheck.__members__.values()),
        )
        operation_test = schemathesis_test(operation, bounded, call)
        operation_test()
    return num_calls


def schemathesis_test(operation: Any, bounded: Any, call: Callable[[Any], None]) -> Callable[[], None]:
    from hypothesis import given

    @bounded
    @given(case=operation.as_strategy())
    def run(case: Any) -> None:
        call(case)

    return run


def test_document_when_followed_then_no_operation_answers_5xx(small: LiveServer) -> None:
    assert check_document(small, 4) >= 40


@pytest.mark.slow
def test_document_when_followed_for_long_then_no_operation_answers_5xx(small: LiveServer) -> None:
    num_calls = check_document(small, 300)

    assert num_calls >= 2000
    print(f"\n{num_calls} calls")  # noqa: T201 - the report


def test_document_when_read_then_examples_work_and_every_route_is_there(small: LiveServer) -> None:
    with small.client() as client:
        document = client.get("/openapi.json").json()
        posts = [path for path, operations in document["paths"].items() if "post" in operations]
        for path in posts:
            content = document["paths"][path]["post"]["requestBody"]["content"]
            answer = client.post(path, json=content["application/json"]["example"])
            assert answer.status_code in {200, 202}, answer.text

    assert len(posts) == 9
    assert {"/v1/models", "/healthz", "/readyz", "/metrics", "/v1/jobs/{job_id}/events"} <= set(
        document["paths"]
    )
    assert document["components"]["securitySchemes"]
