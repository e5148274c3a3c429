"""Who may come in, how much they may carry, and what browsers are told."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import logging
import secrets
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from joyimage.serving.http.errors import ApiError

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from joyimage.serving.metrics import Metrics
    from joyimage.serving.settings import ServerSettings

logger = logging.getLogger("joyimage.access")

_SHORTEST_KEY = 16
_SECRET_BYTES = 32
_HEADERS = {
    # For the page at "/": its own scripts and styles, pictures it makes itself, nothing from elsewhere.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; font-src 'self'; manifest-src 'self'; worker-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class ApiKeys:
    """The keys that open the server. Only their hashes are kept.

    Args:
        settings: Say where the keys are.

    Raises:
        ValueError: A key is too short, or there twice, or the file can't be read.
    """

    def __init__(self, settings: ServerSettings) -> None:
        given = settings.api_keys.get_secret_value().split(",") if settings.api_keys else []
        if settings.api_keys_file is not None:
            given += _read_lines(settings.api_keys_file)
        self._clients: dict[bytes, str] = {}
        for number, entry in enumerate((entry.strip() for entry in given if entry.strip()), start=1):
            name, colon, key = entry.rpartition(":")
            if len(key) < _SHORTEST_KEY:
                raise ValueError(
                    f"API key {number} is too short; expected {_SHORTEST_KEY} characters or more."
                )
            digest = hashlib.sha256(key.encode()).digest()
            if digest in self._clients:
                raise ValueError(f"API key {number} is there twice.")
            self._clients[digest] = name.strip() if colon else f"key-{digest.hex()[:8]}"
        if settings.api_keys_file is not None and not self._clients:
            raise ValueError(f"`api_keys_file` is {settings.api_keys_file}; it holds no key.")

    def __bool__(self) -> bool:
        return bool(self._clients)

    def client_of(self, request: Request) -> str:
        """Return whose request it is: the name of its key, or where it comes from if there are no keys.

        Raises:
            ApiError: The key is missing or wrong.
        """
        if not self._clients:
            return _origin(request)
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise ApiError(
                401, "An API key is needed: send `Authorization: Bearer KEY`.", code="missing_api_key"
            )
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        # All of them, each in constant time: how long it takes says nothing about how near a guess was.
        found = [name for known, name in self._clients.items() if hmac.compare_digest(known, digest)]
        if not found:
            raise ApiError(401, "The API key is wrong.", code="invalid_api_key")
        return found[0]


class UrlSigner:
    """Signs the addresses of results, which OpenAI's clients open without a key.

    Args:
        path: Where the secret is kept, so that addresses outlive a restart; made where missing.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists() or path.stat().st_size < _SECRET_BYTES:
            _write_secret(path)
        self._secret = path.read_bytes()

    def sign(self, path: str, expires: int) -> str:
        """Return the query that opens a path until a time."""
        return f"expires={expires}&signature={self._mac(path, expires)}"

    def opens(self, path: str, expires: str, signature: str, now: float) -> bool:
        """Tell whether a query opens a path."""
        if not (expires.isascii() and expires.isdigit() and len(expires) < 16) or int(expires) < now:
            return False
        return hmac.compare_digest(
            self._mac(path, int(expires)).encode(), signature.encode("utf-8", "replace")
        )

    def _mac(self, path: str, expires: int) -> str:
        return hmac.new(self._secret, f"{path}?{expires}".encode(), hashlib.sha256).hexdigest()


class Guard:
    """The outermost layer: checks Host and Origin, bounds bodies in size and time, adds headers, logs.

    Args:
        app: What it guards.
        settings: Hold the limits.
        metrics: Where requests are counted.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request.

        Raises:
            ApiError: A body turned out too large or too slow when the answer had begun.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        seen = {"status": 0}

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                present = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *[
                        (name.encode(), value.encode())
                        for name, value in _HEADERS.items()
                        if name.encode() not in present
                    ],
                ]
            await send(message)

        try:
            refusal = self._refusal(scope, headers)
            if refusal is not None:
                await _respond(refusal, answer)
                return
            body = _Body(receive, self._settings)
            try:
                await self._app(scope, body, answer)
            except ApiError as error:
                if seen["status"]:
                    raise
                await _respond(error, answer)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, scope["method"], seen["status"]).inc()
            # Never the query: it may hold a signature.
            logger.info(
                "%s %s %d %.0f ms",
                scope["method"],
                route,
                seen["status"],
                1000 * (time.perf_counter() - started),
            )

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> ApiError | None:
        host = headers.get("host", "")
        names = self._settings.host_names
        # A page whose name was made to point at this machine would send its own name here.
        if names and _host_name(host) not in names:
            return ApiError(400, "The Host header names another server.", code="host_not_allowed")
        origin = headers.get("origin")
        if origin and scope["method"] not in {"GET", "HEAD", "OPTIONS"}:
            is_own = urlsplit(origin).netloc == host and origin != "null"
            if not is_own and origin not in self._settings.cors_origins:
                return ApiError(
                    403, "Pages from elsewhere may not call this server.", code="origin_not_allowed"
                )
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._settings.max_body_bytes:
            return _too_large(self._settings)
        return None


class _Body:
    """Receives a request's body, not more of it and not for longer than allowed."""

    def __init__(self, receive: Receive, settings: ServerSettings) -> None:
        self._receive = receive
        self._settings = settings
        self._deadline = time.monotonic() + settings.upload_timeout_s
        self._num_bytes = 0
        self._is_whole = False

    async def __call__(self) -> Message:
        """Return the next message.

        Raises:
            ApiError: The body is too large or too slow.
        """
        if self._is_whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._deadline - time.monotonic()))
        except asyncio.TimeoutError:
            limit = self._settings.upload_timeout_s
            raise ApiError(
                408, f"The body took more than {limit:g} s to arrive.", code="upload_timeout"
            ) from None
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > self._settings.max_body_bytes:
            error = _too_large(self._settings)
            raise error
        self._is_whole = not message.get("more_body", False)
        return message


def _too_large(settings: ServerSettings) -> ApiError:
    return ApiError(
        413,
        f"The body is too large; at most {settings.max_body_bytes:,} bytes are taken.",
        code="body_too_large",
    )


async def _respond(error: ApiError, send: Any) -> None:
    body = json.dumps(error.body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    # What is left of the body is not read: the connection can't be used again.
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _host_name(host: str) -> str:
    """Return a Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()


def _origin(request: Request) -> str:
    """Name an anonymous client by its address, those of one IPv6 network as one."""
    host = request.client.host if request.client else "unknown"
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if ip.version == 6 and ip.ipv4_mapped is not None:  # of a socket that listens for both
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network(f"{ip}/64", strict=False)) if ip.version == 6 else str(ip)


def _write_secret(path: Path) -> None:
    # Whole or not at all: one that a full disk cut short would be easy to guess.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        partial.touch(mode=0o600)
        partial.write_bytes(secrets.token_bytes(_SECRET_BYTES))
        if path.exists():
            path.unlink()
        path.hardlink_to(partial)
    except FileExistsError:  # another server was first
        return
    finally:
        partial.unlink(missing_ok=True)


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a key file; those that begin with # are remarks.

    Raises:
        ValueError: It can't be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ValueError(f"`api_keys_file` is {path}, which can't be read: {reason}.") from None
    return [line for line in lines if not line.lstrip().startswith("#")]
