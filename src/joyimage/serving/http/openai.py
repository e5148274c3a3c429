"""`/v1/images/edits` and `/v1/images/generations`, as OpenAI defines them."""

# Annotations are real types here: FastAPI reads them.

import base64
import io
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Depends
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from joyimage.serving.http.auth import Access, find_access
from joyimage.serving.http.errors import ApiError
from joyimage.serving.http.openapi import describe_route
from joyimage.serving.http.service import Service, raise_for
from joyimage.serving.jobs.events import Event, sse
from joyimage.serving.jobs.records import Job
from joyimage.serving.workers.preparation import encode

router = APIRouter(tags=["images"])
_EVENTS = {"edit": "image_edit", "generate": "image_generation"}
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@router.post("/v1/images/edits", **describe_route("edit"))
async def edit(request: Request, access: Access = Depends(find_access)) -> Response:  # noqa: B008 - FastAPI's way
    """Edit pictures as the prompt says."""
    return await make(request, access, "edit")


@router.post("/v1/images/generations", **describe_route("generate"))
async def generate(request: Request, access: Access = Depends(find_access)) -> Response:  # noqa: B008
    """Make pictures from text alone."""
    return await make(request, access, "generate")


async def make(request: Request, access: Access, kind: str) -> Response:
    """Run one request and answer with its pictures.

    Args:
        request: Not yet read.
        access: Of its client.
        kind: Of the job.

    Returns:
        OpenAI's images object, or a stream of events.
    """
    service = access.service
    job, body, _ = await service.admit(request, access.client, kind, is_awaited=True)
    if body.stream:
        events = _stream(service, job, body)
        return StreamingResponse(events, media_type="text/event-stream", headers=STREAM_HEADERS)
    job = await service.result(request, job)
    answer = await run_in_threadpool(_images_object, service, job, body, str(request.base_url))
    return JSONResponse(answer, headers={"X-Job-Id": job.id})


def _images_object(service: Service, job: Job, body: Any, base_url: str) -> dict[str, Any]:
    """Return OpenAI's images object, and beside its fields what it has no field for."""
    result = job.result or {}
    data = _answer_with(service, job, "images", body, base_url)
    if getattr(body, "masks", False):
        masks = _answer_with(service, job, "masks", body, base_url)
        for picture, mask in zip(data, masks, strict=True):
            picture |= {f"mask_{name}": value for name, value in mask.items()}
    answer = {
        "created": int(job.finished_at or 0),
        "background": "opaque",
        "output_format": job.task["output_format"],
        "quality": body.quality if body.quality in {"low", "medium", "high"} else "high",
        "size": f"{result['width']}x{result['height']}",
        "data": data,
        "usage": _usage(job),
        "job_id": job.id,
        "seed": job.task["seed"],
        "steps": job.task["steps"],
        "guidance": job.task["guidance"],
    }
    return answer | {
        name: result[name] for name in ("prompt", "checks", "memory", "reused") if name in result
    }


def _answer_with(service: Service, job: Job, which: str, body: Any, base_url: str) -> list[dict[str, str]]:
    """Return a job's images or masks as the body wishes: as base64, or as addresses."""
    if body.response_format == "url":
        count = (job.result or {})[f"num_{which}"]
        return [{"url": service.result_url(job, which, n, base_url)} for n in range(count)]
    return [{"b64_json": base64.b64encode(file).decode("ascii")} for file in service.results(job, which)]


def _usage(job: Job) -> dict[str, Any]:
    """Return the tokens of a job, which here are the model's own: words, and patches of latents."""
    counted = (job.result or {}).get("usage", {"text_tokens": 0, "image_tokens": 0, "output_tokens": 0})
    given = counted["text_tokens"] + counted["image_tokens"]
    return {
        "input_tokens": given,
        "input_tokens_details": {
            "text_tokens": counted["text_tokens"],
            "image_tokens": counted["image_tokens"],
        },
        "output_tokens": counted["output_tokens"],
        "total_tokens": given + counted["output_tokens"],
    }


async def _stream(service: Service, job: Job, body: Any) -> AsyncIterator[bytes]:
    """Give the events of OpenAI's stream: partial pictures as wished, then each picture whole."""
    name = _EVENTS.get(job.kind, "image_edit")
    task = job.task
    described = {
        "background": "opaque",
        "output_format": task["output_format"],
        "quality": body.quality if body.quality in {"low", "medium", "high"} else "auto",
    }
    wished = body.partial_images or 0
    sent = 0
    is_over = False
    try:
        async for event in service.events.follow(job.id):
            if event is None:
                found = await run_in_threadpool(service.store.get, job.id)
                if found is None or found.is_finished:
                    break
                yield b": waiting\n\n"
            elif event.preview is not None and _is_due(event, sent, wished):
                picture, size = await run_in_threadpool(_enlarge, event.preview.file, task)
                partial = {"type": f"{name}.partial_image", "partial_image_index": sent, "size": size}
                partial |= {"b64_json": picture, "created_at": int(time.time()), **described}
                yield sse(partial["type"], partial)
                sent += 1
            elif event.is_last:
                break
        is_over = True
        ended = await run_in_threadpool(service.store.get, job.id)
        images, masks = await run_in_threadpool(_finished, service, ended)
        for number, image in enumerate(images):
            result = (ended and ended.result) or {}
            whole = {
                "type": f"{name}.completed",
                "b64_json": base64.b64encode(image).decode("ascii"),
                "created_at": int(time.time()),
                "size": f"{result['width']}x{result['height']}",
                "usage": _usage(ended or job),
                "job_id": job.id,
                "seed": task["seed"] + number,
                **described,
            }
            if getattr(body, "masks", False):
                whole["mask_b64_json"] = base64.b64encode(masks[number]).decode("ascii")
            yield sse(whole["type"], whole)
    except ApiError as error:
        yield sse("error", {"type": "error", **error.body})
    finally:
        if not is_over:  # the client went away
            service.abandon(job)


def _finished(service: Service, job: Job | None) -> tuple[list[bytes], list[bytes]]:
    """Return the pictures and masks of a job that succeeded.

    Raises:
        ApiError: It didn't, or its record has gone.
    """
    if job is None:
        raise ApiError(404, "The job's record has expired.", code="not_found")
    return service.results(raise_for(job)), service.results(job, "masks")


def _is_due(event: Event, sent: int, wished: int) -> bool:
    """Tell whether a step is the one at which the next partial picture is sent; they come evenly spread."""
    return sent < wished and event.data["step"] * (wished + 1) >= (sent + 1) * event.data["steps"]


def _enlarge(preview: bytes, task: dict[str, Any]) -> tuple[str, str]:
    """Bring a preview to the size and format of the picture that it precedes."""
    picture = Image.open(io.BytesIO(preview))
    if task["canvas"] is not None:
        picture = picture.resize(tuple(task["canvas"]), Image.Resampling.BICUBIC)
    file = encode(picture.convert("RGB"), task["output_format"], min(task["output_compression"], 80))
    return base64.b64encode(file).decode("ascii"), f"{picture.width}x{picture.height}"
