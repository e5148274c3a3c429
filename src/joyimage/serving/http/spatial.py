"""`/v1/spatial` and `/v1/describe`: edits with geometry, and questions."""

# Annotations are real types here: FastAPI reads them.

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from joyimage.imaging import to_rgb
from joyimage.serving.http.auth import RequestContext, find_context
from joyimage.serving.http.bodies import ParseBody, check
from joyimage.serving.http.job_record import warnings_of
from joyimage.serving.http.openai import make
from joyimage.serving.http.openapi import describe_route
from joyimage.serving.http.parsing import parse_request
from joyimage.serving.jobs.task import Task
from joyimage.serving.security.uploads import open_image, read_upload
from joyimage.spatial import CameraMove, ObjectMove, ObjectRotation, parse
from joyimage.understanding import intent

router = APIRouter(tags=["spatial"])
Known = Annotated[RequestContext, Depends(find_context)]
_KINDS = {ObjectMove: "move", ObjectRotation: "rotate", CameraMove: "camera"}


@router.post("/v1/spatial/move", **describe_route("move"))
async def move(request: Request, context: Known) -> Response:
    """Move an object into a box."""
    return await make(request, context, "move")


@router.post("/v1/spatial/rotate", **describe_route("rotate"))
async def rotate(request: Request, context: Known) -> Response:
    """Rotate an object to one of eight views."""
    return await make(request, context, "rotate")


@router.post("/v1/spatial/camera", **describe_route("camera"))
async def camera(request: Request, context: Known) -> Response:
    """Move the camera around the object in focus."""
    return await make(request, context, "camera")


@router.post("/v1/spatial/parse", **describe_route("parse"))
async def parse_prompt(request: Request, context: Known) -> dict[str, Any]:
    """Recognize a prompt of a spatial edit, and report what is wrong with one that nearly is."""
    service = context.service
    with service.body_room(request, context.client):
        return await _parse(request, context)


async def _parse(request: Request, context: RequestContext) -> dict[str, Any]:
    service = context.service
    settings = service.settings
    parsed = await parse_request(request, settings, service.budgets, context.client)
    body = check(ParseBody, parsed.fields)

    def read() -> dict[str, Any]:
        image = None
        if parsed.images:
            upload = read_upload(parsed.images[0], settings, service.pixels, context.client)
            with service.pixels.reserve(upload.size[0] * upload.size[1], context.client):
                image = to_rgb(open_image(upload.data, settings))
        text = body.prompt[: settings.max_prompt_chars]
        try:
            edit = parse(text, image)
        except ValueError as error:
            return {"edit": None, "problem": str(error), "intent": _intent(text)}
        if edit is None:
            return {"edit": None, "problem": None, "intent": _intent(text)}
        fields = {name: getattr(value, "value", value) for name, value in asdict(edit).items()}
        return {"edit": {"kind": _KINDS[type(edit)], **fields}, "problem": None, "intent": None}

    return await service.budgets.decoding.run(context.client, read)


def _intent(text: str) -> dict[str, Any] | None:
    """Return the spatial edit that free words ask for, and what to show of it."""
    found = intent.parse(text)
    return None if found is None else {**found.to_dict(), "shown": intent.show(found)}


@router.post("/v1/describe", **describe_route("describe"))
async def describe(request: Request, context: Known) -> dict[str, Any]:
    """Answer a question about images."""
    job, _, _ = await context.service.admit(request, context.client, "describe", is_awaited=True)
    job = await context.service.result(request, job)
    result = job.result or {}
    answer = {"object": "description", "text": result["text"], "job_id": job.id}
    if warnings := warnings_of(Task.from_dict(job.task), result):
        answer["warnings"] = warnings
    return answer
