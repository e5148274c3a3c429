"""Whose request it is: every route depends on it, before any of a body is read."""

# Annotations are real types here: FastAPI reads them.

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import Request

from joyimage.serving.http.query import check_query
from joyimage.serving.http.service import Service

if TYPE_CHECKING:
    from joyimage.serving.security.keys import ApiKeys


@dataclass(frozen=True, kw_only=True)
class RequestContext:
    """A client that is let in.

    Attributes:
        service: The server's parts.
        client: Name of the client, for its share of the queue.
        sees_only: Name of the client whose jobs it sees; None for all, where there are no keys.
    """

    service: Service
    client: str
    sees_only: str | None


def find_context(request: Request) -> RequestContext:
    """Find out whose request it is.

    Raises:
        ApiError: A query parameter is not one of the route's.
        UnauthorizedError: The key is missing or wrong.
        RateLimitError: The client has sent too many requests.
    """
    keys: ApiKeys = request.app.state.keys
    client = keys.client_of(request)
    request.state.client = client  # for the log
    service: Service = request.app.state.service
    service.rates.check(client)
    if request.url.path != "/metrics":
        check_query(request)
    return RequestContext(service=service, client=client, sees_only=client if keys else None)
