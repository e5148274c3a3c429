"""Threads for slow work, one small pool for each kind, and memory for bodies: none can hold up the others."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from joyimage.serving.http.errors import ApiError
from joyimage.serving.security.errors import RateLimitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from joyimage.serving.settings import ServerSettings

Result = TypeVar("Result")

_RETRY_AFTER_S = 2.0
_LONGEST_WAIT_S = 30.0


class Budget:
    """Threads for one kind of work, and how much of it may wait.

    Args:
        name: Name of the work, for the error.
        threads: Most that is done at a time.
        most: Most that is done or waits; None for no limit.
        most_per_client: Most of one client that is done or waits; None for no limit.
        spare_threads: Threads that one client cannot have, so that long work of one holds up no other.
    """

    def __init__(
        self,
        name: str,
        threads: int,
        most: int | None = None,
        most_per_client: int | None = None,
        *,
        spare_threads: int = 0,
    ) -> None:
        self._name = name
        self._threads_per_client = threads - spare_threads
        self._shares: dict[str, anyio.CapacityLimiter] = {}
        self._places = anyio.CapacityLimiter(threads)
        self._threads = anyio.CapacityLimiter(math.inf)
        self._most = most
        self._most_per_client = most_per_client
        self._clients: Counter[str] = Counter()

    async def run(self, client: str, function: Callable[..., Result], *arguments: object) -> Result:
        """Run a function in a thread.

        Raises:
            RateLimitError: Too much of this work waits already.
            ApiError: No thread became free in time.
        """
        is_full = self._most is not None and self._clients.total() >= self._most
        has_share = self._most_per_client is not None and self._clients[client] >= self._most_per_client
        if is_full or has_share:
            raise RateLimitError(
                f"Too many requests are {self._name} at the moment; try again.", "server_busy", _RETRY_AFTER_S
            )
        self._clients[client] += 1
        share = self._shares.setdefault(client, anyio.CapacityLimiter(self._threads_per_client))
        place = object()
        try:
            await self._take(share, place)
            try:
                return await anyio.to_thread.run_sync(partial(function, *arguments), limiter=self._threads)
            finally:
                self._places.release_on_behalf_of(place)
                share.release_on_behalf_of(place)
        finally:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client], self._shares[client]

    async def _take(self, share: anyio.CapacityLimiter, place: object) -> None:
        """Wait for a thread, and first for one of the client's own.

        Raises:
            ApiError: It took too long.
        """
        try:
            with anyio.fail_after(_LONGEST_WAIT_S):
                await share.acquire_on_behalf_of(place)
                try:
                    await self._places.acquire_on_behalf_of(place)
                except BaseException:
                    share.release_on_behalf_of(place)
                    raise
        except TimeoutError:
            raise ApiError(
                503,
                f"The server takes too long at the moment ({self._name}); try again.",
                code="server_busy",
                retry_after_s=_RETRY_AFTER_S,
            ) from None


class ByteBudget:
    """Bounds the bytes of bodies that are in memory at the same time, in total and for each client.

    Args:
        most: Most bytes in total; each client gets half of them, and always room for one body.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._clients: Counter[str] = Counter()

    @contextmanager
    def reserve(self, client: str, num_bytes: int) -> Iterator[None]:
        """Keep room for a body until the end of the `with`.

        Raises:
            RateLimitError: There is no room.
        """
        total, own = self._clients.total(), self._clients[client]
        if (total and total + num_bytes > self._most) or (own and own + num_bytes > self._most // 2):
            raise RateLimitError(
                "Too many large requests are read at the moment; try again.", "server_busy", _RETRY_AFTER_S
            )
        self._clients[client] += num_bytes
        try:
            yield
        finally:
            self._clients[client] -= num_bytes
            if not self._clients[client]:
                del self._clients[client]


class Budgets:
    """All threads that requests use, and the memory of their bodies.

    Args:
        settings: Settings of the server.
    """

    def __init__(self, settings: ServerSettings) -> None:
        most = settings.max_pending_uploads
        share = max(1, most // 2)
        self.bodies = ByteBudget(settings.max_pending_bytes)
        self.parsing = Budget("being parsed", 2, most, share)
        self.decoding = Budget("being decoded", 3, most, share, spare_threads=1)
        self.fetching = Budget("fetching images", 8, most, 8)
        self.storage = Budget("waiting for the database", 16)
        self.status = Budget("asking for the status", 2)
