"""What every route is given: the server's parts, and whose request it is."""

# Annotations are real types here: FastAPI reads them.

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import Request

from joyimage.serving.http.service import Service

if TYPE_CHECKING:
    from joyimage.serving.security.middleware import ApiKeys


@dataclass(frozen=True, kw_only=True)
class Access:
    """A client that may come in.

    Attributes:
        service: The server's parts.
        client: Its name, for its share of the queue.
        sees_only: Whose jobs it sees; None for all, where there are no keys to tell clients apart.
    """

    service: Service
    client: str
    sees_only: str | None


def find_access(request: Request) -> Access:
    """Find out whose request it is, before any of its body is read."""
    keys: ApiKeys = request.app.state.keys
    client = keys.client_of(request)
    return Access(service=request.app.state.service, client=client, sees_only=client if keys else None)
