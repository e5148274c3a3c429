"""What a client is told when something can't be done."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A refusal, in the shape that OpenAI's clients know.

    Args:
        status: HTTP status.
        message: One sentence.
        code: For programs, such as "queue_full".
        param: Which field of the request it is about.
        retry_after_s: When to come back.
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
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """The answer's extra headers."""
        if self.retry_after_s is None:
            return {}
        return {"Retry-After": str(max(1, round(self.retry_after_s)))}


def storage_full(what: str, error: OSError) -> ApiError:
    """Return the refusal of what can't be written."""
    message = f"{what}: {error.strerror or error}."
    return ApiError(503, message, code="storage_full", retry_after_s=30)


class OutOfMemoryError(RuntimeError):
    """An edit that does not fit, whatever is moved out of the way."""


class ReplicaLostError(RuntimeError):
    """The process that ran a job has died; the job can run elsewhere."""
