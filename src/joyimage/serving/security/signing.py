"""Signed addresses of results, which OpenAI's clients open without a key."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_SECRET_BYTES = 32


class UrlSigner:
    """Signs addresses of results.

    Args:
        path: File of the secret, so that addresses outlive a restart; created where missing.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists() or path.stat().st_size < _SECRET_BYTES:
            _write_secret(path)
        self._secret = path.read_bytes()

    def sign(self, path: str, expires: int) -> str:
        """Return the query that opens a path until a time."""
        return f"expires={expires}&signature={self._mac(path, expires)}"

    def opens(self, path: str, expires: str, signature: str, now: float) -> bool:
        """Return whether a query opens a path."""
        if not (expires.isascii() and expires.isdigit() and len(expires) < 16) or int(expires) < now:
            return False
        return hmac.compare_digest(
            self._mac(path, int(expires)).encode(), signature.encode("utf-8", "replace")
        )

    def _mac(self, path: str, expires: int) -> str:
        return hmac.new(self._secret, f"{path}?{expires}".encode(), hashlib.sha256).hexdigest()


def _write_secret(path: Path) -> None:
    # Whole or not at all: one that a full disk cut short would be easy to guess.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        partial.touch(mode=0o600)
        partial.write_bytes(secrets.token_bytes(_SECRET_BYTES))
        if path.exists():
            path.unlink()
        path.hardlink_to(partial)
    except FileExistsError:  # another server was first
        return
    finally:
        partial.unlink(missing_ok=True)
