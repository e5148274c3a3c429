"""The outermost layer of the server: who may call, how much and how slowly, and what browsers are told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from typing import TYPE_CHECKING

from joyimage.serving.logs import REQUEST_ID
from joyimage.serving.security.errors import ForbiddenError, RejectedError, TooLargeError, TooSlowError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from joyimage.serving.metrics import Metrics
    from joyimage.serving.settings import ServerSettings

logger = logging.getLogger("joyimage.access")

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_CHUNK = 64 * 2**10
# Closing a connection with unread bytes resets it, and many clients lose an answer that they have not read yet.
_MOST_DRAINED_BYTES = 32 * 2**20
_DRAIN_TIMEOUT_S = 5.0
_HEADERS = {
    # For the page at "/": its own scripts and styles, images it makes itself, nothing from elsewhere.
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


class SecurityMiddleware:
    """Checks Host and Origin, bounds bodies in size and time, adds headers, counts and logs.

    Args:
        app: The application behind it.
        settings: Limits.
        metrics: Where requests are counted.
        respond: Makes the answer to a rejected request.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        metrics: Metrics,
        respond: Callable[[Exception], Response],
    ) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._respond = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request.

        Raises:
            RejectedError: A body turned out too large or too slow when the answer had begun.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given_id = headers.get("x-request-id", "")
        request_id = given_id if _REQUEST_ID.fullmatch(given_id) else secrets.token_hex(8)
        token = REQUEST_ID.set(request_id)
        body = _Body(receive, self._settings, headers)
        answer = _Answer(send, request_id, body)
        inner = dict(scope)
        if len(scope["path"]) > 1 and scope["path"].endswith("/"):
            inner["path"] = scope["path"].rstrip("/") or "/"
        if scope["method"] == "HEAD":  # the server leaves out the body of the answer
            inner |= {"method": "GET", "is_head": True}
        try:
            rejection = self._rejection(scope, headers)
            if rejection is None:
                try:
                    await self._app(inner, body, answer)
                except RejectedError as error:
                    if answer.status:
                        raise
                    rejection = error
            if rejection is not None:
                response = self._respond(rejection)
                # More of the body may come than is read: the connection cannot be used again.
                response.headers["connection"] = "close"
                await response(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(inner.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.requests.labels(route, method, answer.status).inc()
            self._metrics.request_seconds.labels(route, method).observe(seconds)
            # Never the query: it may hold a signature.
            client = inner.get("state", {}).get("client", "-")
            logger.info("%s %s %s %d %.0f ms", client, method, route, answer.status, 1000 * seconds)
            with contextlib.suppress(ValueError):  # another context ends a stream
                REQUEST_ID.reset(token)

    def _rejection(self, scope: Scope, headers: dict[str, str]) -> RejectedError | None:
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        host = hosts[0] if len(hosts) == 1 else ""
        names = self._settings.host_names
        # A page whose name was made to point at this machine would send its own name here.
        is_odd = len(hosts) > 1 or any(letter in host for letter in "@/\\? ")
        if is_odd or (names and _host_name(host) not in names):
            return ForbiddenError("The Host header names another server.", code="host_not_allowed")
        origin = headers.get("origin")
        if origin and scope["method"] not in {"GET", "HEAD", "OPTIONS"}:
            own = host.lower()
            is_own = own != "" and origin.lower() in {f"http://{own}", f"https://{own}"}
            if not is_own and origin not in self._settings.cors_origins:
                return ForbiddenError(
                    "Pages of other sites may not call this server.", code="origin_not_allowed"
                )
        length = headers.get("content-length", "")
        if length and "transfer-encoding" in headers:
            # A proxy in front may have believed the other one, and taken another request for the rest.
            return RejectedError(
                "The request has Content-Length and Transfer-Encoding; send one of them.",
                code="invalid_length",
            )
        if length.isdigit() and int(length) > self._settings.max_body_bytes:
            return _too_large(self._settings)
        return None


class _Answer:
    """Sends an answer with headers of ours, in parts, so that the time limit for a slow reader is one for each.

    What is left of the request's body is read first, so that the client can read the answer.
    """

    def __init__(self, send: Send, request_id: str, request_body: _Body) -> None:
        self._send = send
        self._request_id = request_id
        self._request_body = request_body
        self.status = 0

    async def __call__(self, message: Message) -> None:
        """Send a message."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            await self._request_body.drain()
            present = {name.lower() for name, _ in message["headers"]}
            ours = {**_HEADERS, "x-request-id": self._request_id}
            message["headers"] = [
                *message["headers"],
                *[
                    (name.encode(), value.encode())
                    for name, value in ours.items()
                    if name.encode() not in present
                ],
            ]
        body = message.get("body", b"")
        start = 0
        while len(body) - start > _CHUNK:
            await self._send({**message, "body": body[start : start + _CHUNK], "more_body": True})
            start += _CHUNK
        await self._send({**message, "body": body[start:]} if start else message)


class _Body:
    """Receives a request's body, not more of it and not for longer than allowed."""

    def __init__(self, receive: Receive, settings: ServerSettings, headers: dict[str, str]) -> None:
        self._receive = receive
        self._settings = settings
        self._deadline = time.monotonic() + settings.upload_timeout_s
        self._num_bytes = 0
        has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        # A client that asks first has sent nothing yet, and sends nothing after an early answer.
        self._is_awaited = headers.get("expect", "").lower() == "100-continue"
        self._needs_drain = has_body
        self._is_whole = False

    async def __call__(self) -> Message:
        """Return the next message.

        Raises:
            TooLargeError: The body is too large.
            TooSlowError: The body takes too long.
        """
        if self._is_whole:
            return await self._receive()
        self._is_awaited = False
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._deadline - time.monotonic()))
        except TimeoutError:
            self._needs_drain = False  # it had its time
            limit = self._settings.upload_timeout_s
            raise TooSlowError(
                f"The body took more than {limit:g} s to arrive.", code="upload_timeout"
            ) from None
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > self._settings.max_body_bytes:
            error = _too_large(self._settings)
            raise error
        self._is_whole = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read and drop the rest of the body, up to a limit in bytes and time."""
        if self._is_whole or self._is_awaited or not self._needs_drain:
            return
        self._is_whole = True  # at most once
        num_bytes = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_TIMEOUT_S):
                while num_bytes < _MOST_DRAINED_BYTES:
                    message = await self._receive()
                    num_bytes += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return


def _too_large(settings: ServerSettings) -> TooLargeError:
    return TooLargeError(
        f"The body is too large; at most {settings.max_body_bytes:,} bytes are accepted.",
        code="body_too_large",
    )


def _host_name(host: str) -> str:
    """Return a Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()
