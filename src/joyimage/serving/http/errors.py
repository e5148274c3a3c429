"""How errors become answers: the one table of HTTP status codes, and OpenAI's shape of an error."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import JSONResponse

from joyimage.edits import FieldError
from joyimage.errors import (
    IdempotencyConflictError,
    InvalidInputError,
    JoyImageError,
    MissingObjectError,
    OutOfMemoryError,
    QueueFullError,
)
from joyimage.serving.security import errors as security

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST_SHOWN = 100

STATUS: tuple[tuple[type[BaseException], int, str | None], ...] = (
    (security.UnauthorizedError, 401, None),
    (security.ForbiddenError, 403, None),
    (security.TooLargeError, 413, None),
    (security.TooSlowError, 408, None),
    (security.RejectedError, 400, None),
    (QueueFullError, 429, "queue_full"),
    (IdempotencyConflictError, 422, "idempotency_key_reused"),
    (OutOfMemoryError, 503, "out_of_memory"),
    (MissingObjectError, 400, "missing_object"),
    (InvalidInputError, 400, "invalid_value"),
    (SQLAlchemyError, 503, "database"),
)
"""Status and code of each class of errors; the first class that fits counts."""

JOB_STATUS = {
    "invalid_value": 400,
    "invalid_image": 400,
    "missing_object": 400,
    "internal_error": 500,
    "invalid_result": 500,
    "unreadable_job": 500,
    "server_died_twice": 500,
    "server_stopped": 503,
    "out_of_memory": 503,
    "storage_full": 503,
    "queue_timeout": 503,
    "job_timeout": 504,
}
"""Status of a request whose job has failed, by the code of the job's error."""

_RETRY_AFTER_S = {"server_stopped": 5.0, "database": 10.0, "storage_full": 30.0}
_OTHER_STATUS = {"host_not_allowed": 400}
_LONGEST_MESSAGE = 2000  # values of requests are quoted, and may be long
_PARAM = re.compile(r"`(\w{1,40})` ")


class ApiError(JoyImageError):
    """An error, in the shape that OpenAI's clients know.

    Args:
        status: HTTP status.
        message: What is wrong, what is accepted, and what to do.
        code: Name of the reason for programs, such as "queue_full".
        param: Field of the request that it is about.
        retry_after_s: When to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def type(self) -> str:
        """OpenAI's word for the kind of error."""
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    @property
    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        # A request's own text is quoted, and may hold half of a surrogate pair, which UTF-8 cannot express.
        return {"error": {name: value and _printable(value) for name, value in error.items()}}

    @property
    def headers(self) -> dict[str, str]:
        """The answer's extra headers."""
        # OpenAI's clients send a request again after any 5xx; a job that failed would only fail again.
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        if self.retry_after_s is None:
            return {"x-should-retry": "false"} if self.status >= 500 else {}
        return {"Retry-After": str(max(1, round(self.retry_after_s)))}


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def to_api_error(error: BaseException) -> ApiError:
    """Return the answer to an error; what is not one of our errors is answered without its message."""
    if isinstance(error, ApiError):
        return error
    found_row = next((row for row in STATUS if isinstance(error, row[0])), None)
    if found_row is None:
        return ApiError(500, "Internal server error; see the server log.", code="internal_error")
    _, status, code = found_row
    if isinstance(error, SQLAlchemyError):  # its own message and code are for the log
        message = "The records cannot be read or written at the moment; try again."
    else:
        message = str(error)
        code = getattr(error, "code", None) or code
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[: _LONGEST_MESSAGE // 2]} ... {message[-_LONGEST_MESSAGE // 2 :]}"
    found = _PARAM.match(message)
    param = getattr(error, "param", None) or (found[1] if found else None)
    if isinstance(error, FieldError):
        param = error.name
    retry_after_s = getattr(error, "retry_after_s", None) or _RETRY_AFTER_S.get(code or "")
    return ApiError(
        _OTHER_STATUS.get(code or "", status), message, code=code, param=param, retry_after_s=retry_after_s
    )


def to_response(error: BaseException) -> JSONResponse:
    """Return the answer to an error."""
    answer = to_api_error(error)
    return JSONResponse(answer.body, answer.status, answer.headers)


def job_error(error: dict[str, Any]) -> ApiError:
    """Return the answer to a request whose job has failed."""
    code = error.get("code")
    status = JOB_STATUS.get(code or "") or error.get("status") or 500
    return ApiError(status, error["message"], code=code, retry_after_s=_RETRY_AFTER_S.get(code or ""))


_RANGES = (
    (re.compile(r"greater than or equal to (\S+)"), r"\1 or more"),
    (re.compile(r"less than or equal to (\S+)"), r"\1 or less"),
    (re.compile(r"greater than (\S+)"), r"more than \1"),
)
"""How pydantic words a range, and how this package does."""


def describe_invalid(error: Mapping[str, Any], param: str | None) -> str:
    """Return the sentence for a value that pydantic does not accept.

    Args:
        error: One entry of pydantic's list of errors.
        param: Name of the field.
    """
    shown = repr(error.get("input"))
    shown = shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}..."
    message = str(error["msg"]).removeprefix("Value error, ")
    if message.startswith("Input should be "):
        expected = message.removeprefix("Input should be ")
        for theirs, ours in _RANGES:
            expected = theirs.sub(ours, expected)
        return f"`{param}` is {shown}; expected {expected}."
    return f"`{param}` is {shown}: {message[:1].lower()}{message[1:]}."


def storage_full(what: str, error: OSError) -> ApiError:
    """Return the error of what cannot be written."""
    message = f"{what}: {error.strerror or error}."
    return ApiError(503, message, code="storage_full", retry_after_s=30)
