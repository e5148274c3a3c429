"""What the routes share: from a request to a job, from a job to an answer."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from joyimage.edits import KINDS, FieldError
from joyimage.errors import JoyImageError, QueueFullError
from joyimage.serving.http.admission import batch_key, make_task
from joyimage.serving.http.bodies import Body, read_body
from joyimage.serving.http.budgets import Budgets
from joyimage.serving.http.errors import ApiError, job_error, storage_full
from joyimage.serving.http.job_record import job_record
from joyimage.serving.http.parsing import parse_request
from joyimage.serving.http.plans import PlanBody, make_plan, of_step, read_plan
from joyimage.serving.jobs.clock import SteadyClock
from joyimage.serving.jobs.dispatcher import Dispatcher
from joyimage.serving.jobs.events import EventLog
from joyimage.serving.jobs.files import RESULTS, JobFiles
from joyimage.serving.jobs.limits import QueueLimits
from joyimage.serving.jobs.liveness import Liveness
from joyimage.serving.jobs.plan import PLAN, PlanTask
from joyimage.serving.jobs.records import Job
from joyimage.serving.jobs.store import JobStore
from joyimage.serving.jobs.task import Task
from joyimage.serving.security.errors import RateLimitError
from joyimage.serving.security.keys import RequestRates
from joyimage.serving.security.signing import UrlSigner
from joyimage.serving.security.uploads import PixelBudget, mask_to_region, open_image, read_upload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from starlette.requests import Request

    from joyimage.serving.http.parsing import ParsedRequest
    from joyimage.serving.metrics import Metrics
    from joyimage.serving.security.uploads import Upload
    from joyimage.serving.settings import ServerSettings
    from joyimage.serving.workers.protocol import ModelInfo, Runner

Result = TypeVar("Result")

_IDLE_S = 2.0
_LONGEST_KEY = 255
AnyBody = Body | PlanBody
MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


@dataclass(frozen=True)
class Uploads:
    """The files that came with a request, checked.

    Attributes:
        images: Input images.
        masks: Masks by the number of their step in a plan; None for the one mask of any other job.
    """

    images: list[Upload] = field(default_factory=list)
    masks: Mapping[int | None, Upload] = field(default_factory=dict)


class Service:
    """The parts of one server.

    Args:
        settings: Settings of the server.
        metrics: Where things are counted.
        load: Makes the pipeline of a number.
        on_fatal: Called where the process has to end, with the reason.
    """

    def __init__(
        self,
        settings: ServerSettings,
        metrics: Metrics,
        load: Callable[[int], Runner],
        on_fatal: Callable[[str], None] = lambda _: None,
    ) -> None:
        folder = settings.data_dir
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.settings = settings
        self.metrics = metrics
        self.budgets = Budgets(settings)
        self.rates = RequestRates(settings.client_requests_per_minute)
        self.clock = SteadyClock()
        self.started_at = int(self.clock())
        self.store = JobStore(settings.database_url, self.clock, settings.keep_s)
        self.files = JobFiles(folder / "jobs")
        self.events = EventLog()
        self.signer = UrlSigner(folder / "signing-secret")
        self._liveness = Liveness(folder / "servers")
        self.dispatcher = Dispatcher(
            settings, self.store, self.files, self.events, metrics, self._liveness, on_fatal
        )
        self.limits = QueueLimits(
            queue_size=settings.queue_size,
            client_jobs=settings.client_jobs,
            client_bytes=settings.client_bytes,
            stored_bytes=settings.stored_bytes,
            client_device_s=settings.client_device_s,
        )
        self.pixels = PixelBudget(settings.max_image_pixels, clients=2)
        self._streams: Counter[str] = Counter()
        self._cancelling: set[asyncio.Future[Any]] = set()
        self.dispatcher.start(load)

    def begin_close(self) -> None:
        """Take no further jobs; those that run continue."""
        self.dispatcher.begin_stop()

    def interrupt(self) -> None:
        """Stop the jobs that run, at their next step."""
        self.dispatcher.interrupt()

    def close(self) -> None:
        """Stop everything, in order."""
        self.dispatcher.stop()
        self._liveness.close()
        self.store.close()

    @property
    def info(self) -> ModelInfo:
        """What is known of the model.

        Raises:
            ApiError: No jobs can be run.
        """
        problem = self.dispatcher.problem
        if problem is not None or self.dispatcher.is_stopping:
            raise ApiError(
                503,
                problem or "The server is stopping.",
                code="model_not_ready",
                retry_after_s=5,
            )
        if self.dispatcher.info is None:
            raise ApiError(
                503,
                "The model is being loaded. Try again in a moment.",
                code="model_not_ready",
                retry_after_s=5,
            )
        return self.dispatcher.info

    async def call(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Call what asks the database or the disk, in a thread."""
        return await self.budgets.storage.run("", function, *arguments)

    async def admit(
        self, request: Request, client: str, kind: str | None, *, is_awaited: bool
    ) -> tuple[Job, AnyBody, bool]:
        """Read a request and queue its job.

        Args:
            request: Not yet read.
            client: Name of the client.
            kind: Kind of the job; None where the body says it.
            is_awaited: Whether the answer is the result itself.

        Returns:
            The job, the body, and whether the job is new.

        Raises:
            ApiError: The request is rejected.
            QueueFullError: There is no room for the job.
        """
        info = self.info
        key = request.headers.get("idempotency-key") or None
        if key is not None and len(key) > _LONGEST_KEY:
            raise ApiError(400, f"The Idempotency-Key is longer than {_LONGEST_KEY} characters.")
        try:
            if key is None:  # with one, it may be a job that is there already
                await self.call(self.store.check_room, client, self.limits)
            with self.body_room(request, client):
                parsed = await parse_request(request, self.settings, self.budgets, client)
                if kind is None:
                    kind = _read_kind(parsed.fields.pop("kind", "edit"))
                body = await self._read(kind, parsed, client)
                uploads = await self._read_uploads(parsed, body, client)
                task = self._make_task(body, uploads, info, is_awaited=is_awaited)
                make_job = partial(self._make_job, is_awaited=is_awaited)
                job = await self.budgets.parsing.run(client, make_job, task, body, uploads, client, key)
                job, is_new = await self.call(self._queue, job, uploads)
        except QueueFullError as error:
            code = getattr(error, "code", "queue_full")
            self.metrics.rejected.labels(code).inc()
            if getattr(error, "retry_after_s", None) is None:
                waiting = (await self.call(self.store.counts))["queued"]
                error.retry_after_s = self.dispatcher.wait_s(min(waiting, self.settings.queue_size) // 4)  # pyright: ignore[reportAttributeAccessIssue]
            raise
        return job, body, is_new

    def body_room(self, request: Request, client: str) -> AbstractContextManager[None]:
        """Keep room in memory for a body; for the largest where the client does not say how large it is."""
        length = request.headers.get("content-length", "")
        is_known = length.isascii() and length.isdigit()
        return self.budgets.bodies.reserve(client, int(length) if is_known else self.settings.max_body_bytes)

    async def _read(self, kind: str, parsed: ParsedRequest, client: str) -> AnyBody:
        """Read the fields of a request of a kind."""
        if kind == PLAN:
            return await read_plan(parsed, self.settings, self.budgets, client)
        return read_body(kind, parsed.fields, is_form=parsed.is_form)

    async def _read_uploads(self, parsed: ParsedRequest, body: AnyBody, client: str) -> Uploads:
        """Check the files that came with a request, one after the other."""
        masks: Mapping[int | None, bytes] = {} if parsed.mask is None else {None: parsed.mask}
        if isinstance(body, PlanBody):
            masks = {**body.masks}
        if not parsed.images and not masks:
            return Uploads()

        def read() -> Uploads:
            images = [read_upload(data, self.settings, self.pixels, client) for data in parsed.images]
            return Uploads(
                images, {number: self._read_mask(data, number, client) for number, data in masks.items()}
            )

        return await self.budgets.decoding.run(client, read)

    def _read_mask(self, data: bytes, number: int | None, client: str) -> Upload:
        """Check the file of a mask, of a plan's step where a number is given.

        Raises:
            JoyImageError: It is not a mask.
        """
        try:
            mask = read_upload(data, self.settings, self.pixels, client, "mask")
            with self.pixels.reserve(mask.size[0] * mask.size[1], client):
                mask_to_region(open_image(mask.data, self.settings, "mask"))  # rejects one that is none
        except JoyImageError as error:
            if number is None:
                raise
            rejection = of_step(number, error)
            raise rejection from None
        return mask

    def _make_task(
        self, body: AnyBody, uploads: Uploads, info: ModelInfo, *, is_awaited: bool
    ) -> Task | PlanTask:
        """Decide everything that a request leaves open."""
        if isinstance(body, PlanBody):
            masks = {number: mask for number, mask in uploads.masks.items() if number is not None}
            return make_plan(body, uploads.images, masks, settings=self.settings, info=info)
        is_stream = bool(getattr(body.options, "stream", None))
        return make_task(
            body,
            uploads.images,
            uploads.masks.get(None),
            settings=self.settings,
            info=info,
            has_previews=not is_awaited or (is_stream and bool(body.options.partial_images)),
        )

    def _make_job(
        self,
        task: Task | PlanTask,
        body: AnyBody,
        uploads: Uploads,
        client: str,
        key: str | None,
        *,
        is_awaited: bool,
    ) -> Job:
        digests = [hashlib.sha256(image.data).hexdigest() for image in uploads.images]
        masks = {number: hashlib.sha256(mask.data).hexdigest() for number, mask in uploads.masks.items()}
        parts = [*body.content, digests, sorted(masks.items()) if task.kind == PLAN else masks.get(None)]
        text = json.dumps(parts, sort_keys=True)
        is_awaited = is_awaited and key is None
        return Job(
            id=self.files.new_id(),
            client=client,
            kind=task.kind,
            task=task.to_dict(),
            cost=task.cost,
            request_hash=hashlib.sha256(text.encode("utf-8", "replace")).hexdigest(),
            batch_key=batch_key(task, self.settings) if isinstance(task, Task) else None,
            image_hash=digests[0] if digests else None,
            idempotency_key=key,
            is_awaited=is_awaited,
            awaited_by=self._liveness.name if is_awaited else None,
            stored_bytes=sum(len(one.data) for one in (*uploads.images, *uploads.masks.values())),
        )

    def _queue(self, job: Job, uploads: Uploads) -> tuple[Job, bool]:
        """Write a job's images, and queue it.

        Raises:
            ApiError: The images cannot be stored.
        """
        is_new = False
        try:
            for number, image in enumerate(uploads.images):
                self.files.write(job.id, f"input-{number}", image.data)
            for number, mask in uploads.masks.items():
                self.files.write(job.id, "mask" if number is None else f"mask-{number}", mask.data)
            stored, is_new = self.store.submit(job, self.limits)
        except OSError as error:
            rejection = storage_full("The image cannot be stored", error)
            raise rejection from None
        finally:
            if not is_new:
                self.files.remove(job.id)
        if is_new:
            self.events.publish(stored.id, "queued", {"restarted": 0})
            self.dispatcher.wake()
        return stored, is_new

    async def result(self, request: Request, job: Job) -> Job:
        """Wait for a job's end; the job of a client that goes away is cancelled.

        Args:
            request: The request, which has been read.
            job: The queued job.

        Returns:
            The finished job.

        Raises:
            ApiError: The job failed.
        """
        waiting = asyncio.ensure_future(self._end(job.id))
        leaving = asyncio.ensure_future(_disconnect(request))
        try:
            await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                self.abandon(job)
                raise ApiError(499, "The client went away.", code="client_gone")
            return raise_for(waiting.result())
        finally:
            for task in (waiting, leaving):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task

    def abandon(self, job: Job) -> None:
        """Cancel a job whose client has gone; one with an idempotency key may be asked for again.

        Not awaited: a request that is cancelled because its client has gone cannot wait for anything.
        """
        if job.is_awaited:
            work = asyncio.ensure_future(self.call(self.dispatcher.cancel, job.id))
            self._cancelling.add(work)
            work.add_done_callback(self._cancelling.discard)

    def check_streams(self, client: str) -> None:
        """Reject a further stream of events of a client that follows many jobs.

        Raises:
            RateLimitError: The client has too many.
        """
        if self._streams[client] >= self.settings.client_streams:
            raise RateLimitError(
                f"You have {self._streams[client]} open event streams, the maximum; close some.",
                "too_many_streams",
                5.0,
            )

    @contextmanager
    def streaming(self, client: str) -> Iterator[None]:
        """Count an open stream of events."""
        self._streams[client] += 1
        try:
            yield
        finally:
            self._streams[client] -= 1
            if not self._streams[client]:
                del self._streams[client]

    def is_left_behind(self, job_id: str) -> bool:
        """Return whether the server stops and a job waits for the next one."""
        return self.dispatcher.is_stopping and not self.dispatcher.runs_here(job_id)

    async def _end(self, job_id: str) -> Job:
        """Wait until a job has ended.

        Raises:
            ApiError: The job's record has expired, or the server stops before it ran.
        """
        async for event in self.events.follow(job_id, idle_s=_IDLE_S):
            if event is None or event.is_last:
                job = await self.call(self.store.get, job_id)
                if job is None:
                    raise ApiError(404, "The job's record has expired.", code="not_found")
                if job.is_finished:
                    return job
                if self.is_left_behind(job_id):
                    break
        raise ApiError(
            503,
            "The server stops; send the request again, with the same Idempotency-Key.",
            code="server_stopped",
            retry_after_s=5,
        )

    def public(self, job: Job, base_url: str) -> dict[str, Any]:
        """Return a job's record as clients see it; see `job_record`."""
        progress = self.dispatcher.progress(job.id)
        if progress is None and job.state == "running" and job.step is not None:
            progress = (job.step, job.num_steps or job.step)
        return job_record(
            job,
            progress=progress,
            position=self.store.position(job) if job.state == "queued" else None,
            address=partial(self.result_url, job, base_url=base_url),
        )

    def delete_results(self, job: Job) -> Job:
        """Remove the files of a finished job; its record stays until it expires."""
        self.files.remove(job.id)
        return self.store.drop_results(job.id) or job

    def result_url(self, job: Job, which: str, number: int, base_url: str) -> str:
        """Return the address of one of a job's "images" or "masks", which opens without a key once it has ended."""
        path = f"/v1/jobs/{job.id}/{which}/{number}"
        base = (self.settings.public_url or base_url).rstrip("/")
        if job.expires_at is None:
            return f"{base}{path}"
        return f"{base}{path}?{self.signer.sign(path, int(job.expires_at or 0))}"

    def results(self, job: Job, which: str = "images") -> list[bytes]:
        """Return a finished job's "images" or "masks".

        Raises:
            ApiError: They have been removed.
        """
        if (job.result or {}).get("is_deleted"):
            raise ApiError(410, "The job's results have been removed.", code="gone")
        try:
            return [self.files.read(job.id, f"{RESULTS[which]}-{n}") for n in range(job.count(which))]
        except FileNotFoundError:
            raise ApiError(410, "The job's results have been removed.", code="gone") from None


def _read_kind(name: Any) -> str:
    """Return the kind of a job.

    Raises:
        FieldError: There is no such kind.
    """
    if not isinstance(name, str) or name not in {*KINDS, PLAN}:
        raise FieldError("kind", name, f"one of {', '.join((*KINDS, PLAN))}")
    return name


def raise_for(job: Job) -> Job:
    """Return a job that succeeded.

    Raises:
        ApiError: The job failed or was cancelled.
    """
    if job.state == "cancelled":
        raise ApiError(409, "The job was cancelled.", code="cancelled")
    if job.error is not None:
        failure = job_error(job.error)
        raise failure
    return job


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
