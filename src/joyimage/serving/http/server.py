"""The HTTP server below the application: time limits of connections, their number, and an orderly stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

try:
    import resource
except ImportError:  # Windows
    resource = None

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from types import FrameType

    from fastapi import FastAPI

    from joyimage.serving.settings import ServerSettings

logger = logging.getLogger(__name__)

_KEEP_ALIVE_S = 30
_LEAVING_S = 5  # for answers that are on their way when the last job has ended
_OTHER_FILES = 128  # descriptors for the database, images and threads


class HttpServer(uvicorn.Server):
    """Serves the application, and stops it in this order: no new jobs, answers, everything else.

    Args:
        app: The application.
        settings: Settings of the server.
        on_started: Called once the application has started and takes requests.
    """

    def __init__(
        self, app: FastAPI, settings: ServerSettings, on_started: Callable[[], object] = lambda: None
    ) -> None:
        self._app = app
        self._on_started = on_started
        self._is_hurried = False
        protocol: Any = partial(BoundedProtocol, settings=settings, most=_most_connections(settings))
        super().__init__(
            uvicorn.Config(
                app,
                # The other parser that uvicorn knows takes headers of any size, before a key is asked for.
                http=protocol,
                ws="none",
                log_config=None,
                access_log=False,  # its lines hold queries, and those hold signatures
                proxy_headers=False,  # anyone can send them; `trusted_proxies` says whose are believed
                server_header=False,
                # Jobs end within the grace time, and only then do their clients get their answers.
                timeout_graceful_shutdown=round(settings.shutdown_grace_s) + _LEAVING_S,
                timeout_keep_alive=_KEEP_ALIVE_S,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application.

        Raises:
            Exception: What kept the application from starting; it is not logged as well.
            SystemExit: The application cannot be started, for a reason that it has logged.
        """
        log = logging.getLogger("uvicorn.error")
        log.disabled = True
        try:
            await super().startup(sockets)
        except SystemExit:
            error = getattr(self._app.state, "startup_error", None)
            if error is None:
                raise
            raise error from None
        finally:
            log.disabled = False
        if self.started:
            self._on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop in order; at a second Ctrl+C do not wait for running jobs, and at a third for nothing."""
        service = getattr(self._app.state, "service", None)
        if sig == signal.SIGINT and self.should_exit and service is not None and not self._is_hurried:
            self._is_hurried = True
            # Not in the signal's handler, which may have come while this very thread holds a lock.
            threading.Thread(target=service.interrupt, name="joyimage-interrupt", daemon=True).start()
            return
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no further jobs, let the clients of running ones get their answers, then close."""
        service = getattr(self._app.state, "service", None)
        if service is not None:
            await asyncio.to_thread(service.begin_close)
        await super().shutdown(sockets)


class BoundedProtocol(H11Protocol):
    """A connection with time limits for its headers and for taking an answer.

    Where there are too many connections, the one that has been without a request for longest makes way, so that
    silent ones keep no client out.

    Args:
        settings: Time limits.
        most: Most connections.
        arguments: Arguments of uvicorn.
    """

    def __init__(self, *, settings: ServerSettings, most: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._header_timeout_s = settings.header_timeout_s
        self._write_timeout_s = settings.write_timeout_s
        self._most = most
        self._idle_since = time.monotonic()
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no request has arrived whole up to the end of its headers, and none is being answered."""
        is_answered = self.cycle is None or self.cycle.response_complete
        return is_answered and self.conn.their_state is h11.IDLE

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection."""
        super().connection_made(transport)
        self._idle_since = time.monotonic()
        self._expect_headers()
        if len(self.connections) > self._most:
            idle = [one for one in self.connections if isinstance(one, BoundedProtocol) and one.is_idle]
            oldest = min(idle, key=lambda one: one._idle_since)  # this one at least is idle
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up."""
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; a request's headers have to be whole in time, however slowly they trickle in."""
        super().data_received(data)
        if self.is_idle and not self.transport.is_closing():
            self._expect_headers()
        elif self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._idle_since = time.monotonic()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Wait for a client that does not read, but not for ever."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self._write_timeout_s, self._drop_reader)

    def resume_writing(self) -> None:
        """Resume writing."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: the request is answered as if it had not asked, and no package would change that."""

    def _expect_headers(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(self._header_timeout_s, self.transport.abort)

    def _drop_reader(self) -> None:
        logger.warning("A client took more than %g s to read a part of its answer.", self._write_timeout_s)
        self.transport.abort()

    def _stop_timers(self) -> None:
        for timer in (self._header_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._header_timer = self._write_timer = None


def _most_connections(settings: ServerSettings) -> int:
    """Return how many connections fit beside other open files, and raise the limit of the process to its most."""
    if resource is None:
        return settings.max_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return settings.max_connections
    return max(1, min(settings.max_connections, soft - _OTHER_FILES))
