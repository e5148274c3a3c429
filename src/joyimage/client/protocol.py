"""What both clients do, without input and output: requests, retries, following a job.

Each operation is a generator that yields what has to be done (`Send`, `Open`, `NextLine`, `Sleep`) and is
sent the result. `Client` and `AsyncClient` carry these out, each in its own way.
"""

from __future__ import annotations

import base64
import io
import json
import random
import secrets
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import httpx2

from joyimage.client.records import EventReader, Job, Progress
from joyimage.edits import kind_of
from joyimage.errors import InvalidInputError, InvalidTypeError
from joyimage.errors import ServerError as _ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image

    from joyimage.edits import AnyEdit

    ImageLike = Image | bytes | Path | str

Result = TypeVar("Result")

RETRIED_STATUSES = (429, 502, 503, 504)
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


class ServerError(_ServerError, ValueError):
    """The server rejected a request, failed at it, or cannot be reached.

    Args:
        message: One sentence.
        status: HTTP status; None where there was no answer.
        code: The server's error code, such as "queue_full".
        job: The job that failed or was cancelled; of a plan, it has the images of the steps before.
    """

    def __init__(
        self, message: str, *, status: int | None = None, code: str | None = None, job: Job | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.job = job


@dataclass(frozen=True)
class Send:
    """Send a request; its result is the `httpx2.Response`, or the `httpx2.TransportError` is thrown.

    Attributes:
        method: HTTP method.
        path: Path on the server.
        content: Further arguments of httpx2's `request`.
    """

    method: str
    path: str
    content: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Open:
    """Open a stream; its result is the `httpx2.Response`, whose body is read if the status is not 200.

    Attributes:
        path: Path on the server.
        headers: Request headers.
    """

    path: str
    headers: dict[str, str]


@dataclass(frozen=True)
class NextLine:
    """Read a line of the open stream; its result is the line, or None at the end."""


@dataclass(frozen=True)
class Sleep:
    """Wait.

    Attributes:
        seconds: How long.
    """

    seconds: float


Action = Send | Open | NextLine | Sleep
Steps = Generator[Action, Any, Result]
"""An operation: yields actions, is sent their results, and returns its own."""


class Protocol:
    """The operations of a client.

    Args:
        url: Address of the server, such as "http://127.0.0.1:8600".
        retries: How often a request is sent again when the server is busy or cannot be reached.
    """

    def __init__(self, url: str, retries: int) -> None:
        self.url = checked_url(url)
        self.retries = retries

    def send(self, method: str, path: str, **content: Any) -> Steps[httpx2.Response]:
        """Send a request, again where that may help.

        Raises:
            ServerError: The request is rejected, or the server cannot be reached.
        """
        attempt = 0
        while True:
            is_last = attempt == self.retries
            response: httpx2.Response | None = None
            try:
                response = yield Send(method, path, content)
            except httpx2.TransportError as error:
                if is_last:
                    self._fail_unreachable(error)
            if response is not None:
                if response.is_success:
                    return response
                if is_last or not may_retry(response):
                    raise_for(response)
            yield Sleep(pause_s(attempt, response))
            attempt += 1

    def run(
        self,
        edit: AnyEdit,
        images: Sequence[ImageLike],
        *,
        mask: ImageLike | None,
        progress: Callable[[Progress], None] | None,
        idempotency_key: str | None,
        extra: Mapping[str, Any],
    ) -> Steps[Job]:
        """Queue a job and follow it to its end.

        Raises:
            ServerError: The job was rejected, failed or was cancelled, or the server is gone.
        """
        content = make_form(edit, images, mask, extra, idempotency_key)
        return (yield from self._run(content, progress))

    def plan(
        self,
        image: ImageLike,
        steps: Sequence[AnyEdit | Mapping[str, Any]],
        *,
        progress: Callable[[Progress], None] | None,
        idempotency_key: str | None,
        extra: Mapping[str, Any],
    ) -> Steps[Job]:
        """Queue a plan and follow it to its end.

        Raises:
            ServerError: The plan was rejected, failed or was cancelled, or the server is gone.
        """
        content = make_plan_form(image, steps, extra, idempotency_key)
        return (yield from self._run(content, progress))

    def _run(self, content: Mapping[str, Any], progress: Callable[[Progress], None] | None) -> Steps[Job]:
        """Queue a job and follow it to its end.

        Raises:
            ServerError: The job was rejected, failed or was cancelled, or the server is gone.
        """
        response = yield from self.send("POST", "/v1/jobs", **content)
        job = yield from self.follow(Job.from_json(response.json()), progress)
        if job.state != "succeeded":
            error = job.error or {"message": "The job was cancelled.", "code": "cancelled"}
            raise ServerError(error["message"], code=error["code"], job=job)
        return job

    def follow(self, job: Job, progress: Callable[[Progress], None] | None) -> Steps[Job]:
        """Follow a job to its end; a lost connection continues where it broke off.

        Raises:
            ServerError: The server is gone, or no longer knows the job.
        """
        reader = EventReader()
        attempt = 0
        while True:
            known, busy, problem = reader.last_id, None, None
            try:
                stream: httpx2.Response = yield Open(
                    f"/v1/jobs/{job.id}/events", {"Last-Event-ID": known} if known else {}
                )
                if stream.status_code == 204:
                    return (yield from self.get(job.id))
                if stream.status_code != 200:
                    if attempt == self.retries or not may_retry(stream):
                        raise_for(stream)
                    busy = stream
                else:
                    while (line := (yield NextLine())) is not None:
                        data = reader.read(line)
                        if data is None:
                            continue
                        if "job" in data:
                            return Job.from_json(data["job"])
                        if progress is not None:
                            progress(Progress.from_json(data))
            except httpx2.TransportError as error:
                problem = error
            if reader.last_id != known:  # a connection that breaks again and again still gets to the end
                attempt = 0
            if attempt == self.retries:
                if problem is not None:
                    self._fail_unreachable(problem)
                raise ServerError(f"{self.url} does not report how the job {job.id} ended.")
            yield Sleep(pause_s(attempt, busy))
            attempt += 1

    def get(self, job_id: str) -> Steps[Job]:
        """Return the record of a job."""
        return Job.from_json((yield from self.send("GET", f"/v1/jobs/{job_id}")).json())

    def cancel(self, job_id: str) -> Steps[Job]:
        """Cancel a job."""
        return Job.from_json((yield from self.send("DELETE", f"/v1/jobs/{job_id}")).json())

    def files(self, job: Job, which: str) -> Steps[list[bytes]]:
        """Fetch a job's `images` or `masks`."""
        files = []
        for number in range(len(getattr(job, which))):
            response = yield from self.send("GET", f"/v1/jobs/{job.id}/{which}/{number}")
            files.append(response.content)
        return files

    def models(self) -> Steps[list[dict[str, Any]]]:
        """List the server's models."""
        return (yield from self.send("GET", "/v1/models")).json()["data"]

    def _fail_unreachable(self, error: Exception) -> NoReturn:
        """Raise the error of a server that does not answer.

        Raises:
            ServerError: Always.
        """
        raise ServerError(f"{self.url} cannot be reached: {str(error) or type(error).__name__}.") from error


def as_edit(edit: AnyEdit | str, fields: Mapping[str, Any]) -> tuple[AnyEdit, dict[str, Any]]:
    """Return an edit, and the fields that belong to the request only.

    Args:
        edit: An edit, or the name of a kind whose fields are in `fields`.
        fields: Fields of the edit, under any name that `joyimage.edits` accepts, and of the request.

    Raises:
        InvalidInputError: A field has a value that is not accepted.
    """
    cls = kind_of(edit) if isinstance(edit, str) else type(edit)
    names = {alias for name, one in cls.settings().items() for alias in (name, *one.aliases)}
    own = {name: value for name, value in fields.items() if name in names and value is not None}
    others = {name: value for name, value in fields.items() if name not in names and value is not None}
    given = cls.from_dict(own)
    return (given if isinstance(edit, str) else given.filled_from(edit)), others


def make_form(
    edit: AnyEdit,
    images: Sequence[ImageLike],
    mask: ImageLike | None,
    extra: Mapping[str, Any],
    idempotency_key: str | None,
) -> dict[str, Any]:
    """Return arguments of httpx2's `post` that send an edit as a form.

    Args:
        edit: What to do.
        images: Image files, their content, or PIL images.
        mask: An image that is transparent where the input may change.
        extra: Fields of the request that are not fields of an edit; None is left out.
        idempotency_key: Names the job; with the same key it never runs again. Random if None.
    """
    fields = {"kind": edit.kind, **edit.to_text(), **{name: _text(value) for name, value in extra.items()}}
    files: list[tuple[str, Any]] = [("image", ("image", read_image(image))) for image in images]
    if mask is not None:
        files.append(("mask", ("mask", read_image(mask))))
    return _form(fields, files, idempotency_key)


def make_plan_form(
    image: ImageLike,
    steps: Sequence[AnyEdit | Mapping[str, Any]],
    extra: Mapping[str, Any],
    idempotency_key: str | None,
) -> dict[str, Any]:
    """Return arguments of httpx2's `post` that send a plan as a form.

    Args:
        image: What the first step works on.
        steps: Edits, or dicts of their fields with `kind`; a dict may hold a `mask`.
        extra: Fields of the request; None is left out.
        idempotency_key: Names the job; with the same key it never runs again. Random if None.

    Raises:
        InvalidInputError: A step's field has a value that is not accepted.
    """
    sent: list[dict[str, Any]] = []
    for number, step in enumerate(steps):
        try:
            sent.append(_plan_step(step))
        except InvalidInputError as error:
            raise InvalidInputError(f"`steps[{number}]`: {error}") from None
    given = {name: value for name, value in extra.items() if value is not None}
    fields = {"kind": "plan", "steps": json.dumps(sent), **{name: _text(one) for name, one in given.items()}}
    return _form(fields, [("image", ("image", read_image(image)))], idempotency_key)


def _plan_step(step: AnyEdit | Mapping[str, Any]) -> dict[str, Any]:
    """Return a step as JSON values.

    Raises:
        InvalidInputError: A field has a value that is not accepted.
    """
    if not isinstance(step, Mapping):
        return step.to_dict()
    fields = {name: value for name, value in step.items() if name not in {"kind", "mask"}}
    sent = kind_of(step.get("kind", "edit")).from_dict(fields).to_dict()
    if step.get("mask") is not None:
        file = base64.b64encode(read_image(step["mask"])).decode("ascii")
        sent["mask"] = f"data:image/png;base64,{file}"
    return sent


def _form(
    fields: Mapping[str, str], files: list[tuple[str, Any]], idempotency_key: str | None
) -> dict[str, Any]:
    """Return arguments of httpx2's `post` that send fields and files."""
    # Fields as parts without a file name, so that the form is multipart also without an image.
    parts = [(name, (None, value.encode())) for name, value in fields.items()]
    headers = {"Idempotency-Key": idempotency_key or secrets.token_hex(16)}
    return {"files": parts + files, "headers": headers}


def read_image(image: ImageLike) -> bytes:
    """Return the content of an image file.

    Raises:
        InvalidTypeError: The value is not an image.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, Path)):
        return Path(image).read_bytes()
    if not hasattr(image, "save"):
        raise InvalidTypeError(f"`image` is {type(image).__name__}; expected a PIL image, a path or bytes.")
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def raise_for(response: httpx2.Response) -> NoReturn:
    """Raise the error that an answer without success reports.

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
    """Return the pause before the next attempt: what the server asks for, else twice as long each time."""
    if response is not None:
        asked = response.headers.get("retry-after", "")
        if asked.isdigit():
            return min(float(asked), _LONGEST_PAUSE_S)
    return min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)


def may_retry(response: httpx2.Response) -> bool:
    """Tell whether the same request may succeed later."""
    return response.status_code in RETRIED_STATUSES and response.headers.get("x-should-retry") != "false"


def checked_url(url: str) -> str:
    """Return a server's address without a slash at its end.

    Raises:
        InvalidInputError: The text is not an address.
    """
    if not url.startswith(("http://", "https://")):
        raise InvalidInputError(f"`url` is {url!r}; expected an address such as http://127.0.0.1:8600.")
    return url.rstrip("/").removesuffix("/v1")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
