"""What a pipeline keeps of images it has encoded, apart for each client."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any


class ClientSessions:
    """One edit session for each client, within one memory budget.

    What is kept of an image makes its next edit faster, and the record says so. If it were shared, a client
    could find out whether another one has sent the same image.

    Args:
        pipe: The pipeline.
        max_bytes: Most bytes that all sessions keep; those of the least recently served client go first.
    """

    def __init__(self, pipe: Any, max_bytes: int) -> None:
        self._pipe = pipe
        self._max_bytes = max_bytes
        self._sessions: OrderedDict[str, Any] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of values that are kept."""
        return sum(len(session.cache) for session in self._sessions.values())

    @property
    def num_bytes(self) -> int:
        """Number of bytes that are kept."""
        return sum(session.cache.num_bytes for session in self._sessions.values())

    def of(self, clients: set[str]) -> Any:
        """Return the session for jobs of some clients; for those of several, one that keeps nothing."""
        if len(clients) != 1:
            return self._pipe.session(max_bytes=0)
        (client,) = clients
        session = self._sessions.pop(client, None) or self._pipe.session(max_bytes=self._max_bytes)
        self._sessions[client] = session
        return session

    def trim(self) -> None:
        """Keep the budget."""
        while len(self._sessions) > 1 and self.num_bytes > self._max_bytes:
            self._sessions.popitem(last=False)[1].clear()

    def clear(self) -> None:
        """Drop everything."""
        for session in self._sessions.values():
            session.clear()
        self._sessions.clear()
