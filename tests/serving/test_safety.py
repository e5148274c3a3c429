"""What strangers may not do."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import struct
import time
import zlib
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from PIL import Image

from joyimage.serving import fetching
from joyimage.serving.errors import ApiError
from joyimage.serving.security import ApiKeys
from joyimage.serving.settings import ServerSettings
from joyimage.serving.uploads import check_upload, measure
from tests.serving.parts import LiveServer, make_settings, png

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Serve = Callable[..., LiveServer]

KEY = "0123456789abcdef"


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is and goes no further."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def file_of(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_picture_when_measured_then_as_pillow_says(kind: str) -> None:
    for size in ((1, 1), (37, 90), (300, 17)):
        picture = Image.new("RGB", size, "red")
        assert measure(file_of(picture, kind)) == size
        assert measure(file_of(picture, kind, exif=b"Exif\0\0" + bytes(20))) == size
    if kind == "WEBP":
        assert measure(file_of(Image.new("RGBA", (37, 90)), "WEBP", lossless=True)) == (37, 90)
    if kind == "JPEG":
        assert measure(file_of(Image.new("RGB", (37, 90)), "JPEG", progressive=True)) == (37, 90)


@pytest.mark.parametrize(
    "data",
    [
        png_header(60_000, 60_000),
        png_header(2**31 - 1, 2**31 - 1),
        b"RIFF\xff\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6,
        b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff" + bytes(20),
    ],
)
def test_picture_when_huge_then_refused_before_a_decoder_sees_it(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: Any, **__: Any) -> None:
        raise AssertionError("a decoder was asked")

    monkeypatch.setattr(Image, "open", decode)

    with pytest.raises(ApiError) as refusal:
        check_upload(data, make_settings(tmp_path))

    assert refusal.value.status == 413
    assert "pixels" in refusal.value.message


def test_picture_when_its_data_expands_without_end_then_refused(tmp_path: Path) -> None:
    # 100 MB of zeros behind a header that says 10 x 10.
    packed = zlib.compress(bytes(100_000_000), 9)
    text = b"Comment\0\0" + packed
    bomb = png_header(10, 10)
    for name, data in ((b"zTXt", text), (b"IDAT", packed), (b"IEND", b"")):
        bomb += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    started = time.perf_counter()

    with pytest.raises(ApiError) as refusal:
        check_upload(bomb, make_settings(tmp_path))

    assert refusal.value.status == 400
    assert time.perf_counter() - started < 5


def test_picture_when_of_another_format_then_refused(tmp_path: Path) -> None:
    for data in (
        file_of(Image.new("RGB", (4, 4)), "GIF"),
        file_of(Image.new("RGB", (4, 4)), "TIFF"),
        b"",
        b"%PDF-1.7",
    ):
        with pytest.raises(ApiError, match="no PNG, JPEG or WebP"):
            check_upload(data, make_settings(tmp_path))


def test_body_when_too_large_then_413_with_and_without_a_length(serve: Serve) -> None:
    server = serve(max_body_bytes=50_000)
    with server.client() as client:
        told = client.post("/v1/jobs", content=bytes(60_000), headers={"Content-Type": "application/json"})
        untold = client.post(
            "/v1/jobs",
            content=(bytes(10_000) for _ in range(6)),
            headers={"Content-Type": "application/json"},
        )

    for answer in (told, untold):
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "body_too_large"


def test_file_when_too_large_then_413(serve: Serve) -> None:
    server = serve(max_image_bytes=1000)
    with server.client() as client:
        answer = client.post("/v1/images/edits", data={"prompt": "x"}, files=[("image", bytes(2000))])

    assert answer.status_code == 413
    assert "at most 1,000 are taken" in answer.json()["error"]["message"]


def test_body_when_it_comes_too_slowly_then_408_and_others_are_served(serve: Serve) -> None:
    server = serve(upload_timeout_s=0.4)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as slow, server.client() as client:
        slow.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b'Content-Length: 1000\r\n\r\n{"prompt":'
        )
        assert client.get("/healthz").status_code == 200
        answer = b""
        while b"upload_timeout" not in answer:
            chunk = slow.recv(4096)
            assert chunk, answer
            answer += chunk

    assert answer.startswith(b"HTTP/1.1 408")
    assert b"upload_timeout" in answer


def test_key_when_missing_or_wrong_then_401_on_every_route_but_health(serve: Serve) -> None:
    server = serve(api_keys=f"anna:{KEY}")
    paths = server.app.openapi()["paths"]
    with server.client() as client:
        for path, operations in paths.items():
            url = path.replace("{job_id}", "0" * 32).replace("{number}", "0").replace("{name}", "tiny")
            for method in operations:
                for header in (
                    {},
                    {"Authorization": "Bearer wrong-wrong-wrong-wrong"},
                    {"Authorization": KEY},
                ):
                    status = client.request(method, url, headers=header).status_code
                    assert status == (200 if path in {"/healthz", "/readyz"} else 401), (method, path)
        assert client.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_result_when_opened_by_another_signature_then_refused(serve: Serve) -> None:
    server = serve(api_keys=f"anna:{KEY}")
    with server.client(KEY) as anna, server.client() as stranger:
        answer = anna.post("/v1/images/generations", json={"prompt": "x", "response_format": "url"}).json()
        url = httpx2.URL(answer["data"][0]["url"])
        assert stranger.get(url).status_code == 200
        expires = int(url.params["expires"])
        for change in (
            {"signature": "0" * 64},
            {"expires": str(expires + 1)},
            {"expires": "x"},
            {"signature": "ä"},
        ):
            assert stranger.get(url.copy_merge_params(change)).status_code == 401
        assert stranger.get(url.copy_with(path=url.path[:-1] + "1")).status_code == 401


def test_keys_when_read_then_from_file_and_environment_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# ours\nanna:{KEY}\n\nbert-has-no-name-here\n")
    monkeypatch.setenv("JOYIMAGE_API_KEYS", "carl:carl-0123456789abc")
    settings = ServerSettings(api_keys_file=path, data_dir=tmp_path, database="postgresql://u:hidden@h/d")

    keys = ApiKeys(settings)

    assert sorted(keys._clients.values())[:2] == ["anna", "carl"]
    assert not [
        text for text in (KEY, "carl-0123456789abc", "hidden") if text in repr((settings, vars(keys)))
    ]
    monkeypatch.delenv("JOYIMAGE_API_KEYS")
    for content, words in (("short", "too short"), (f"{KEY}\n{KEY}", "there twice"), ("# none", "no key")):
        path.write_text(content)
        with pytest.raises(ValueError, match=words):
            ApiKeys(ServerSettings(api_keys_file=path, data_dir=tmp_path))


def test_log_when_requests_come_then_no_secret_in_it(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve(api_keys=f"anna:{KEY}")
    with caplog.at_level(logging.DEBUG), server.client(KEY) as client:
        answer = client.post(
            "/v1/images/generations", json={"prompt": "a private wish", "response_format": "url"}
        )
        url = answer.json()["data"][0]["url"]
        client.get(url)
        client.get("/v1/models", headers={"Authorization": "Bearer wrong-wrong-wrong-wrong"})

    text = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("joyimage"))
    assert "POST /v1/images/generations 200" in text
    for secret in (KEY, "wrong-wrong", "private wish", url.rpartition("signature=")[2]):
        assert secret not in text


def test_settings_when_listening_for_others_without_keys_then_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no API keys"):
        make_settings(tmp_path, host="0.0.0.0")
    assert make_settings(tmp_path, host="0.0.0.0", allow_anonymous=True).host_names == ()
    assert make_settings(tmp_path).is_loopback


def test_page_from_elsewhere_when_it_calls_then_refused(serve: Serve) -> None:
    server = serve()
    own = server.url
    with server.client() as client:

        def ask(**headers: str) -> int:
            return client.post(
                "/v1/images/generations", json={"prompt": "x", "steps": 1}, headers=headers
            ).status_code

        assert ask() == ask(Origin=own) == 200
        assert ask(Origin="https://evil.example") == ask(Origin="null") == 403
        assert ask(Host="evil.example") == 400  # a name that was made to point at this machine
        plain = client.options("/v1/images/generations", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in plain.headers


def test_page_from_elsewhere_when_it_is_allowed_then_served(serve: Serve) -> None:
    server = serve(cors_origins=("https://good.example",))
    with server.client() as client:
        answer = client.get("/v1/models", headers={"Origin": "https://good.example"})
        other = client.get("/v1/models", headers={"Origin": "https://evil.example"})

    assert answer.headers["access-control-allow-origin"] == "https://good.example"
    assert "access-control-allow-origin" not in other.headers


def test_answer_when_any_then_with_security_headers(server: LiveServer) -> None:
    with server.client() as client:
        answers = [client.get(path) for path in ("/healthz", "/nowhere", "/v1/jobs/x")]

    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_page_when_there_is_one_then_its_files_and_nothing_else(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    (folder / "parts").mkdir(parents=True)
    (folder / "index.html").write_text("<h1>joyimage</h1>")
    (folder / "parts" / "app.js").write_text("export {}")
    (folder / ".hidden").write_text("secret")
    (tmp_path / "secret.txt").write_text("secret")
    server = serve(web_dir=folder, folder=tmp_path / "data")
    host, port = server.url.removeprefix("http://").split(":")

    with server.client() as client:
        assert client.get("/").text == "<h1>joyimage</h1>"
        assert client.get("/parts/app.js").headers["content-type"].startswith("text/javascript")
        assert client.get("/.hidden").status_code == 404
    for path in (
        "/../secret.txt",
        "/parts/../../secret.txt",
        "/%2e%2e/secret.txt",
        "//etc/passwd",
        "/parts/",
    ):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
            )
            answer = connection.makefile("rb").read()
        assert b" 404 " in answer.partition(b"\r\n")[0], path
        assert b"secret\n" not in answer


def test_names_when_they_are_paths_then_nothing_is_opened(server: LiveServer) -> None:
    with server.client() as client:
        for field in ("lora", "model"):
            for value in ("../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "a/../b"):
                answer = client.post("/v1/images/generations", json={"prompt": "x", field: value})
                assert answer.status_code == 404
        for value in ("../../etc/passwd", "0" * 31 + "/", "%2e%2e%2f" * 4):
            assert client.get(f"/v1/jobs/{value}/images/0").status_code == 404
        named = client.post(
            "/v1/images/edits",
            data={"prompt": "x"},
            files=[("image", ("../../evil.png", png(), "image/png"))],
        )
        assert named.status_code == 200


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
