"""A small client of `joyimage serve`: edits with progress, sent again while the server is busy or gone."""

from joyimage.client.asynchronous import AsyncClient
from joyimage.client.records import Job, Progress
from joyimage.client.sync import Client, ServerError

__all__ = ["AsyncClient", "Client", "Job", "Progress", "ServerError"]
