"""`/v1/jobs`: queue a job, look at it, follow it, cancel it, fetch what came out."""

# Annotations are real types here: FastAPI reads them.

import base64
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from joyimage.serving.http.auth import Access, find_access
from joyimage.serving.http.errors import ApiError
from joyimage.serving.http.openai import STREAM_HEADERS
from joyimage.serving.http.openapi import ERRORS, describe_route
from joyimage.serving.http.service import MEDIA_TYPES, Service
from joyimage.serving.jobs.events import Event, sse
from joyimage.serving.jobs.files import RESULTS
from joyimage.serving.jobs.records import Job

router = APIRouter(tags=["jobs"])
_LAST = 999_999  # number of a final event that had to be made up after a restart
_KEEPALIVE_S = 10.0
JobId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
Known = Annotated[Access, Depends(find_access)]
Number = Annotated[int, Path(ge=0, le=99)]
Expires = Annotated[str, Query(max_length=20)]
Signature = Annotated[str, Query(max_length=100)]


@router.post("/v1/jobs", status_code=202, **describe_route("job"))
async def create(request: Request, access: Known) -> Response:
    """Queue a job and answer at once with its record."""
    service = access.service
    job, _, is_new = await service.admit(request, access.client, None, is_awaited=False)
    record = await run_in_threadpool(service.public, job, str(request.base_url))
    headers = {"Location": f"/v1/jobs/{job.id}", "X-Job-Is-New": str(is_new).lower()}
    return JSONResponse(record, status_code=202, headers=headers)


@router.get("/v1/jobs", responses=ERRORS)
async def list_jobs(
    request: Request,
    access: Known,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    state: Annotated[str | None, Query(pattern="^(queued|running|succeeded|failed|cancelled)$")] = None,
    after: Annotated[str | None, Query(pattern="^[0-9a-f]{32}$")] = None,
) -> dict[str, Any]:
    """List one's jobs, newest first."""
    service = access.service

    def read() -> dict[str, Any]:
        jobs = service.store.list(access.sees_only, state=state, limit=limit + 1, after=after)
        records = [service.public(job, str(request.base_url)) for job in jobs[:limit]]
        return {"object": "list", "data": records, "has_more": len(jobs) > limit}

    return await run_in_threadpool(read)


@router.get("/v1/jobs/{job_id}", responses=ERRORS)
async def show(request: Request, job_id: JobId, access: Known) -> dict[str, Any]:
    """Return a job's record."""
    job = await _find(access, job_id)
    return await run_in_threadpool(access.service.public, job, str(request.base_url))


@router.delete("/v1/jobs/{job_id}", responses=ERRORS)
async def cancel(request: Request, job_id: JobId, access: Known) -> dict[str, Any]:
    """Cancel a job: at once where it waits, at its next step where it runs; one that has ended stays."""
    job = await _find(access, job_id)
    if not job.is_finished:
        job = await run_in_threadpool(access.service.engine.cancel, job.id) or job
    return await run_in_threadpool(access.service.public, job, str(request.base_url))


@router.get(
    "/v1/jobs/{job_id}/events",
    responses={
        **ERRORS,
        200: {"content": {"text/event-stream": {}}},
        204: {"description": "Nothing more comes."},
    },
    response_class=Response,
)
async def events(request: Request, job_id: JobId, access: Known) -> Response:
    """Follow a job: queued, running, progress with a preview, its end. Resumes after Last-Event-ID."""
    job = await _find(access, job_id)
    last = request.headers.get("last-event-id", "")
    after = int(last) if last.isascii() and last.isdigit() and len(last) < 16 else 0
    if job.is_finished and after and after >= _made_up(job).id:
        return Response(status_code=204)
    stream = _follow(access.service, job, after, str(request.base_url))
    return StreamingResponse(stream, media_type="text/event-stream", headers=STREAM_HEADERS)


@router.get(
    "/v1/jobs/{job_id}/images/{number}",
    responses={**ERRORS, 200: {"content": {kind: {} for kind in MEDIA_TYPES.values()}}},
    response_class=Response,
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
)
async def mask(
    request: Request, job_id: JobId, number: Number, expires: Expires = "", signature: Signature = ""
) -> Response:
    """Return a result's mask: 255 where it is the edit's, 0 where it is the given picture's."""
    return await _open(request, "masks", job_id, number, expires, signature)


async def _open(
    request: Request, which: str, job_id: str, number: int, expires: str, signature: str
) -> Response:
    """Return a file of a job's "images" or "masks".

    Raises:
        ApiError: There is no such result, or no longer.
    """
    service: Service = request.app.state.service
    path = f"/v1/jobs/{job_id}/{which}/{number}"
    if service.signer.opens(path, expires, signature, service.clock()):
        job = await run_in_threadpool(service.store.get, job_id)
    else:
        job = await _find(find_access(request), job_id)
    if job is None or number >= (job.result or {}).get(f"num_{which}", 0):
        raise ApiError(404, "There is no such picture.", code="not_found")
    try:
        # The path is made of the record's own id, not of what came in the request.
        data = await run_in_threadpool(service.files.read, job.id, f"{RESULTS[which]}-{number}")
    except FileNotFoundError:
        raise ApiError(410, "The job's results have gone.", code="gone") from None
    headers = {"Cache-Control": "private, max-age=3600, immutable"}
    kind = job.task["output_format"] if which == "images" else "png"
    return Response(data, media_type=MEDIA_TYPES[kind], headers=headers)


async def _find(access: Access, job_id: str) -> Job:
    """Return a client's job.

    Raises:
        ApiError: There is none.
    """
    job = await run_in_threadpool(access.service.store.get, job_id, access.sees_only)
    if job is None:
        raise ApiError(404, "There is no such job.", code="not_found")
    return job


def _made_up(job: Job) -> Event:
    """Return the last event of a job whose events are no longer known."""
    return Event(job.restarted * (_LAST + 1) + _LAST, job.state, {})


async def _follow(service: Service, job: Job, after: int, base_url: str) -> AsyncIterator[bytes]:
    """Give a job's events up to its end; its last one carries the record."""
    idle_s = 0.0
    async for event in service.events.follow(job.id, after):
        shown = event
        if event is None:
            found = await run_in_threadpool(service.store.get, job.id)
            if found is None:
                return
            if not found.is_finished:
                idle_s += 1.0
                if idle_s >= _KEEPALIVE_S:
                    idle_s = 0.0
                    yield b": waiting\n\n"
                continue
            shown = _made_up(found)
        assert shown is not None
        number = shown.id
        data = {
            "job_id": job.id,
            "state": "running" if shown.type == "progress" else shown.type,
            **shown.data,
        }
        if shown.preview is not None:
            file = base64.b64encode(shown.preview.file).decode("ascii")
            data |= {"preview": f"data:image/webp;base64,{file}", "preview_kind": shown.preview.kind}
        if shown.is_last:
            found = await run_in_threadpool(service.store.get, job.id)
            if found is not None:
                data["job"] = await run_in_threadpool(service.public, found, base_url)
                # The last number is the same whether the event is told as it happens or made up later.
                number = _made_up(found).id
        yield sse(shown.type, data, number)
        if shown.is_last:
            return
