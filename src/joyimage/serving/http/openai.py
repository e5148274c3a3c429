"""`/v1/images/edits` and `/v1/images/generations`, as OpenAI defines them."""

# Annotations are real types here: FastAPI reads them.

import base64
import io
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from joyimage.edits import Describe, Sampling
from joyimage.serving.http.admission import check_model
from joyimage.serving.http.auth import RequestContext, find_context
from joyimage.serving.http.errors import ApiError, to_api_error
from joyimage.serving.http.job_record import warnings_of
from joyimage.serving.http.openapi import describe_route
from joyimage.serving.http.service import Service, raise_for
from joyimage.serving.jobs.events import Event, sse
from joyimage.serving.jobs.records import Job
from joyimage.serving.jobs.task import Task
from joyimage.serving.workers.preparation import encode

router = APIRouter(tags=["images"])
_EVENTS = {"edit": "image_edit", "generate": "image_generation"}
# Azure's clients send the date of the interface that they were written for.
ApiVersion = Annotated[str, Query(alias="api-version", max_length=40)]
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@router.post("/v1/images/edits", **describe_route("edit"))
async def edit(request: Request, context: RequestContext = Depends(find_context)) -> Response:  # noqa: B008 - FastAPI's way
    """Edit images as the prompt says."""
    return await make(request, context, "edit")


@router.post("/v1/images/generations", **describe_route("generate"))
async def generate(request: Request, context: RequestContext = Depends(find_context)) -> Response:  # noqa: B008
    """Make images from text alone."""
    return await make(request, context, "generate")


@router.post("/openai/deployments/{name}/images/edits", include_in_schema=False)
async def edit_as_azure(
    name: str,
    request: Request,
    _: ApiVersion = "",
    context: RequestContext = Depends(find_context),  # noqa: B008
) -> Response:
    """Edit images, at the address that Azure's clients use."""
    check_model(name, context.service.settings)
    return await make(request, context, "edit")


@router.post("/openai/deployments/{name}/images/generations", include_in_schema=False)
async def generate_as_azure(
    name: str,
    request: Request,
    _: ApiVersion = "",
    context: RequestContext = Depends(find_context),  # noqa: B008
) -> Response:
    """Make images, at the address that Azure's clients use."""
    check_model(name, context.service.settings)
    return await make(request, context, "generate")


async def make(request: Request, context: RequestContext, kind: str) -> Response:
    """Run one request and answer with its images.

    Args:
        request: The request, not yet read.
        context: The client.
        kind: Kind of the job.

    Returns:
        OpenAI's images object, or a stream of events.
    """
    service = context.service
    job, body, _ = await service.admit(request, context.client, kind, is_awaited=True)
    if body.options.stream:
        events = _stream(service, job, body)
        return StreamingResponse(events, media_type="text/event-stream", headers=STREAM_HEADERS)
    job = await service.result(request, job)
    answer = await service.call(_images_object, service, job, body, str(request.base_url))
    return JSONResponse(answer, headers={"X-Job-Id": job.id})


def _images_object(service: Service, job: Job, body: Any, base_url: str) -> dict[str, Any]:
    """Return OpenAI's images object, with further fields for what it has none."""
    result = job.result or {}
    task = Task.from_dict(job.task)
    sampling = _sampling(task)
    data = _answer_with(service, job, "images", body, base_url)
    if getattr(body.options, "masks", False):
        masks = _answer_with(service, job, "masks", body, base_url)
        for image, mask in zip(data, masks, strict=True):
            image |= {f"mask_{name}": value for name, value in mask.items()}
    answer = {
        "created": int(job.finished_at or 0),
        "background": "opaque",
        "output_format": task.output_format,
        "quality": body.options.quality if body.options.quality in {"low", "medium", "high"} else "high",
        "size": f"{result['width']}x{result['height']}",
        "data": data,
        "usage": _usage(job),
        "job_id": job.id,
        "seed": result.get("seed", sampling.seed),
        "steps": sampling.num_inference_steps,
        "guidance": sampling.guidance_scale,
    }
    if warnings := warnings_of(task, result):
        answer["warnings"] = warnings
    return answer | {
        name: result[name]
        for name in ("prompt", "checks", "verdicts", "candidates", "memory", "reused")
        if name in result
    }


