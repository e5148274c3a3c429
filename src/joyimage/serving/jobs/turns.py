"""Whose turn it is: clients share the device by what their jobs cost, not by how many jobs they have."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from joyimage.serving.jobs.records import JOBS

if TYPE_CHECKING:
    from sqlalchemy import Connection

_MOST_CLIENTS = 10_000  # whose last turn is remembered


class Turns:
    """Places in the queue: a job's turn begins where the turn of its client's last one ends.

    It does not begin before that of the job that runs now, or is next, so that a client that was away has no
    claim on the past. Ends of turns are remembered in this process only, for jobs that have ended: otherwise a
    client that sends one large job after another would get every second turn.
    """

    def __init__(self) -> None:
        self._ends: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, connection: Connection, client: str) -> int:
        """Return where the turn of a client's next job begins."""
        now = connection.scalar(select(func.max(JOBS.c.turn)).where(JOBS.c.state == "running"))
        if now is None:
            now = connection.scalar(select(func.min(JOBS.c.turn)).where(JOBS.c.state == "queued"))
        if now is None:  # no job waits or runs, so no client is ahead of another
            with self._lock:
                self._ends.clear()
            return 0
        active = (JOBS.c.client == client) & JOBS.c.state.in_(("queued", "running"))
        own = connection.scalar(select(func.max(JOBS.c.turn + JOBS.c.cost)).where(active))
        with self._lock:
            return max(now, own or 0, self._ends.get(client, 0))

    def end_at(self, client: str, end: int) -> None:
        """Remember where the turn of a client's newest job ends."""
        with self._lock:
            self._ends[client] = end
            self._ends.move_to_end(client)
            while len(self._ends) > _MOST_CLIENTS:
                self._ends.popitem(last=False)

    def refund(self, client: str, cost: int) -> None:
        """Forget what a job cost that was cancelled before it ran."""
        with self._lock:
            if client in self._ends:
                self._ends[client] -= cost
