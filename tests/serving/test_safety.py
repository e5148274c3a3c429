"""What strangers may not do."""

from __future__ import annotations

import hmac
import io
import logging
import socket
import struct
import time
import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx2
import pytest
from PIL import Image
from starlette.requests import Request

from joyimage.serving.security.errors import TooLargeError, UploadError
from joyimage.serving.security.keys import ApiKeys
from joyimage.serving.security.signing import UrlSigner
from joyimage.serving.security.uploads import PixelBudget, read_upload
from joyimage.serving.settings import ServerSettings
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


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        png_header(60_000, 60_000),
        png_header(2**31 - 1, 2**31 - 1),
        b"RIFF\xff\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6,
        b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff" + bytes(20),
    ],
)
def test_image_when_huge_then_rejected_before_a_decoder_sees_it(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: Any, **__: Any) -> None:
        raise AssertionError("a decoder was asked")

    monkeypatch.setattr(Image, "open", decode)

    with pytest.raises(TooLargeError, match="pixels"):
        read_upload(data, make_settings(tmp_path), PixelBudget(10**8), "a")


def test_image_when_its_data_expands_without_end_then_only_its_pixels_are_decoded(tmp_path: Path) -> None:
    # 100 MB of zeros behind a header that says 10 x 10.
    packed = zlib.compress(bytes(100_000_000), 9)
    text = b"Comment\0\0" + packed
    bomb = png_header(10, 10)
    for name, data in ((b"zTXt", text), (b"IDAT", packed), (b"IEND", b"")):
        bomb += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    started = time.perf_counter()

    upload = read_upload(bomb, make_settings(tmp_path), PixelBudget(10**8), "a")

    assert upload.size == (10, 10)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "AVIF"])
def test_image_when_of_a_format_that_pillow_reads_then_accepted(kind: str, tmp_path: Path) -> None:
    upload = read_upload(
        file_of(Image.new("RGB", (6, 4), "red"), kind), make_settings(tmp_path), PixelBudget(100), "a"
    )

    assert upload.size == (6, 4)


@pytest.mark.parametrize("data", [b"", b"%PDF-1.7", b"P6 1 1 255 abc", b"<svg/>"])
def test_file_when_no_image_of_an_accepted_format_then_rejected(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(UploadError, match="expected PNG, JPEG"):
        read_upload(data, make_settings(tmp_path), PixelBudget(100), "a")


def test_jpeg_when_it_has_hundreds_of_scans_then_rejected_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = file_of(Image.new("L", (64, 64)), "JPEG", progressive=True)
    last = plain.rindex(b"\xff\xda")
    bomb = plain[:last] + plain[last:-2] * 400 + b"\xff\xd9"
    assert read_upload(plain, make_settings(tmp_path), PixelBudget(10**6), "a").size == (64, 64)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("a decoder was asked"))

    with pytest.raises(UploadError, match="scans"):
        read_upload(bomb, make_settings(tmp_path), PixelBudget(10**6), "a")


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


def test_body_when_its_length_is_told_in_two_ways_then_rejected_and_the_connection_closed(
    serve: Serve,
) -> None:
    address = urlsplit(serve().url)
    request = (
        b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\nGET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    )

    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(request)
        answer = connection.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Content-Length and Transfer-Encoding" in answer
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    ("path", "kind", "status"),
    [
        ("/v1/jobs", "text/plain", 415),
        ("/v1/jobs", "application/json", 413),
        ("/v1/nothing", "application/json", 404),
        ("/healthz", "application/json", 405),
    ],
)
def test_body_when_rejected_early_then_the_client_reads_the_answer(
    serve: Serve, path: str, kind: str, status: int
) -> None:
    address = urlsplit(serve(max_body_bytes=1_000_000).url)
    body = bytes(1_500_000 if status == 413 else 900_000)
    head = f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: {kind}\r\n"
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=20) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        # Like many clients, this one sends the whole body before it reads; the network is slower than the server.
        for start in range(0, len(body), 300_000):
            time.sleep(0.1)
            connection.sendall(body[start : start + 300_000])
        answer = connection.recv(65536)

    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer


