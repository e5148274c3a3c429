"""The client for coroutines; arguments and errors as in `Client`."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import httpx2

from joyimage.client.protocol import (
    ServerError,
    check_url,
    give_up,
    make_request,
    may_try_again,
    pause_s,
    refuse,
)
from joyimage.client.records import EventReader, Job, Progress

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from joyimage.client.protocol import Picture


class AsyncClient:
    """A connection to `joyimage serve`.

    Every job has a key of its own, so a request that is sent again after a lost connection never runs twice.

    Args:
        url: Of the server, such as "http://127.0.0.1:8600".
        api_key: Where the server wants one; JOYIMAGE_API_KEY of the environment if None.
        retries: How often a request is sent again when the server is busy or can't be reached.
        timeout_s: Longest silence of the server.
    """

    def __init__(
        self, url: str, api_key: str | None = None, *, retries: int = 6, timeout_s: float = 60.0
    ) -> None:
        self._url = check_url(url)
        self._retries = retries
        key = api_key or os.environ.get("JOYIMAGE_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.AsyncClient(base_url=self._url, headers=headers, timeout=timeout_s)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    async def edit(self, image: Picture | list[Picture], prompt: str, **settings: Any) -> list[bytes]:
        """Edit a picture as the prompt says.

        Args:
            image: A PIL image, a path, or a file's content; several for a server that takes several.
            prompt: What to do.
            **settings: Of `run`: n, size, steps, guidance, seed, negative_prompt, fit, restore, preserve,
                mask, lora, output_format, progress, idempotency_key.

        Returns:
            The pictures, as files.
        """
        images = image if isinstance(image, list) else [image]
        return await self.images(await self.run("edit", images, prompt=prompt, **settings))

    async def generate(self, prompt: str, **settings: Any) -> list[bytes]:
        """Make pictures from text alone; settings as in `edit`.

        Returns:
            The pictures, as files.
        """
        return await self.images(await self.run("generate", [], prompt=prompt, **settings))

    async def describe(self, image: Picture, question: str | None = None, **settings: Any) -> str:
        """Answer a question about a picture.

        Returns:
            The answer.
        """
        job = await self.run("describe", [image], question=question, **settings)
        return job.text or ""

    async def run(
        self,
        kind: str,
        images: list[Picture],
        *,
        mask: Picture | None = None,
        progress: Callable[[Progress], None] | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """Queue a job and wait for its end.

        Args:
            kind: "edit", "generate", "move", "rotate", "camera" or "describe".
            images: Pictures that go in.
            mask: Transparent where the picture may change.
            progress: Called with every step.
            idempotency_key: Names the job: with the same key it never runs again.
            **fields: What else the server takes for this kind.

        Returns:
            The finished job.

        Raises:
            ServerError: It was refused, failed, or the server is gone.
        """
        request = make_request(kind, images, mask, fields, idempotency_key)
        response = await self._send("POST", "/v1/jobs", **request.content)
        job = await self.wait(Job.from_json(response.json()), progress)
        if job.state != "succeeded":
            error = job.error or {"message": "The job was cancelled.", "code": "cancelled"}
            raise ServerError(error["message"], code=error["code"])
        return job

    async def wait(self, job: Job, progress: Callable[[Progress], None] | None = None) -> Job:
        """Follow a job to its end; a lost connection is taken up again where it broke off.

        Returns:
            The finished job.

        Raises:
            ServerError: The server is gone, or has forgotten the job.
        """
        reader = EventReader()
        attempt = 0
        while True:
            known, busy, problem = reader.last_id, None, None
            headers = {"Last-Event-ID": known} if known else {}
            try:
                async with self._http.stream("GET", f"/v1/jobs/{job.id}/events", headers=headers) as stream:
                    if stream.status_code == 204:
                        return await self.get(job.id)
                    if stream.status_code != 200:
                        await stream.aread()
                        if attempt == self._retries or not may_try_again(stream):
                            refuse(stream)
                        busy = stream
                    else:
                        async for line in stream.aiter_lines():
                            data = reader.read(line)
                            if data is None:
                                continue
                            if "job" in data:
                                return Job.from_json(data["job"])
                            if progress is not None:
                                progress(Progress.from_json(data))
            except httpx2.TransportError as error:
                problem = error
            if reader.last_id != known:  # a line that breaks again and again still leads to the end
                attempt = 0
            if attempt == self._retries:
                if problem is not None:
                    give_up(self._url, problem)
                raise ServerError(f"{self._url} doesn't say how the job {job.id} ended.")
            await asyncio.sleep(pause_s(attempt, busy))
            attempt += 1

    async def get(self, job_id: str) -> Job:
        """Return a job's record."""
        return Job.from_json((await self._send("GET", f"/v1/jobs/{job_id}")).json())

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job: at once where it waits, at its next step where it runs."""
        return Job.from_json((await self._send("DELETE", f"/v1/jobs/{job_id}")).json())

    async def images(self, job: Job) -> list[bytes]:
        """Fetch a job's pictures."""
        paths = [f"/v1/jobs/{job.id}/images/{n}" for n in range(len(job.images))]
        return [(await self._send("GET", path)).content for path in paths]

    async def masks(self, job: Job) -> list[bytes]:
        """Fetch the masks of a job with `preserve` or a mask: PNG, 255 where a picture is the edit's."""
        paths = [f"/v1/jobs/{job.id}/masks/{n}" for n in range(len(job.masks))]
        return [(await self._send("GET", path)).content for path in paths]

    async def models(self) -> list[dict[str, Any]]:
        """List what the server has."""
        return (await self._send("GET", "/v1/models")).json()["data"]

    async def _send(self, method: str, path: str, **content: Any) -> httpx2.Response:
        """Send a request, again where that may help.

        Raises:
            ServerError: It is refused, or nobody answers.
        """
        attempt = -1
        while True:
            attempt += 1
            is_last = attempt == self._retries
            try:
                response = await self._http.request(method, path, **content)
            except httpx2.TransportError as error:
                if is_last:
                    give_up(self._url, error)
                await asyncio.sleep(pause_s(attempt, None))
                continue
            if response.is_success:
                return response
            if is_last or not may_try_again(response):
                refuse(response)
            await asyncio.sleep(pause_s(attempt, response))