def _answer_with(service: Service, job: Job, which: str, body: Any, base_url: str) -> list[dict[str, str]]:
    """Return a job's images or masks in the form that was asked for: base64 or addresses."""
    if body.options.response_format == "url":
        return [{"url": service.result_url(job, which, n, base_url)} for n in range(job.count(which))]
    return [{"b64_json": base64.b64encode(file).decode("ascii")} for file in service.results(job, which)]


def _usage(job: Job) -> dict[str, Any]:
    """Return the tokens of a job as the model has them: of the prompt, and patches of latents."""
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
    """Yield the events of OpenAI's stream: partial images as requested, then each image whole."""
    name = _EVENTS.get(job.kind, "image_edit")
    task = Task.from_dict(job.task)
    described = {
        "background": "opaque",
        "output_format": task.output_format,
        "quality": body.options.quality if body.options.quality in {"low", "medium", "high"} else "auto",
    }
    requested = body.options.partial_images or 0
    sent = 0
    is_over = False
    try:
        async for event in service.events.follow(job.id):
            if event is None:
                found = await service.call(service.store.get, job.id)
                if found is None or found.is_finished or service.is_left_behind(job.id):
                    break
                yield b": waiting\n\n"
            elif event.preview is not None and _is_due(event, sent, requested):
                file, size = await service.call(_enlarge, event.preview.file, task)
                partial = {"type": f"{name}.partial_image", "partial_image_index": sent, "size": size}
                partial |= {"b64_json": file, "created_at": int(time.time()), **described}
                yield sse(partial["type"], partial)
                sent += 1
            elif event.is_last:
                break
        is_over = True
        ended = await service.call(service.store.get, job.id)
        images, masks = await service.call(_finished, service, ended)
        for number, image in enumerate(images):
            result = (ended and ended.result) or {}
            whole = {
                "type": f"{name}.completed",
                "b64_json": base64.b64encode(image).decode("ascii"),
                "created_at": int(time.time()),
                "size": f"{result['width']}x{result['height']}",
                "usage": _usage(ended or job),
                "job_id": job.id,
                "seed": (_sampling(task).seed or 0) + number,
                **described,
            }
            if getattr(body.options, "masks", False):
                whole["mask_b64_json"] = base64.b64encode(masks[number]).decode("ascii")
            yield sse(whole["type"], whole)
    except Exception as error:  # noqa: BLE001 - the answer has begun, so it is told as an event
        yield sse("error", {"type": "error", **to_api_error(error).body})
    finally:
        if not is_over:  # the client went away
            service.abandon(job)


def _finished(service: Service, job: Job | None) -> tuple[list[bytes], list[bytes]]:
    """Return the images and masks of a job that succeeded.

    Raises:
        ApiError: The job failed, or its record has expired.
    """
    if job is None:
        raise ApiError(404, "The job's record has expired.", code="not_found")
    if not job.is_finished:
        raise ApiError(
            503, "The server stops; send the request again.", code="server_stopped", retry_after_s=5
        )
    return service.results(raise_for(job)), service.results(job, "masks")


def _is_due(event: Event, sent: int, requested: int) -> bool:
    """Return whether the next partial image is sent at this step; they come evenly spread."""
    return sent < requested and event.data["step"] * (requested + 1) >= (sent + 1) * event.data["steps"]


def _enlarge(preview: bytes, task: Task) -> tuple[str, str]:
    """Bring a preview to the size and format of the image that it precedes."""
    image = Image.open(io.BytesIO(preview))
    if task.target_size is not None:
        image = image.resize(task.target_size.pil, Image.Resampling.BICUBIC)
    file = encode(image.convert("RGB"), task.output_format, min(task.output_compression, 80))
    return base64.b64encode(file).decode("ascii"), f"{image.width}x{image.height}"


def _sampling(task: Task) -> Sampling:
    assert not isinstance(task.edit, Describe)
    return task.edit.sampling
