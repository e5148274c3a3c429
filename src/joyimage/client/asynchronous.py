"""The client for coroutines; arguments and errors as in `Client`."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, cast

import httpx2

from joyimage.client.protocol import NextLine, Open, Protocol, Result, Send, Sleep, Steps, as_edit
from joyimage.client.sync import auth_headers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from types import TracebackType

    from joyimage.client.protocol import Action, ImageLike
    from joyimage.client.records import Job, Progress
    from joyimage.edits import AnyEdit


class AsyncClient:
    """A connection to `joyimage serve`, with the methods of `Client` as coroutines.

    Args:
        url: Address of the server, such as "http://127.0.0.1:8600".
        api_key: API key; JOYIMAGE_API_KEY of the environment if None.
        retries: How often a request is sent again when the server is busy or cannot be reached.
        timeout_s: Longest silence of the server that is waited for.
    """

    def __init__(
        self, url: str, api_key: str | None = None, *, retries: int = 6, timeout_s: float = 60.0
    ) -> None:
        self._protocol = Protocol(url, retries)
        self._http = httpx2.AsyncClient(
            base_url=self._protocol.url, headers=auth_headers(api_key), timeout=timeout_s
        )

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def edit(self, image: ImageLike | list[ImageLike], prompt: str, **settings: Any) -> list[bytes]:
        """Edit an image as the prompt says; see `Client.edit`."""
        images = image if isinstance(image, list) else [image]
        return await self.images(await self.run("edit", images, prompt=prompt, **settings))

    async def generate(self, prompt: str, **settings: Any) -> list[bytes]:
        """Make images from text alone; see `Client.generate`."""
        return await self.images(await self.run("generate", [], prompt=prompt, **settings))

    async def describe(
        self, image: ImageLike | list[ImageLike], question: str | None = None, **settings: Any
    ) -> str:
        """Answer a question about an image, or about two; see `Client.describe`."""
        images = image if isinstance(image, list) else [image]
        job = await self.run("describe", images, question=question, **settings)
        return job.text or ""

    async def run(
        self,
        edit: AnyEdit | str,
        images: Sequence[ImageLike] = (),
        *,
        mask: ImageLike | None = None,
        progress: Callable[[Progress], None] | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """Queue a job and wait for its end; see `Client.run`."""
        value, extra = as_edit(edit, fields)
        return await self._drive(
            self._protocol.run(
                value, images, mask=mask, progress=progress, idempotency_key=idempotency_key, extra=extra
            )
        )

    async def plan(
        self,
        image: ImageLike,
        steps: Sequence[AnyEdit | Mapping[str, Any]],
        *,
        progress: Callable[[Progress], None] | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """Queue several edits as one job and wait for its end; see `Client.plan`."""
        return await self._drive(
            self._protocol.plan(
                image, steps, progress=progress, idempotency_key=idempotency_key, extra=fields
            )
        )

    async def wait(self, job: Job, progress: Callable[[Progress], None] | None = None) -> Job:
        """Follow a job to its end; see `Client.wait`."""
        return await self._drive(self._protocol.follow(job, progress))

    async def get(self, job_id: str) -> Job:
        """Return the record of a job."""
        return await self._drive(self._protocol.get(job_id))

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job: at once if it waits, at its next step if it runs."""
        return await self._drive(self._protocol.cancel(job_id))

    async def images(self, job: Job) -> list[bytes]:
        """Fetch the images of a job, as files."""
        return await self._drive(self._protocol.files(job, "images"))

    async def masks(self, job: Job) -> list[bytes]:
        """Fetch the masks of a job with `preserve` or a mask: PNG, 255 where the edit is shown."""
        return await self._drive(self._protocol.files(job, "masks"))

    async def models(self) -> list[dict[str, Any]]:
        """List the server's models."""
        return await self._drive(self._protocol.models())

    async def _drive(self, steps: Steps[Result]) -> Result:
        """Carry out the actions of an operation and return its result."""
        async with AsyncExitStack() as stack:
            streams = _Streams(self._http, stack)
            result, error = None, None
            while True:
                try:
                    action = steps.send(result) if error is None else steps.throw(error)
                except StopIteration as stop:
                    return cast("Result", stop.value)
                result, error = None, None
                try:
                    result = await self._perform(action, streams)
                except httpx2.TransportError as caught:
                    error = caught

    async def _perform(self, action: Action, streams: _Streams) -> Any:
        match action:
            case Send():
                return await self._http.request(action.method, action.path, **action.content)
            case Open():
                return await streams.open(action)
            case NextLine():
                return None if streams.lines is None else await anext(streams.lines, None)
            case Sleep():
                await asyncio.sleep(action.seconds)
                return None


class _Streams:
    """The stream that an operation reads; opening another closes it."""

    def __init__(self, http: httpx2.AsyncClient, stack: AsyncExitStack) -> None:
        self._http = http
        self._stack = stack
        self.lines: AsyncIterator[str] | None = None

    async def open(self, action: Open) -> httpx2.Response:
        await self._stack.aclose()
        request = self._http.stream("GET", action.path, headers=action.headers)
        stream = await self._stack.enter_async_context(request)
        if stream.status_code == 200:
            self.lines = stream.aiter_lines()
        else:
            await stream.aread()
        return stream
