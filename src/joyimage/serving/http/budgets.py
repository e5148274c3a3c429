"""Threads for slow work, one small pool for each kind, so that none can hold up the others."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from joyimage.serving.security.errors import RateLimitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from joyimage.serving.settings import ServerSettings

Result = TypeVar("Result")

_RETRY_AFTER_S = 2.0


class Budget:
    """Threads for one kind of work, and how much of it may wait.

    Args:
        name: Name of the work, for the error.
        threads: Most that is done at a time.
        most: Most that is done or waits; None for no limit.
        most_per_client: Most of one client that is done or waits; None for no limit.
    """

    def __init__(
        self, name: str, threads: int, most: int | None = None, most_per_client: int | None = None
    ) -> None:
        self._name = name
        self._limiter = anyio.CapacityLimiter(threads)
        self._most = most
        self._most_per_client = most_per_client
        self._clients: Counter[str] = Counter()

    async def run(self, client: str, function: Callable[..., Result], *arguments: object) -> Result:
        """Run a function in a thread.

        Raises:
            RateLimitError: Too much of this work waits already.
        """
        is_full = self._most is not None and self._clients.total() >= self._most
        has_share = self._most_per_client is not None and self._clients[client] >= self._most_per_client
        if is_full or has_share:
            raise RateLimitError(
                f"Too many requests are {self._name} at the moment; try again.", "server_busy", _RETRY_AFTER_S
            )
        self._clients[client] += 1
        try:
            return await anyio.to_thread.run_sync(partial(function, *arguments), limiter=self._limiter)
        finally:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]


class Budgets:
    """All threads that requests use.

    Args:
        settings: Settings of the server.
    """

    def __init__(self, settings: ServerSettings) -> None:
        most = settings.max_pending_uploads
        share = max(1, most // 2)
        self.parsing = Budget("being parsed", 2, most, share)
        self.decoding = Budget("being decoded", 2, most, share)
        self.fetching = Budget("fetching images", 8, most, 8)
        self.storage = Budget("waiting for the database", 16)
        self.status = Budget("asking for the status", 2)
