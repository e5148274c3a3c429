"""The client for ordinary programs."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, cast

import httpx2

from joyimage.client.protocol import (
    NextLine,
    Open,
    Protocol,
    Result,
    Send,
    ServerError,
    Sleep,
    Steps,
    as_edit,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

    from joyimage.client.protocol import Action, ImageLike
    from joyimage.client.records import Job, Progress
    from joyimage.edits import AnyEdit

__all__ = ["Client", "ServerError"]


class Client:
    """A connection to `joyimage serve`.

    Every job has its own key, so a request that is sent again after a lost connection never runs twice.

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
        self._http = httpx2.Client(
            base_url=self._protocol.url, headers=auth_headers(api_key), timeout=timeout_s
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def edit(self, image: ImageLike | list[ImageLike], prompt: str, **settings: Any) -> list[bytes]:
        """Edit an image as the prompt says.

        Args:
            image: A PIL image, a path, or the content of a file; several for a model that takes several.
            prompt: What to do.
            **settings: As in `run`.

        Returns:
            The images, as files.
        """
        images = image if isinstance(image, list) else [image]
        return self.images(self.run("edit", images, prompt=prompt, **settings))

    def generate(self, prompt: str, **settings: Any) -> list[bytes]:
        """Make images from text alone.

        Args:
            prompt: What the image shows.
            **settings: As in `run`.

        Returns:
            The images, as files.
        """
        return self.images(self.run("generate", [], prompt=prompt, **settings))

    def describe(
        self, image: ImageLike | list[ImageLike], question: str | None = None, **settings: Any
    ) -> str:
        """Answer a question about an image, or about two.

        Args:
            image: A PIL image, a path, or the content of a file; two for the image before and after an edit.
            question: What to ask; None for a description of one image, and for what changed between two.
            **settings: As in `run`.

        Returns:
            The answer.
        """
        images = image if isinstance(image, list) else [image]
        return self.run("describe", images, question=question, **settings).text or ""

    def run(
        self,
        edit: AnyEdit | str,
        images: Sequence[ImageLike] = (),
        *,
        mask: ImageLike | None = None,
        progress: Callable[[Progress], None] | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """Queue a job and wait for its end.

        Args:
            edit: An edit of `joyimage.edits`, or the name of its kind with the fields as keywords.
            images: Input images: PIL images, paths, or the content of files.
            mask: An image that is transparent where the input may change.
            progress: Called after every step.
            idempotency_key: Names the job: with the same key it never runs again. Random if None.
            **fields: Fields of the edit, such as `seed=1`, and of the request, such as
                `output_format="webp"`.

        Returns:
            The finished job.

        Raises:
            InvalidInputError: A field has a value that is not accepted.
            ServerError: The job was rejected, failed or was cancelled, or the server is gone.
        """
        value, extra = as_edit(edit, fields)
        return self._drive(
            self._protocol.run(
                value, images, mask=mask, progress=progress, idempotency_key=idempotency_key, extra=extra
            )
        )

    def plan(
        self,
        image: ImageLike,
        steps: Sequence[AnyEdit | Mapping[str, Any]],
        *,
        progress: Callable[[Progress], None] | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """Queue several edits as one job, each of what the one before it made, and wait for its end.

        The images of the job are those of the steps, in order; where a step fails, `ServerError.job` has the images
        of the steps before it.

        Args:
            image: What the first step works on: a PIL image, a path, or the content of a file.
            steps: Edits of `joyimage.edits`, or dicts of their fields with `kind`; in a dict, `mask` is an image that
                is transparent where that step may change its input.
            progress: Called after every denoising step, and when a step of the plan has made its image.
            idempotency_key: Names the job: with the same key it never runs again. Random if None.
            **fields: Fields of the request, such as `output_format="webp"`.

        Returns:
            The finished job.

        Raises:
            InvalidInputError: A field has a value that is not accepted.
            ServerError: The plan was rejected, failed or was cancelled, or the server is gone.
        """
        return self._drive(
            self._protocol.plan(
                image, steps, progress=progress, idempotency_key=idempotency_key, extra=fields
            )
        )

    def wait(self, job: Job, progress: Callable[[Progress], None] | None = None) -> Job:
        """Follow a job to its end; a lost connection continues where it broke off.

        Args:
            job: From `run`, `get` or a server's answer.
            progress: Called after every step.

        Returns:
            The finished job.

        Raises:
            ServerError: The server is gone, or no longer knows the job.
        """
        return self._drive(self._protocol.follow(job, progress))

    def get(self, job_id: str) -> Job:
        """Return the record of a job."""
        return self._drive(self._protocol.get(job_id))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job: at once if it waits, at its next step if it runs."""
        return self._drive(self._protocol.cancel(job_id))

    def images(self, job: Job) -> list[bytes]:
        """Fetch the images of a job, as files."""
        return self._drive(self._protocol.files(job, "images"))

    def masks(self, job: Job) -> list[bytes]:
        """Fetch the masks of a job with `preserve` or a mask: PNG, 255 where the edit is shown."""
        return self._drive(self._protocol.files(job, "masks"))

    def models(self) -> list[dict[str, Any]]:
        """List the server's models."""
        return self._drive(self._protocol.models())

    def _drive(self, steps: Steps[Result]) -> Result:
        """Carry out the actions of an operation and return its result."""
        with ExitStack() as stack:
            streams = _Streams(self._http, stack)
            result, error = None, None
            while True:
                try:
                    action = steps.send(result) if error is None else steps.throw(error)
                except StopIteration as stop:
                    return cast("Result", stop.value)
                result, error = None, None
                try:
                    result = self._perform(action, streams)
                except httpx2.TransportError as caught:
                    error = caught

    def _perform(self, action: Action, streams: _Streams) -> Any:
        match action:
            case Send():
                return self._http.request(action.method, action.path, **action.content)
            case Open():
                return streams.open(action)
            case NextLine():
                return next(streams.lines, None)
            case Sleep():
                time.sleep(action.seconds)
                return None


class _Streams:
    """The stream that an operation reads; opening another closes it."""

    def __init__(self, http: httpx2.Client, stack: ExitStack) -> None:
        self._http = http
        self._stack = stack
        self.lines: Iterator[str] = iter(())

    def open(self, action: Open) -> httpx2.Response:
        self._stack.close()
        stream = self._stack.enter_context(self._http.stream("GET", action.path, headers=action.headers))
        if stream.status_code == 200:
            self.lines = stream.iter_lines()
        else:
            stream.read()
        return stream


def auth_headers(api_key: str | None) -> dict[str, str]:
    """Return the header with the API key, from the environment if None is given."""
    key = api_key or os.environ.get("JOYIMAGE_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}
