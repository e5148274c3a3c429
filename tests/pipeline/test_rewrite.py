"""Prompts are rewritten only when asked for, by whom was asked, and templates never."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from joyimage.errors import RewriteError
from joyimage.spatial import CameraMove, ObjectRotation
from joyimage.understanding.rewrite import rewrite
from tests import random_models

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = random_models.make_image(0, 64, 64)
FULL = "Turn the sky over the hills a deep evening red."


class Endpoint(BaseHTTPRequestHandler):
    """An OpenAI-compatible server's two routes; what it was sent is kept."""

    requests: list[dict[str, Any]]
    answer: dict[str, Any]
    status: int

    def reply(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.reply({"data": [{"id": "first"}, {"id": "second"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append({"path": self.path, "key": self.headers["Authorization"], **body})
        self.reply(self.answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    Endpoint.requests = []
    Endpoint.answer = {"choices": [{"message": {"content": f' "{FULL}"\n'}}]}
    Endpoint.status = 200
    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_endpoint_when_on_another_machine_without_encryption_then_the_key_of_openai_stays_here(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    elsewhere = endpoint.replace("127.0.0.1", "0.0.0.0")  # reaches this machine, but does not say so

    rewrite("red sky", None, elsewhere)
    monkeypatch.setenv("JOYIMAGE_REWRITE_KEY", "its-own-key")
    rewrite("red sky", None, elsewhere)
    rewrite("red sky", None, endpoint)

    assert [one["key"] for one in Endpoint.requests] == [None, "Bearer its-own-key", "Bearer its-own-key"]
    monkeypatch.delenv("JOYIMAGE_REWRITE_KEY")
    Endpoint.status = 401
    with pytest.raises(RewriteError, match=r"HTTP 401\. OPENAI_API_KEY was not sent, because 0\.0\.0\.0 is"):
        rewrite("red sky", None, elsewhere)
    with pytest.raises(RewriteError, match=r"HTTP 401\.$"):
        rewrite("red sky", None, endpoint)


def test_endpoint_when_asked_then_image_and_prompt_are_sent_and_its_sentence_comes_back(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")

    assert rewrite("red sky", IMAGE, endpoint) == FULL

    (request,) = Endpoint.requests
    assert (request["path"], request["model"], request["key"]) == (
        "/v1/chat/completions",
        "first",
        "Bearer a-key",
    )
    image, text = request["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert "red sky" in text["text"]


def test_endpoint_when_a_model_is_named_then_that_one(endpoint: str) -> None:
    rewrite("red sky", None, endpoint, model="second")

    assert Endpoint.requests[0]["model"] == "second"
    assert len(Endpoint.requests[0]["messages"][0]["content"]) == 1


@pytest.mark.parametrize(
    "prompt", [CameraMove(45).prompt, ObjectRotation("car", "left").prompt, "Move the camera."]
)
def test_template_when_rewriting_is_on_then_sent_to_no_one(endpoint: str, prompt: str) -> None:
    assert rewrite(prompt, IMAGE, endpoint) == prompt
    assert Endpoint.requests == []


def test_nothing_when_not_asked_for_then_the_prompt_itself() -> None:
    assert rewrite("red sky", IMAGE) == "red sky"


def test_local_when_asked_then_the_pipeline_describes() -> None:
    pipe: Any = random_models.make_pipeline()
    asked: list[str] = []
    plain = pipe.describe
    pipe.describe = lambda image, question, **settings: (
        asked.append(question) or plain(image, question, max_new_tokens=min(3, settings["max_new_tokens"]))
    )

    assert isinstance(rewrite("red sky", IMAGE, "local", pipe=pipe), str)
    assert "red sky" in asked[0]


def test_endpoint_when_it_fails_then_one_sentence(endpoint: str) -> None:
    Endpoint.status = 503
    with pytest.raises(RewriteError, match="HTTP 503"):
        rewrite("red sky", IMAGE, endpoint)
    Endpoint.status, Endpoint.answer = 200, {"choices": []}
    with pytest.raises(RewriteError, match="did not answer"):
        rewrite("red sky", IMAGE, endpoint)
    with pytest.raises(RewriteError, match="is unreachable"):
        rewrite("red sky", IMAGE, "http://127.0.0.1:9/v1")


@pytest.mark.parametrize("how", ["remote", "ftp://host/v1", "local"])
def test_how_when_it_can_not_be_then_rejected(how: str) -> None:
    with pytest.raises(ValueError, match="`how`"):
        rewrite("red sky", IMAGE, how)
