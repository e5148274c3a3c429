"""`/v1/jobs`: queue a job, look at it, follow it, cancel it, fetch what came out."""

# Annotations are real types here: FastAPI reads them.

import base64
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from joyimage.serving.http.auth import RequestContext, find_context
from joyimage.serving.http.errors import ApiError
from joyimage.serving.http.openai import STREAM_HEADERS
from joyimage.serving.http.openapi import ERRORS, describe_route
from joyimage.serving.http.query import check_query
from joyimage.serving.http.service import MEDIA_TYPES, Service
from joyimage.serving.jobs.events import Event, sse
from joyimage.serving.jobs.files import RESULTS
from joyimage.serving.jobs.plan import steps_made
from joyimage.serving.jobs.records import Job

router = APIRouter(tags=["jobs"])
_LAST = 999_999  # number of a final event that had to be made up after a restart
_KEEPALIVE_S = 10.0
_JOB_ID = re.compile("[0-9a-f]{32}")
JobId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
Known = Annotated[RequestContext, Depends(find_context)]
Number = Annotated[int, Path(ge=0, le=9999)]
Expires = Annotated[str, Query(max_length=20)]
Signature = Annotated[str, Query(max_length=100)]
_WITHOUT_KEY = Depends(check_query)  # a signed address opens these without one


@router.post("/v1/jobs", status_code=202, **describe_route("job"))
async def create(request: Request, context: Known) -> Response:
    """Queue a job and answer at once with its record."""
    service = context.service
    job, _, is_new = await service.admit(request, context.client, None, is_awaited=False)
    record = await service.call(service.public, job, str(request.base_url))
    headers = {"Location": f"/v1/jobs/{job.id}", "X-Job-Is-New": str(is_new).lower()}
    return JSONResponse(record, status_code=202, headers=headers)


@router.get("/v1/jobs", responses=ERRORS)
async def list_jobs(
    request: Request,
    context: Known,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"] | None = None,
    after: Annotated[str | None, Query(max_length=100)] = None,
) -> dict[str, Any]:
    """List your jobs, newest first; `after` is the last one's id of the page before."""
    service = context.service

    def read() -> dict[str, Any]:
        _check_cursor(context, after)
        jobs = service.store.list(context.sees_only, state=state, limit=limit + 1, after=after)
        records = [service.public(job, str(request.base_url)) for job in jobs[:limit]]
        return {"object": "list", "data": records, "has_more": len(jobs) > limit}

    return await service.call(read)


def _check_cursor(context: RequestContext, after: str | None) -> None:
    """Reject a page's start that is not one of the client's jobs: an empty page would look like the last one.

    Raises:
        ApiError: There is no such job.
    """
    store = context.service.store
    if after is None or (_JOB_ID.fullmatch(after) and store.get(after, context.sees_only) is not None):
        return
    raise ApiError(
        400,
        f"`after` is {after!r}; expected the id of one of your jobs. Leave it out to begin with the newest.",
        code="invalid_value",
        param="after",
    )


@router.get("/v1/jobs/{job_id}", responses=ERRORS)
async def show(request: Request, job_id: JobId, context: Known) -> dict[str, Any]:
    """Return a job's record."""
    job = await _find(context, job_id)
    return await context.service.call(context.service.public, job, str(request.base_url))


@router.delete("/v1/jobs/{job_id}", responses=ERRORS)
async def cancel(request: Request, job_id: JobId, context: Known) -> dict[str, Any]:
    """Cancel a job, at its next step where it runs; of a job that has ended, remove the results."""
    job = await _find(context, job_id)
    if job.is_finished:
        job = await context.service.call(context.service.delete_results, job)
    else:
        job = await context.service.call(context.service.dispatcher.cancel, job.id) or job
    return await context.service.call(context.service.public, job, str(request.base_url))


