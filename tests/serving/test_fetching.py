"""Images that a request names by address: fetched from the public internet only, and only where allowed."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from starlette.testclient import TestClient

from joyimage.serving.app import create_app
from joyimage.serving.security import fetching
from joyimage.serving.security.errors import UploadError
from tests.serving.parts import LiveServer, make_settings, png, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from joyimage.serving.workers.local import LocalRunner


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1"),
        *("::1", "fe80::1", "fc00::1", "::ffff:127.0.0.1", "2002:7f00:1::", "224.0.0.1", "255.255.255.255"),
        *(
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::10.0.0.1",
            "::10.0.0.1",
            "::ffff:0:10.0.0.1",
            "fec0::1",
            "ff0e::1",
        ),
        *("2001:0:7f00:1::", "fe80::1%eth0", "2001:db8::1"),
    ],
)
def test_address_when_private_then_not_public(address: str) -> None:
    assert not fetching.is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
)
def test_address_when_of_the_internet_then_public(address: str) -> None:
    assert fetching.is_public(address)


def test_image_url_when_switched_off_then_a_sentence(server: LiveServer) -> None:
    with server.client() as client:
        answer = client.post("/v1/images/edits", json={"prompt": "x", "image": "http://example.org/a.png"})

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "image_urls_disabled"


class Site:
    """A web site on loopback that answers as a test says, one connection after the other."""

    def __init__(self, *answers: bytes, pause_s: float = 0.0, part_bytes: int = 20_000) -> None:
        self._answers = list(answers)
        self._pause_s = pause_s
        self._part_bytes = part_bytes
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.asked: list[bytes] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        for answer in self._answers:
            connection, _ = self._socket.accept()
            with connection, contextlib.suppress(OSError):  # the other side may have had enough
                self.asked.append(connection.recv(65536).partition(b"\r\n")[0])
                for start in range(0, len(answer), self._part_bytes):
                    connection.sendall(answer[start : start + self._part_bytes])
                    time.sleep(self._pause_s)
        self._socket.close()

    def stand_in(self, monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
        """Let names of the internet lead here, as far as the gate is concerned they are public."""
        plain = socket.create_connection
        known = {f"93.184.216.{number}": host for number, host in enumerate(hosts, start=1)}

        def look_up(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
            found = [address for address, name in known.items() if name == host] or [host]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found[0], port))]

        def connect(address: tuple[str, int], **options: Any) -> socket.socket:
            assert address[0] in known, "a connection past the gate"
            return plain(("127.0.0.1", self.port), **options)

        monkeypatch.setattr(fetching.socket, "getaddrinfo", look_up)
        monkeypatch.setattr(fetching.socket, "create_connection", connect)


def ok(data: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data


def redirect(url: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n".encode()


def test_image_url_when_switched_on_then_fetched_through_redirects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(redirect("/b.png?x=1"), ok(png(1)))
    site.stand_in(monkeypatch, "images.example")

    data = fetching.fetch_image("http://images.example/a.png", make_settings(tmp_path))

    assert data == png(1)
    assert site.asked == [b"GET /a.png HTTP/1.1", b"GET /b.png?x=1 HTTP/1.1"]


def test_image_url_when_an_edit_names_one_then_as_if_the_image_had_been_sent(
    tmp_path: Path, runner: LocalRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(tmp_path, image_urls=True, allowed_hosts=("testserver",))
    with TestClient(create_app(settings, lambda _: runner)) as client:
        wait_for(lambda: client.get("/readyz").status_code == 200)
        Site(ok(png(1))).stand_in(monkeypatch, "images.example")
        ask = {"prompt": "red", "seed": 1}

        named = client.post("/v1/images/edits", json={**ask, "image": "http://images.example/a.png"})
        inside = client.post("/v1/images/edits", json={**ask, "image": "http://127.0.0.1/a.png"})
        sent = client.post("/v1/images/edits", data=ask, files=[("image", png(1))])

    assert named.json()["data"] == sent.json()["data"]
    assert (inside.status_code, inside.json()["error"]["code"]) == (400, "image_url")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1/a.png", "not on the public internet"),
        ("http://[::1]/a.png", "not on the public internet"),
        ("http://169.254.169.254/latest/meta-data", "not on the public internet"),
        ("http://2130706433/", "not on the public internet"),
        ("http://user:word@images.example/", "without a password"),
        ("http://images.example:22/", "port 80 or 443"),
        ("ftp://images.example/", "http or https"),
    ],
)
def test_image_url_when_it_leads_inside_then_rejected(url: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UploadError, match=words):
        fetching.fetch_image(url, make_settings(tmp_path))


def test_image_url_when_it_redirects_inside_is_huge_or_slow_then_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(tmp_path, max_image_bytes=100_000, url_timeout_s=0.5)
    inside = redirect("http://127.0.0.1:80/secret")
    for site, words in (
        (Site(inside), "not on the public internet"),
        (Site(redirect("/a"), redirect("/b"), redirect("/c"), redirect("/d")), "too many redirects"),
        (Site(ok(bytes(200_000))), "more than 100,000 bytes"),
        (Site(ok(bytes(90_000)), pause_s=0.3), "takes too long|TimeoutError"),
        (Site(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"), "answers 404"),
    ):
        with monkeypatch.context() as patch:
            site.stand_in(patch, "images.example")
            with pytest.raises(UploadError, match=words):
                fetching.fetch_image("http://images.example/", settings)


def test_image_url_when_its_host_sends_a_byte_now_and_then_then_rejected_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(tmp_path, url_timeout_s=0.4)
    slow_head = b"HTTP/1.1 200 OK\r\n" + b"X-Wait: x\r\n" * 20
    for answer in (slow_head, b"HTTP/1.1 200 OK\r\n\r\n" + bytes(200)):
        with monkeypatch.context() as patch:
            Site(answer, pause_s=0.05, part_bytes=1).stand_in(patch, "images.example")
            # Each byte comes in time: only a limit of the whole can reject it.
            with pytest.raises(UploadError, match="takes too long"):
                fetching.fetch_image("http://images.example/", settings)


def test_image_url_when_its_name_servers_are_silent_then_rejected_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over = threading.Event()
    monkeypatch.setattr(fetching.socket, "getaddrinfo", lambda *_, **__: is_over.wait(30) and [])

    with pytest.raises(UploadError, match="takes too long"):
        fetching.fetch_image("http://images.example/", make_settings(tmp_path, url_timeout_s=0.1))
    is_over.set()


def test_image_url_when_one_of_its_hosts_addresses_is_private_then_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(*_: Any, **__: Any) -> list[Any]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 80)) for one in ("93.184.216.1", "10.0.0.1")
        ]

    monkeypatch.setattr(fetching.socket, "getaddrinfo", look_up)

    with pytest.raises(UploadError, match="not on the public internet"):
        fetching.fetch_image("http://images.example/", make_settings(tmp_path))


def test_image_url_when_its_name_changes_after_the_check_then_the_checked_address_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(ok(png(1)))
    site.stand_in(monkeypatch, "images.example")
    look_up = fetching.socket.getaddrinfo
    answers = []

    def rebind(host: str, *arguments: Any, **options: Any) -> list[Any]:
        answers.append(host)
        return look_up(host if len(answers) == 1 else "127.0.0.1", *arguments, **options)

    monkeypatch.setattr(fetching.socket, "getaddrinfo", rebind)

    # The site rejects a connection to any address but the first.
    assert fetching.fetch_image("http://images.example/a.png", make_settings(tmp_path)) == png(1)
    assert answers[0] == "images.example"