def test_file_when_too_large_then_413(serve: Serve) -> None:
    server = serve(max_image_bytes=1000)
    with server.client() as client:
        answer = client.post("/v1/images/edits", data={"prompt": "x"}, files=[("image", bytes(2000))])

    assert answer.status_code == 413
    assert "at most 1,000 are accepted" in answer.json()["error"]["message"]


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
                    answer = client.request(method, url, headers=header)
                    is_open = path in {"/healthz", "/livez", "/readyz"}
                    assert answer.status_code == (200 if is_open else 401), (method, path)
                    assert answer.headers.get("www-authenticate") == (None if is_open else "Bearer")
        assert client.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_result_when_opened_by_another_signature_then_rejected(serve: Serve) -> None:
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


def test_key_when_compared_then_with_all_that_there_are_and_in_constant_time(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes]] = []
    plain = hmac.compare_digest

    def note(known: Any, given: Any) -> bool:
        compared.append((known, given))
        return plain(known, given)

    server = serve(api_keys=f"anna:{KEY},bert:{KEY}x")
    monkeypatch.setattr(hmac, "compare_digest", note)
    with server.client(KEY) as anna:
        assert anna.get("/v1/models").status_code == 200

    # Also after the first that fits; and hashes, whose length tells nothing.
    assert len(compared) == 2
    assert {len(part) for pair in compared for part in pair} == {32}


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
    for content, words in (("short", "too short"), (f"{KEY}\n{KEY}", "appears twice"), ("# none", "no key")):
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


def test_log_when_the_database_fails_then_it_says_why_and_no_prompt(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    with server.service.store.database.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON joyimage_jobs BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
    with server.client() as client:
        answer = client.post("/v1/images/generations", json={"prompt": "a private wish"})

    assert answer.status_code == 503
    assert "disk full" in caplog.text
    assert "private wish" not in caplog.text + answer.text


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("93.184.216.34", "93.184.216.34"),
        ("::ffff:93.184.216.34", "93.184.216.34"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("a socket", "a socket"),
    ],
)
def test_client_when_there_are_no_keys_then_told_apart_by_its_address(
    address: str, name: str, tmp_path: Path
) -> None:
    request = Request({"type": "http", "headers": [], "client": (address, 1234)})

    assert ApiKeys(make_settings(tmp_path)).client_of(request) == name


def test_secret_of_addresses_when_made_then_kept_and_made_anew_where_it_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    first = UrlSigner(path).sign("/x", 9)

    assert UrlSigner(path).sign("/x", 9) == first
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"")
    assert UrlSigner(path).sign("/x", 9) != first
    assert [(one.name, one.stat().st_size) for one in tmp_path.iterdir()] == [("secret", 32)]


def test_settings_when_listening_for_others_without_keys_then_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no API keys"):
        make_settings(tmp_path, host="0.0.0.0")
    assert make_settings(tmp_path, host="0.0.0.0", allow_anonymous=True).host_names == ()
    assert make_settings(tmp_path).is_loopback


def test_page_from_elsewhere_when_it_calls_then_rejected(serve: Serve) -> None:
    server = serve()
    own = server.url
    with server.client() as client:

        def ask(**headers: str) -> int:
            return client.post(
                "/v1/images/generations", json={"prompt": "x", "steps": 1}, headers=headers
            ).status_code

        assert ask() == ask(Origin=own) == 200
        assert ask(Origin="https://evil.example") == ask(Origin="null") == 403
        assert (
            ask(Origin="http://[") == ask(Origin=own + "/x") == ask(Origin=own.replace("http", "ftp")) == 403
        )
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
        without = [
            client.get("/", headers={"Accept-Encoding": name}) for name in ("gzip;q=0", "gzip; q=0.0", "x")
        ]
        assert not any("content-encoding" in answer.headers for answer in without)
        packed = client.get("/", headers={"Accept-Encoding": "br, GZIP;q=0.5"})
        assert (packed.headers["content-encoding"], packed.text) == ("gzip", "<h1>joyimage</h1>")
        assert client.get("/", headers={"If-None-Match": "*"}).status_code == 304
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