@router.get(
    "/v1/jobs/{job_id}/events",
    responses={
        **ERRORS,
        200: {"content": {"text/event-stream": {}}},
        204: {"description": "The job has ended, and its last event is known."},
    },
    response_class=Response,
)
async def events(request: Request, job_id: JobId, context: Known) -> Response:
    """Follow a job: queued, running, progress with a preview, a plan's steps, its end. Resumes after Last-Event-ID."""
    job = await _find(context, job_id)
    last = request.headers.get("last-event-id", "")
    after = int(last) if last.isascii() and last.isdigit() and len(last) < 16 else 0
    if job.is_finished and after and after >= _synthetic_event(job).id:
        return Response(status_code=204)
    if request.scope.get("is_head"):
        return Response(media_type="text/event-stream")
    context.service.check_streams(context.client)
    stream = _follow(context, job, after, str(request.base_url))
    return StreamingResponse(stream, media_type="text/event-stream", headers=STREAM_HEADERS)


@router.get(
    "/v1/jobs/{job_id}/images/{number}",
    responses={**ERRORS, 200: {"content": {kind: {} for kind in MEDIA_TYPES.values()}}},
    response_class=Response,
    dependencies=[_WITHOUT_KEY],
)
async def image(
    request: Request, job_id: JobId, number: Number, expires: Expires = "", signature: Signature = ""
) -> Response:
    """Return one result. Its address in a record opens it without a key."""
    return await _open(request, "images", job_id, number, expires, signature)


@router.get(
    "/v1/jobs/{job_id}/masks/{number}",
    responses={**ERRORS, 200: {"content": {"image/png": {}}}},
    response_class=Response,
    dependencies=[_WITHOUT_KEY],
)
async def mask(
    request: Request, job_id: JobId, number: Number, expires: Expires = "", signature: Signature = ""
) -> Response:
    """Return a result's mask: 255 where a pixel is the edit's, 0 where it is the input image's."""
    return await _open(request, "masks", job_id, number, expires, signature)


@router.get(
    "/v1/jobs/{job_id}/inputs/{number}",
    responses={**ERRORS, 200: {"content": {kind: {} for kind in MEDIA_TYPES.values()}}},
    response_class=Response,
    dependencies=[_WITHOUT_KEY],
)
async def input_image(
    request: Request, job_id: JobId, number: Number, expires: Expires = "", signature: Signature = ""
) -> Response:
    """Return an input image of a job that succeeded, as long as its results are kept."""
    return await _open(request, "inputs", job_id, number, expires, signature)


async def _open(
    request: Request, which: str, job_id: str, number: int, expires: str, signature: str
) -> Response:
    """Return a file of a job's "images", "masks" or "inputs".

    Raises:
        ApiError: There is no such result, or it has been removed.
    """
    service: Service = request.app.state.service
    path = f"/v1/jobs/{job_id}/{which}/{number}"
    if service.signer.opens(path, expires, signature, service.clock()):
        job = await service.call(service.store.get, job_id)
    else:
        job = await _find(find_context(request), job_id)
    result = {} if job is None or job.result is None else job.result
    if result.get("is_deleted"):
        raise ApiError(410, "The job's results have been removed.", code="gone")
    if job is None or number >= job.count(which):
        raise ApiError(404, "There is no such image.", code="not_found")
    try:
        # The path is made of the record's own id, not of what came in the request.
        data = await service.call(service.files.read, job.id, f"{RESULTS[which]}-{number}")
    except FileNotFoundError:
        raise ApiError(410, "The job's results have been removed.", code="gone") from None
    headers = {"Cache-Control": "private, max-age=3600, immutable"}
    return Response(data, media_type=_media_type_of(data), headers=headers)


def _media_type_of(data: bytes) -> str:
    """Return the type of an image's file by its first bytes."""
    if data.startswith(b"\xff\xd8\xff"):
        return MEDIA_TYPES["jpeg"]
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return MEDIA_TYPES["webp"]
    return MEDIA_TYPES["png"] if data.startswith(b"\x89PNG") else "application/octet-stream"


