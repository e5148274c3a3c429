"""Fetch an image from an address that a stranger wrote, without being led into one's own network.

The host's name is looked up once, every address it has must be a public one, and the connection goes to the
very address that was checked. Redirects pass the same gate. All of it together has one time limit, which a
host that sends a byte now and then doesn't stretch.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from concurrent import futures
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from joyimage.serving.security.errors import UploadError

if TYPE_CHECKING:
    from joyimage.serving.settings import ServerSettings

_MOST_REDIRECTS = 3
_CHUNK = 64 * 2**10
_6TO4_RELAYS = ipaddress.IPv4Network("192.88.99.0/24")  # given up since 2015; Python calls it global
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_IPV6_OF_THE_INTERNET = ipaddress.IPv6Network("2000::/3")
# A name server that doesn't answer holds up one of these, and no thread that serves requests.
_RESOLVERS = futures.ThreadPoolExecutor(8, "joyimage-names")


def fetch_image(url: str, settings: ServerSettings, param: str = "image") -> bytes:
    """Fetch a file.

    Args:
        url: http or https.
        settings: Hold the limits of size and time.
        param: Name of the field, for the error.

    Returns:
        The file.

    Raises:
        UploadError: The address does not lead to a file, or is not public.
    """
    deadline = time.monotonic() + settings.url_timeout_s
    try:
        for _ in range(_MOST_REDIRECTS + 1):
            answer = _get(url, deadline, settings.max_image_bytes)
            if isinstance(answer, bytes):
                return answer
            url = urljoin(url, answer)
    except _NotFetchedError as error:
        raise UploadError(f"`{param}` cannot be fetched: {error}.", code="image_url", param=param) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = "it takes too long" if time.monotonic() > deadline else type(error).__name__
        raise UploadError(f"`{param}` cannot be fetched: {reason}.", code="image_url", param=param) from None
    raise UploadError(f"`{param}` cannot be fetched: too many redirects.", code="image_url", param=param)


class _NotFetchedError(Exception):
    """Why an address isn't fetched; short enough to tell, and without a word on what answers there."""


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None and not is_public(str(inner)):
            return False
        # Python takes for global whatever isn't listed, such as ::10.0.0.1 and the old fec0::/10.
        if ip not in _IPV6_OF_THE_INTERNET and inner is None:
            return False
    if isinstance(ip, ipaddress.IPv4Address) and ip in _6TO4_RELAYS:
        return False
    return ip.is_global and not ip.is_multicast


def _look_up(host: str, port: int, deadline: float) -> str:
    """Return one address of a host, all of which are public.

    Raises:
        _NotFetchedError: One is not, or its name servers take too long.
    """
    asked = _RESOLVERS.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        found = {str(entry[4][0]) for entry in asked.result(_left(deadline))}
    except futures.TimeoutError:
        asked.cancel()
        raise _NotFetchedError("it takes too long") from None
    if not found or not all(is_public(address) for address in found):
        raise _NotFetchedError("its host is not on the public internet")
    return min(found, key=lambda address: ":" in address)


def _get(url: str, deadline: float, limit: int) -> bytes | str:
    """Return the content, or where the address redirects to.

    Raises:
        _NotFetchedError: It isn't fetched.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
        raise _NotFetchedError("expected an http or https address without a password")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if port not in {80, 443}:
        raise _NotFetchedError("expected port 80 or 443")
    address = _look_up(parts.hostname, port, deadline)
    plain = socket.create_connection((address, port), timeout=_left(deadline))
    if parts.scheme == "https":
        context = ssl.create_default_context()
        plain = context.wrap_socket(plain, server_hostname=parts.hostname, do_handshake_on_connect=False)
    # A socket's own limit begins anew with every byte.
    alarm = threading.Timer(deadline - time.monotonic(), _shut_down, [plain])
    alarm.daemon = True
    alarm.start()
    try:
        if isinstance(plain, ssl.SSLSocket):
            plain.do_handshake()
        connection = http.client.HTTPConnection(parts.hostname, port)
        connection.sock = plain
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "joyimage"})
        answer = connection.getresponse()
        if answer.status in {301, 302, 303, 307, 308}:
            return answer.headers.get("Location") or ""
        if answer.status != 200:
            raise _NotFetchedError(f"its host answers {answer.status}")
        content = bytearray()
        while chunk := answer.read1(_CHUNK):
            content += chunk
            if len(content) > limit:
                raise _NotFetchedError(f"it has more than {limit:,} bytes")
        _left(deadline)  # a connection that was shut down looks like the end of the file
        return bytes(content)
    finally:
        alarm.cancel()
        plain.close()


def _shut_down(connection: socket.socket) -> None:
    # Not the TLS socket's own: that takes apart what another thread is reading from.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _left(deadline: float) -> float:
    """Return the seconds that are left.

    Raises:
        _NotFetchedError: There are none.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise _NotFetchedError("it takes too long")
    return left
