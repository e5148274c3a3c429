"""The server's log: as text or JSON, with request ids, and without floods of the same traceback."""

from __future__ import annotations

import json
import logging
import sys
import time
from contextvars import ContextVar

REQUEST_ID: ContextVar[str] = ContextVar("joyimage_request_id", default="-")
"""Id of the request that is being answered, as in its `x-request-id` header."""

_REPEAT_S = 60.0
_MOST_KNOWN = 1000


def configure_logging(*, verbose: bool = False, as_json: bool = False) -> None:
    """Set up the log of a server process on stderr.

    Args:
        verbose: Whether every request is logged.
        as_json: Whether each record is one line of JSON.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RequestIdFilter())
    handler.addFilter(RepeatFilter())
    text = logging.Formatter("%(asctime)s %(levelname)s [%(request_id)s] %(message)s")
    handler.setFormatter(JsonFormatter() if as_json else text)
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler], force=True)


class RequestIdFilter(logging.Filter):
    """Gives each record the id of the request that it belongs to."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the id."""
        record.request_id = REQUEST_ID.get()
        return True


class RepeatFilter(logging.Filter):
    """Passes the same warning or error once a minute, and then with the number of those left out.

    Errors with a traceback are the same where their class and message are, whatever the message was filled with.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[object, ...], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is logged."""
        if record.levelno < logging.WARNING:
            return True
        kind = record.exc_info[0] if record.exc_info else None
        key = (record.name, record.msg if record.exc_info else record.getMessage(), kind)
        now = time.monotonic()
        at, left_out = self._seen.get(key, (-_REPEAT_S, 0))
        if now - at < _REPEAT_S:
            self._seen[key] = (at, left_out + 1)
            return False
        if len(self._seen) >= _MOST_KNOWN:
            self._seen.clear()
        self._seen[key] = (now, 0)
        if left_out:
            record.msg = f"{record.msg} ({left_out} more like this since the last one)"
        return True


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname,
            "logger": record.name,
            "request_id": getattr(record, "request_id", "-"),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