async def _find(context: RequestContext, job_id: str) -> Job:
    """Return a client's job.

    Raises:
        ApiError: There is none that the client may see.
    """
    job = await context.service.call(context.service.store.get, job_id, context.sees_only)
    if job is None:
        raise ApiError(404, "There is no such job.", code="not_found")
    return job


def _synthetic_event(job: Job) -> Event:
    """Return the last event of a job whose events are no longer known."""
    return Event(job.restarted * (_LAST + 1) + _LAST, job.state, {})


async def _follow(context: RequestContext, job: Job, after: int, base_url: str) -> AsyncIterator[bytes]:
    """Yield a job's events up to its end; its last one carries the record."""
    service = context.service
    shown = _Shown(after)
    with service.streaming(context.client):
        async for event in service.events.follow(job.id, after):
            if event is None and service.dispatcher.runs_here(job.id):
                if shown.is_quiet():  # its events come from here; no need to ask the database
                    yield b": waiting\n\n"
                continue
            if event is None:
                found = await service.call(service.store.get, job.id)
                if found is None:
                    return
                if found.is_finished:
                    yield await _send(service, job, _synthetic_event(found), base_url)
                    return
                if service.is_left_behind(job.id):
                    return  # the client follows it on at the next server
                elsewhere = shown.news_of(found, runs_here=service.dispatcher.runs_here(job.id))
                if elsewhere is not None:
                    yield await _send(service, job, elsewhere, base_url)
                elif shown.is_quiet():
                    yield b": waiting\n\n"
                continue
            shown.record(event)
            yield await _send(service, job, event, base_url)
            if event.is_last:
                return


class _Shown:
    """What a client has been told of a job, to add what another server records of it.

    Args:
        after: Number of the last event that the client knows.
    """

    def __init__(self, after: int) -> None:
        self._last_id = after
        self._state = ""
        self._step = 0
        self._plan_step = 0
        self._idle_s = 0.0

    def record(self, event: Event) -> None:
        """Remember an event that is sent."""
        self._last_id = max(self._last_id, event.id)
        self._state = event.type
        self._step = event.data.get("step", self._step)
        if event.type == "step":
            self._plan_step = event.data["plan_step"]

    def news_of(self, job: Job, *, runs_here: bool) -> Event | None:
        """Return an event for what has changed in the record of a job that another server runs."""
        if runs_here or job.state != "running":
            return None
        if self._state not in {"running", "progress", "step"}:
            event = Event(self._last_id + 1, "running", {"restarted": job.restarted})
        elif len(steps_made(job)) > self._plan_step:
            where = {"plan_step": self._plan_step + 1, "plan_steps": len(job.task.get("plan", ()))}
            event = Event(self._last_id + 1, "step", where)
        elif job.step is not None and job.step > self._step:
            event = Event(self._last_id + 1, "progress", {"step": job.step, "steps": job.num_steps})
        else:
            return None
        self.record(event)
        return event

    def is_quiet(self) -> bool:
        """Return whether nothing was sent for long, so that a comment keeps the connection."""
        self._idle_s += 1.0
        if self._idle_s < _KEEPALIVE_S:
            return False
        self._idle_s = 0.0
        return True


async def _send(service: Service, job: Job, event: Event, base_url: str) -> bytes:
    """Return an event as it is sent."""
    number = event.id
    data = {
        "job_id": job.id,
        "state": "running" if event.type in {"progress", "step"} else event.type,
        **event.data,
    }
    if event.preview is not None:
        file = base64.b64encode(event.preview.file).decode("ascii")
        data |= {"preview": f"data:image/webp;base64,{file}", "preview_kind": event.preview.kind}
    if event.is_last:
        found = await service.call(service.store.get, job.id)
        if found is not None:
            data["job"] = await service.call(service.public, found, base_url)
            # The last number is the same whether the event is told as it happens or made up later.
            number = _synthetic_event(found).id
    return sse(event.type, data, number)
