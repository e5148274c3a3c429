"""API keys: how they are written, when they are read again, and who a client without one is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from starlette.requests import Request

from joyimage.errors import InvalidInputError
from joyimage.serving.security import keys as keys_module
from joyimage.serving.security.keys import ApiKeys, read_keys
from tests.serving.parts import LiveServer, make_settings, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Serve = Callable[..., LiveServer]

KEY = "0123456789abcdef"


@pytest.mark.parametrize("given", ["", " ", ",", "\n", " ,\n, "])
def test_keys_when_given_and_blank_then_rejected_and_never_an_open_server(given: str, tmp_path: Path) -> None:
    for host in ("0.0.0.0", "127.0.0.1"):
        with pytest.raises(ValueError, match=r"holds no key|no API keys"):
            ApiKeys(make_settings(tmp_path, host=host, api_keys=given))
    with pytest.raises(ValueError, match="holds no key"):
        make_settings(tmp_path, host="0.0.0.0", api_keys=given)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("anna:short", "too short"),
        (f"{KEY} # laptop", "contains a space"),
        (f"sk-proj:{KEY}", "begins like a key"),
        (f"a:b:{KEY}", "the only colon"),
        (f"{'x' * 65}:{KEY}", "1 to 64"),
        (f"anna:{KEY}\nbert:{KEY}", "appears twice"),
        ("# nothing but a remark", "holds no key"),
    ],
)
def test_key_when_it_would_be_read_as_another_then_rejected(line: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(line)

    with pytest.raises(InvalidInputError, match=words):
        read_keys(None, path)


def test_keys_when_their_file_has_a_byte_order_mark_then_names_are_plain(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"anna:{KEY}\n", encoding="utf-8-sig")

    assert list(read_keys(None, path).values()) == ["anna"]


def test_keys_when_their_file_changes_then_added_and_revoked_without_a_restart(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "_LOOK_S", 0)
    path = tmp_path / "keys"
    path.write_text(f"anna:{KEY}\n")
    server = serve(api_keys_file=path, folder=tmp_path / "data")
    with server.client(KEY) as anna, server.client(f"{KEY}x") as bert:

        def statuses() -> list[int]:
            return [client.get("/v1/models").status_code for client in (anna, bert)]

        before = statuses()
        path.write_text(f"bert:{KEY}x\n")
        os.utime(path, (1, 1))
        after = wait_for(lambda: (found := statuses()) != before and found)
        path.write_text("nothing that is a key\n")
        os.utime(path, (2, 2))
        broken = statuses()

    assert before == [200, 401]
    assert after == broken == [401, 200]


def client_of(tmp_path: Path, address: str, forwarded: str, *proxies: str) -> str:
    headers = [(b"x-forwarded-for", forwarded.encode())]
    request = Request({"type": "http", "headers": headers, "client": (address, 1)})
    return ApiKeys(make_settings(tmp_path, trusted_proxies=proxies)).client_of(request)


def test_client_when_behind_trusted_proxies_then_named_by_the_last_address_that_one_vouches_for(
    tmp_path: Path,
) -> None:
    assert client_of(tmp_path, "127.0.0.1", "6.6.6.6, 8.8.8.8", "127.0.0.0/8") == "8.8.8.8"
    assert client_of(tmp_path, "127.0.0.1", "9.9.9.9, 10.0.0.2", "127.0.0.1", "10.0.0.0/8") == "9.9.9.9"
    assert client_of(tmp_path, "127.0.0.1", "no address", "127.0.0.1") == "127.0.0.1"


def test_client_when_it_names_itself_through_no_trusted_proxy_then_not_believed(tmp_path: Path) -> None:
    assert client_of(tmp_path, "7.7.7.7", "9.9.9.9") == "7.7.7.7"
    assert client_of(tmp_path, "7.7.7.7", "9.9.9.9", "127.0.0.1") == "7.7.7.7"


def test_host_when_named_twice_or_with_a_user_then_rejected(server: LiveServer) -> None:
    import socket

    host, port = server.url.removeprefix("http://").split(":")
    for hosts in ("Host: 127.0.0.1\r\nHost: evil.com", "Host: 127.0.0.1:@evil.com", "Host: 127.0.0.1/x"):
        with socket.create_connection((host, int(port)), timeout=10) as sender:
            sender.sendall(f"GET /v1/models HTTP/1.1\r\n{hosts}\r\n\r\n".encode())
            assert b" 400 " in sender.recv(4096).partition(b"\r\n")[0]
