"""What both clients agree on: how a request looks, and when it is sent again."""

from __future__ import annotations

import io
import random
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx2
    from PIL.Image import Image

    Picture = Image | bytes | Path | str

AGAIN = (429, 502, 503, 504)
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


class ServerError(ValueError):
    """The server refused a request, failed at it, or can't be reached.

    Args:
        message: One sentence.
        status: HTTP status; None where there was no answer.
        code: The server's own word for it, such as "queue_full".
    """

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True, kw_only=True)
class Request:
    """A job, ready to be sent as often as need be.

    Attributes:
        fields: Of the form.
        files: Pictures, with the names of their fields.
        headers: With the key that keeps the job from running twice.
    """

    fields: dict[str, str]
    files: list[tuple[str, tuple[str, bytes]]]
    headers: dict[str, str]

    @property
    def content(self) -> dict[str, Any]:
        """Arguments of httpx2's `post`: a form."""
        files: list[tuple[str, Any]] = list(self.files)
        # Fields as parts without a file name, so that the form is multipart also without a picture.
        parts = [(name, (None, value.encode())) for name, value in self.fields.items()]
        return {"files": parts + files, "headers": self.headers}


def make_request(
    kind: str,
    pictures: list[Picture],
    mask: Picture | None,
    fields: Mapping[str, Any],
    idempotency_key: str | None,
) -> Request:
    """Bring a job into the form that the server reads.

    Args:
        kind: Of the job.
        pictures: Files, their content, or PIL images.
        mask: The same.
        fields: Everything else; None is left out.
        idempotency_key: Names the job for good; a new name if None.

    Returns:
        The request.
    """
    given = {name: _text(value) for name, value in fields.items() if value is not None}
    files = [("image", ("picture", read_picture(picture))) for picture in pictures]
    if mask is not None:
        files.append(("mask", ("mask", read_picture(mask))))
    key = idempotency_key or secrets.token_hex(16)
    return Request(fields={"kind": kind, **given}, files=files, headers={"Idempotency-Key": key})


def read_picture(picture: Picture) -> bytes:
    """Return a picture's file.

    Raises:
        TypeError: It is no picture.
    """
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, (str, Path)):
        return Path(picture).read_bytes()
    if not hasattr(picture, "save"):
        raise TypeError(f"`image` is {type(picture).__name__}; expected a PIL image, a path or bytes.")
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def refuse(response: httpx2.Response) -> NoReturn:
    """Raise what an answer that is no success says.

    Raises:
        ServerError: Always.
    """
    status = response.status_code
    try:
        error = response.json()["error"]
        message, code = str(error["message"]), error.get("code")
    except (ValueError, LookupError, TypeError, AttributeError):
        message, code = f"The server answered {status} without a reason.", None
    raise ServerError(message, status=status, code=code)


def pause_s(attempt: int, response: httpx2.Response | None) -> float:
    """Return how long to wait before the next attempt: as the server says, else twice as long each time."""
    if response is not None:
        wished = response.headers.get("retry-after", "")
        if wished.isdigit():
            return min(float(wished), _LONGEST_PAUSE_S)
    return min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)


def may_try_again(response: httpx2.Response) -> bool:
    """Tell whether the same request may succeed later."""
    return response.status_code in AGAIN and response.headers.get("x-should-retry") != "false"


def give_up(url: str, error: Exception) -> NoReturn:
    """Raise the error of a server that doesn't answer.

    Raises:
        ServerError: Always.
    """
    raise ServerError(f"{url} can't be reached: {str(error) or type(error).__name__}.") from error


def check_url(url: str) -> str:
    """Return a server's address without a slash at its end.

    Raises:
        ValueError: It is none.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"`url` is {url!r}; expected an address such as http://127.0.0.1:8600.")
    return url.rstrip("/").removesuffix("/v1")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(str(one) for one in value)
    return str(value)
