"""The page at "/", where the package has one: its files by name, and nothing else of the file system."""

from __future__ import annotations

import functools
import gzip
import hashlib
import mimetypes
import re
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from pathlib import Path

    from fastapi import FastAPI
    from starlette.requests import Request

_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
    ".webmanifest": "application/manifest+json",
}
_COMPRESSED = ("text/", "image/svg", "application/manifest")
_LEVEL = 6
_NO_WEIGHT = re.compile(r"q=0(\.0*)?")


def add_page(app: FastAPI, folder: Path) -> None:
    """Serve a folder's files, each under an address of its own that is fixed when the server starts."""
    if not (folder / "index.html").is_file():
        return
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            _add_file(app, "/" if name == "index.html" else f"/{name}", path)


def _add_file(app: FastAPI, address: str, path: Path) -> None:
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"

    def send(request: Request) -> Response:
        data, compressed, tag = _read(path, path.stat().st_mtime_ns, kind)
        # The browser asks each time and is sent what has changed: a new version of the page is whole at once.
        headers = {"Cache-Control": "no-cache", "ETag": tag, "Vary": "Accept-Encoding"}
        known = [
            one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")
        ]
        if tag in known or "*" in known:
            return Response(status_code=304, headers=headers)
        if compressed is not None and _takes_gzip(request.headers.get("accept-encoding", "")):
            return Response(compressed, media_type=kind, headers=headers | {"Content-Encoding": "gzip"})
        return Response(data, media_type=kind, headers=headers)

    app.add_route(address, send, methods=["GET", "HEAD"], include_in_schema=False)


def _takes_gzip(accepted: str) -> bool:
    """Return whether a client that sends this Accept-Encoding reads gzip; "gzip;q=0" says that it does not."""
    for entry in accepted.lower().split(","):
        name, _, weight = (part.strip() for part in entry.partition(";"))
        if name == "gzip":
            return not _NO_WEIGHT.fullmatch(weight.replace(" ", ""))
    return False


@functools.cache
def _read(path: Path, _: int, kind: str) -> tuple[bytes, bytes | None, str]:
    """Return a file, the file compressed, and its tag.

    Args:
        path: The file.
        _: When it was last changed, in ns: a file that has changed is read again.
        kind: Media type of the file.
    """
    data = path.read_bytes()
    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    return data, gzip.compress(data, _LEVEL, mtime=0) if kind.startswith(_COMPRESSED) else None, tag
