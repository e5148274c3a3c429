"""Why a request is rejected, without a word of HTTP: `serving/http/errors.py` maps these to status codes."""

from __future__ import annotations

from joyimage.errors import JoyImageError, QueueFullError


class RejectedError(JoyImageError, ValueError):
    """A request is rejected.

    Args:
        message: What is wrong, what is accepted, and what to do.
        code: Name of the reason for programs, such as "invalid_image".
        param: Field of the request that it is about.
    """

    def __init__(self, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class UnauthorizedError(RejectedError):
    """The API key is missing or wrong."""


class ForbiddenError(RejectedError):
    """The caller may not do this."""


class UploadError(RejectedError):
    """A file or an address of one is not accepted."""


class TooLargeError(UploadError):
    """A body or a file is larger than is accepted."""


class TooSlowError(RejectedError):
    """A body did not arrive in time."""


class RateLimitError(QueueFullError):
    """A client has sent too many requests.

    Args:
        message: What the limit is.
        code: Name of the limit for programs.
        retry_after_s: When the next request is accepted.
    """

    def __init__(self, message: str, code: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s
