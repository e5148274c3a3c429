"""Pictures that a request names by address: fetched from the public internet only, and only where allowed."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from joyimage.serving import fetching
from joyimage.serving.errors import ApiError
from tests.serving.parts import LiveServer, make_settings, png

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1"),
        *("::1", "fe80::1", "fc00::1", "::ffff:127.0.0.1", "2002:7f00:1::", "224.0.0.1", "255.255.255.255"),
    ],
)
def test_address_when_private_then_not_public(address: str) -> None:
    assert not fetching.is_public(address)


def test_image_url_when_switched_off_then_a_sentence(server: LiveServer) -> None:
    with server.client() as client:
        answer = client.post("/v1/images/edits", json={"prompt": "x", "image": "http://example.org/a.png"})

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "image_urls_disabled"


class Site:
    """A web site on loopback that answers as a test says, one connection after the other."""

    def __init__(self, *answers: bytes, pause_s: float = 0.0) -> None:
        import threading

        self._answers = list(answers)
        self._pause_s = pause_s
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.asked: list[bytes] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        for answer in self._answers:
            connection, _ = self._socket.accept()
            with connection, contextlib.suppress(OSError):  # the other side may have had enough
                self.asked.append(connection.recv(65536).partition(b"\r\n")[0])
                for start in range(0, len(answer), 20_000):
                    connection.sendall(answer[start : start + 20_000])
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
    site.stand_in(monkeypatch, "pictures.example")

    data = fetching.fetch_picture("http://pictures.example/a.png", make_settings(tmp_path))

    assert data == png(1)
    assert site.asked == [b"GET /a.png HTTP/1.1", b"GET /b.png?x=1 HTTP/1.1"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1/a.png", "not on the public internet"),
        ("http://[::1]/a.png", "not on the public internet"),
        ("http://169.254.169.254/latest/meta-data", "not on the public internet"),
        ("http://2130706433/", "not on the public internet"),
        ("http://user:word@pictures.example/", "without a password"),
        ("http://pictures.example:22/", "port 80 or 443"),
        ("ftp://pictures.example/", "http or https"),
    ],
)
def test_image_url_when_it_leads_inside_then_refused(url: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ApiError, match=words):
        fetching.fetch_picture(url, make_settings(tmp_path))


def test_image_url_when_it_redirects_inside_is_huge_or_slow_then_refused(
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
            site.stand_in(patch, "pictures.example")
            with pytest.raises(ApiError, match=words):
                fetching.fetch_picture("http://pictures.example/", settings)
