"""Connections that are silent, too many, or slow to read."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tests.serving.parts import LiveServer, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Serve = Callable[..., LiveServer]

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def connect(server: LiveServer) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def is_closed(connection: socket.socket) -> bool:
    """Read until the server closes the connection."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        return True
    return True


def test_connection_when_its_headers_do_not_come_then_closed(serve: Serve) -> None:
    server = serve(header_timeout_s=0.3)
    with connect(server) as silent, connect(server) as half:
        half.sendall(b"GET /healthz HT")

        assert is_closed(silent)
        assert is_closed(half)


def test_connection_when_a_request_is_answered_then_timed_again_only_from_the_next_ones_first_byte(
    serve: Serve,
) -> None:
    server = serve()
    with connect(server) as connection:
        wait_for(lambda: server.num_timed_connections == 1)
        connection.sendall(REQUEST)
        answer = connection.recv(65536)
        wait_for(lambda: server.num_timed_connections == 0)
        connection.sendall(REQUEST[:10])
        wait_for(lambda: server.num_timed_connections == 1)
        connection.sendall(REQUEST[10:])
        again = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 200")
    assert again.startswith(b"HTTP/1.1 200")


def test_connection_when_its_headers_are_there_then_the_body_has_a_limit_of_its_own(serve: Serve) -> None:
    server = serve()
    body = b'{"prompt": "x"}'
    with connect(server) as slow:
        slow.sendall(
            b"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        wait_for(lambda: server.num_connections == 1 and server.num_timed_connections == 0)
        slow.sendall(body)
        answer = slow.recv(65536)

    assert answer.startswith(b"HTTP/1.1 200")


def test_connections_when_there_are_too_many_then_the_oldest_silent_one_makes_way(serve: Serve) -> None:
    server = serve(max_connections=3)
    silent = [connect(server) for _ in range(3)]
    wait_for(lambda: server.num_connections == 3)

    with server.client() as client:
        assert client.get("/healthz").status_code == 200
        assert is_closed(silent[0])
        for one in silent[1:]:
            one.sendall(REQUEST)
            assert one.recv(65536).startswith(b"HTTP/1.1 200")
    for one in silent:
        one.close()


def test_reader_when_it_does_not_read_then_cut_off(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "index.html").write_bytes(b"x" * 30_000_000)
    server = serve(web_dir=folder, folder=tmp_path / "data", write_timeout_s=0.3)
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        host, port = server.url.removeprefix("http://").split(":")
        lazy.connect((host, int(port)))
        lazy.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        wait_for(lambda: server.num_connections == 1)
        wait_for(lambda: server.num_connections == 0)


def test_answer_when_large_then_sent_whole(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    content = bytes(range(256)) * 4001 + b"end"  # not a multiple of the parts in which it is sent
    (folder / "index.html").write_bytes(content)
    server = serve(web_dir=folder, folder=tmp_path / "data")
    with server.client() as client:
        assert client.get("/").content == content


def test_header_when_huge_then_rejected_before_it_is_kept(serve: Serve) -> None:
    server = serve()
    with connect(server) as sender:
        sender.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + b"x" * 200_000)
        answer = sender.recv(65536)

    assert answer.startswith(b"HTTP/1.1 400")
