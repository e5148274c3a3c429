"""What the routes share: from a request to a job, from a job to an answer."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import threading
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from joyimage.serving.http.errors import ApiError, storage_full
from joyimage.serving.http.parsing import check, receive
from joyimage.serving.http.schemas import BODIES
from joyimage.serving.http.tasks import batch_key, make_task
from joyimage.serving.jobs.clock import SteadyClock
from joyimage.serving.jobs.dispatcher import Engine
from joyimage.serving.jobs.events import EventLog
from joyimage.serving.jobs.files import RESULTS, JobFiles
from joyimage.serving.jobs.liveness import Liveness
from joyimage.serving.jobs.records import Job
from joyimage.serving.jobs.store import JobStore
from joyimage.serving.security.middleware import UrlSigner
from joyimage.serving.security.uploads import check_upload, mask_to_region, open_picture

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from joyimage.serving.http.parsing import Received
    from joyimage.serving.metrics import Metrics
    from joyimage.serving.settings import ServerSettings
    from joyimage.serving.workers.protocol import ModelInfo, Runner

_IDLE_S = 2.0
_DECODERS = 2  # pictures decoded at a time: each may take 4 bytes a pixel
_LONGEST_KEY = 255
MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


class Service:
    """One server's parts.

    Args:
        settings: Of the server.
        metrics: Where things are counted.
        load: Makes the pipeline of a number.
    """

    def __init__(self, settings: ServerSettings, metrics: Metrics, load: Callable[[int], Runner]) -> None:
        folder = settings.data_dir
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.settings = settings
        self.metrics = metrics
        self.clock = SteadyClock()
        self.store = JobStore(settings.database_url, self.clock, settings.keep_s)
        self.files = JobFiles(folder / "jobs")
        self.files.remove_all_but(self.store.ids(self.files.ids()))
        self.events = EventLog()
        self.signer = UrlSigner(folder / "signing-secret")
        self._liveness = Liveness(folder / "servers")
        self.engine = Engine(settings, self.store, self.files, self.events, metrics, self._liveness)
        self._decoding = threading.Semaphore(_DECODERS)
        self.engine.start(load)

    def close(self) -> None:
        """End in order."""
        self.engine.stop()
        self._liveness.close()
        self.store.close()

    @property
    def info(self) -> ModelInfo:
        """What is known of the model.

        Raises:
            ApiError: It isn't loaded.
        """
        if self.engine.info is None:
            sentence = self.engine.problem or "The model is being loaded. Try again in a moment."
            raise ApiError(503, sentence, code="model_not_ready", retry_after_s=5)
        return self.engine.info

    async def admit(
        self, request: Request, client: str, kind: str | None, *, is_awaited: bool
    ) -> tuple[Job, Any, bool]:
        """Read a request and queue its job.

        Args:
            request: Not yet read.
            client: Whose it is.
            kind: Of the job; None where the body says it.
            is_awaited: Whether the answer is the result itself.

        Returns:
            The job, the body, and whether the job is new.

        Raises:
            ApiError: It is refused.
        """
        _ = self.info
        key = request.headers.get("idempotency-key") or None
        if key is not None and len(key) > _LONGEST_KEY:
            raise ApiError(400, f"The Idempotency-Key is longer than {_LONGEST_KEY} characters.")
        try:
            if key is None:  # with one, it may be a job that is there already
                await run_in_threadpool(self.store.check_room, client, **self._room)
            received = await receive(request, self.settings)
            if kind is None:
                kind = received.fields.pop("kind", "edit")
                if not isinstance(kind, str) or kind not in BODIES:
                    raise ApiError(
                        400, f"`kind` is unknown; expected one of {', '.join(BODIES)}.", param="kind"
                    )
            body = check(BODIES[kind], received.fields)
            job, is_new = await run_in_threadpool(
                self._queue, kind, body, received, client, key, is_awaited=is_awaited
            )
        except ApiError as error:
            if error.status == 429:
                self.metrics.refused.labels(error.code or "").inc()
                waiting = (await run_in_threadpool(self.store.counts))["queued"]
                error.retry_after_s = self.engine.wait_s(min(waiting, self.settings.queue_size) // 4)
            raise
        return job, body, is_new

    @property
    def _room(self) -> dict[str, int]:
        return {"queue_size": self.settings.queue_size, "client_jobs": self.settings.client_jobs}

    def _queue(
        self, kind: str, body: Any, received: Received, client: str, key: str | None, *, is_awaited: bool
    ) -> tuple[Job, bool]:
        """Check pictures, write them, and queue the job.

        Raises:
            ApiError: It is refused.
        """
        with self._decoding:
            pictures = [check_upload(data, self.settings) for data in received.pictures]
            mask = None if received.mask is None else check_upload(received.mask, self.settings, "mask")
            if mask is not None:
                mask_to_region(open_picture(mask.data, self.settings, "mask"))  # refuses one that is none
        is_stream = bool(getattr(body, "stream", None))
        task = make_task(
            kind,
            body,
            pictures,
            mask,
            settings=self.settings,
            info=self.info,
            has_previews=not is_awaited or (is_stream and bool(body.partial_images)),
        )
        digests = [hashlib.sha256(picture.data).hexdigest() for picture in pictures]
        mask_digest = None if mask is None else hashlib.sha256(mask.data).hexdigest()
        request = json.dumps([kind, body.model_dump(mode="json"), digests, mask_digest], sort_keys=True)
        job = Job(
            id=self.files.new_id(),
            client=client,
            kind=kind,
            task=task.model_dump(mode="json"),
            request_hash=hashlib.sha256(request.encode("utf-8", "replace")).hexdigest(),
            batch_key=batch_key(task, self.settings),
            picture_hash=digests[0] if digests else None,
            idempotency_key=key,
            is_awaited=is_awaited and key is None,
        )
        is_new = False
        try:
            for number, picture in enumerate(pictures):
                self.files.write(job.id, f"input-{number}", picture.data)
            if mask is not None:
                self.files.write(job.id, "mask", mask.data)
            stored, is_new = self.store.submit(job, **self._room)
        except OSError as error:
            refusal = storage_full("The picture can't be stored", error)
            raise refusal from None
        finally:
            if not is_new:
                self.files.remove(job.id)
        if is_new:
            self.events.publish(stored.id, "queued", {"restarted": 0})
            self.engine.wake()
        return stored, is_new

    async def result(self, request: Request, job: Job) -> Job:
        """Wait for a job's end; a client that goes away takes its job with it.

        Args:
            request: Read already.
            job: Queued.

        Returns:
            The finished job.

        Raises:
            ApiError: It failed.
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
        """Cancel a job that nobody waits for any more; one with an idempotency key may be asked for again.

        Not awaited: who is cancelled because its client went away can't wait for anything.
        """
        if job.is_awaited:
            asyncio.get_running_loop().run_in_executor(None, self.engine.cancel, job.id)

    async def _end(self, job_id: str) -> Job:
        """Wait until a job has ended.

        Raises:
            ApiError: Its record has gone.
        """
        async for event in self.events.follow(job_id, idle_s=_IDLE_S):
            if event is None or event.is_last:
                job = await run_in_threadpool(self.store.get, job_id)
                if job is None:
                    raise ApiError(404, "The job's record has expired.", code="not_found")
                if job.is_finished:
                    return job
        assert False, "a job's events end with its end"  # noqa: B011, PT015

    def public(self, job: Job, base_url: str) -> dict[str, Any]:
        """Return a job's record as clients see it."""
        result = job.result or {}
        progress = self.engine.progress(job.id)
        steps = None if progress is None else {"step": progress[0], "steps": progress[1]}
        return {
            "id": job.id,
            "object": "job",
            "kind": job.kind,
            "state": job.state,
            "position": self.store.position(job) if job.state == "queued" else None,
            "progress": steps,
            "restarted": job.restarted,
            "created_at": job.created_at,
            "started_at": job.started_at,
            "finished_at": job.finished_at,
            "expires_at": job.expires_at,
            "seed": job.task["seed"] if job.kind != "describe" else None,
            "steps": job.task["steps"] if job.kind != "describe" else None,
            "guidance": job.task["guidance"] if job.kind != "describe" else None,
            "width": result.get("width"),
            "height": result.get("height"),
            "prompt": result.get("prompt") or job.task["prompt"] or None,
            "text": result.get("text"),
            "checks": result.get("checks"),
            "memory": result.get("memory"),
            "reused": result.get("reused"),
            "images": [
                self.result_url(job, "images", n, base_url) for n in range(result.get("num_images", 0))
            ],
            "masks": [self.result_url(job, "masks", n, base_url) for n in range(result.get("num_masks", 0))],
            "error": job.error and {"message": job.error["message"], "code": job.error["code"]},
        }

    def result_url(self, job: Job, which: str, number: int, base_url: str) -> str:
        """Return the address of one of a job's "images" or "masks", open without a key until it goes."""
        path = f"/v1/jobs/{job.id}/{which}/{number}"
        base = (self.settings.public_url or base_url).rstrip("/")
        return f"{base}{path}?{self.signer.sign(path, int(job.expires_at or 0))}"

    def results(self, job: Job, which: str = "images") -> list[bytes]:
        """Return a finished job's "images" or "masks".

        Raises:
            ApiError: They have gone.
        """
        count = (job.result or {}).get(f"num_{which}", 0)
        try:
            return [self.files.read(job.id, f"{RESULTS[which]}-{n}") for n in range(count)]
        except FileNotFoundError:
            raise ApiError(410, "The job's results have gone.", code="gone") from None


def raise_for(job: Job) -> Job:
    """Return a job that succeeded.

    Raises:
        ApiError: It didn't.
    """
    if job.state == "cancelled":
        raise ApiError(409, "The job was cancelled.", code="cancelled")
    if job.error is not None:
        raise ApiError(job.error["status"], job.error["message"], code=job.error["code"])
    return job


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
