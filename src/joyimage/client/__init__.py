"""A small client of `joyimage serve`: edits with progress, sent again while the server is busy or gone."""

from joyimage.client.asynchronous import AsyncClient
from joyimage.client.core import Client, ServerError
from joyimage.client.records import Job, Progress

__all__ = ["AsyncClient", "Client", "Job", "Progress", "ServerError"]
