"""API keys: read, compared, and read again when their file changes."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import re
import threading
import time
from typing import TYPE_CHECKING

from joyimage.errors import InvalidInputError
from joyimage.serving.security.errors import RateLimitError, UnauthorizedError

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import SecretStr
    from starlette.requests import Request

    from joyimage.serving.settings import ServerSettings

logger = logging.getLogger(__name__)

_SHORTEST_KEY = 16
_NAME = re.compile(r"[\w.@+ -]{1,64}")
_LOOK_S = 1.0  # how often the key file is looked at
_MOST_BUCKETS = 10_000


def read_keys(api_keys: SecretStr | None, path: Path | None) -> dict[bytes, str]:
    """Read all keys; this alone decides whether the server has authentication.

    Args:
        api_keys: Keys separated by commas.
        path: File with a key in each line.

    Returns:
        Names of clients by the hashes of their keys; empty where neither argument is given.

    Raises:
        InvalidInputError: A key is not accepted, or there is none although keys were given.
    """
    clients: dict[bytes, str] = {}
    given = [] if api_keys is None else api_keys.get_secret_value().split(",")
    lines = [] if path is None else _read_lines(path)
    entries = [entry.strip() for entry in (*given, *lines)]
    for number, entry in enumerate((entry for entry in entries if entry), start=1):
        name, colon, key = entry.rpartition(":")
        if len(key) < _SHORTEST_KEY:
            raise InvalidInputError(
                f"API key {number} is too short; expected {_SHORTEST_KEY} characters or more."
            )
        if any(letter.isspace() for letter in key):
            raise InvalidInputError(f"API key {number} contains a space; expected NAME:KEY or KEY.")
        if colon and (not _NAME.fullmatch(name.strip()) or name.startswith("sk-")):
            raise InvalidInputError(
                f"API key {number} has a name that is not accepted; expected NAME:KEY with a name of 1 to 64 "
                "letters, digits and . _ - @ + before the only colon, and none that begins like a key (sk-)."
            )
        digest = hashlib.sha256(key.encode()).digest()
        if digest in clients:
            raise InvalidInputError(f"API key {number} appears twice.")
        clients[digest] = name.strip() if colon else f"key-{digest.hex()[:8]}"
    if not clients and path is not None:
        raise InvalidInputError(f"`api_keys_file` is {path}; it holds no key.")
    if not clients and api_keys is not None:
        raise InvalidInputError(
            "`api_keys` is given and holds no key; expected KEY or NAME:KEY; without keys, leave it out."
        )
    return clients


class ApiKeys:
    """The keys that open the server. Only their hashes are kept.

    Keys are read again when their file changes, so they can be added and revoked without a restart; a file
    that cannot be read then changes nothing.

    Args:
        settings: Where the keys are.

    Raises:
        InvalidInputError: A key is not accepted, or the file cannot be read.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._clients = read_keys(settings.api_keys, settings.api_keys_file)
        self._lock = threading.Lock()
        self._stamp = self._file_stamp()
        self._looked_at = time.monotonic()
        self._proxies = [ipaddress.ip_network(one, strict=False) for one in settings.trusted_proxies]

    def __bool__(self) -> bool:
        return bool(self._clients)

    def client_of(self, request: Request) -> str:
        """Return whose request it is: the name of its key, or where it comes from if there are no keys.

        Raises:
            UnauthorizedError: The key is missing or wrong.
        """
        if not self._clients:
            return self._origin(request)
        self._read_again()
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if not scheme:  # as clients of Azure's OpenAI send it
            scheme, key = "bearer", request.headers.get("api-key", "")
        if scheme.lower() != "bearer" or not key:
            raise UnauthorizedError(
                "An API key is needed: send `Authorization: Bearer KEY`.", code="missing_api_key"
            )
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        # All of them, each in constant time: how long it takes says nothing about how near a guess was.
        found = [name for known, name in self._clients.items() if hmac.compare_digest(known, digest)]
        if not found:
            raise UnauthorizedError("The API key is wrong.", code="invalid_api_key")
        return found[0]

    def _origin(self, request: Request) -> str:
        """Name an anonymous client by its address, those of one IPv6 network as one."""
        host = request.client.host if request.client else "unknown"
        hops = [host, *reversed(request.headers.get("x-forwarded-for", "").split(","))]
        # Each trusted proxy vouches for the address before it, and for no other.
        for hop in hops:
            address = _address(hop.strip())
            if address is None:
                break
            host = str(address)
            if not any(address in network for network in self._proxies if network.version == address.version):
                break
        address = _address(host)
        if address is None or address.version == 4:
            return host
        return str(ipaddress.ip_network(f"{address}/64", strict=False))

    def _file_stamp(self) -> tuple[int, int] | None:
        path = self._settings.api_keys_file
        try:
            state = None if path is None else path.stat()
        except OSError:
            return None
        return None if state is None else (state.st_mtime_ns, state.st_ino)

    def _read_again(self) -> None:
        if self._settings.api_keys_file is None or time.monotonic() - self._looked_at < _LOOK_S:
            return
        with self._lock:
            self._looked_at = time.monotonic()
            stamp = self._file_stamp()
            if stamp is None or stamp == self._stamp:
                return
            self._stamp = stamp
            try:
                self._clients = read_keys(self._settings.api_keys, self._settings.api_keys_file)
            except InvalidInputError as error:
                logger.error("The API keys were not reloaded: %s", error)


class RequestRates:
    """Limits how many requests each client sends in a minute.

    Args:
        per_minute: Most requests; None for no limit.
    """

    def __init__(self, per_minute: int | None) -> None:
        self._per_minute = per_minute
        self._buckets: dict[str, tuple[float, float]] = {}

    def check(self, client: str) -> None:
        """Count a request.

        Raises:
            RateLimitError: The client has sent too many.
        """
        if self._per_minute is None:
            return
        now = time.monotonic()
        left, at = self._buckets.pop(client, (float(self._per_minute), now))
        left = min(float(self._per_minute), left + (now - at) * self._per_minute / 60)
        self._buckets[client] = (max(0.0, left - 1), now)
        while len(self._buckets) > _MOST_BUCKETS:
            del self._buckets[next(iter(self._buckets))]
        if left < 1:
            raise RateLimitError(
                f"You have sent more than {self._per_minute} requests within a minute; wait a moment.",
                "too_many_requests",
                (1 - left) * 60 / self._per_minute,
            )


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A socket that listens for both kinds has IPv4 clients in this form.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a key file; those that begin with # are remarks.

    Raises:
        InvalidInputError: The file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InvalidInputError(f"`api_keys_file` is {path}, which cannot be read: {reason}.") from None
    return [line for line in lines if not line.lstrip().startswith("#")]
