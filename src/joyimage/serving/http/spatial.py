"""`/v1/spatial` and `/v1/describe`: edits with geometry, and questions."""

# Annotations are real types here: FastAPI reads them.

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from joyimage.serving.http.auth import Access, find_access
from joyimage.serving.http.openai import make
from joyimage.serving.http.openapi import describe_route
from joyimage.serving.http.parsing import check, receive
from joyimage.serving.http.schemas import ParseBody
from joyimage.serving.security.uploads import check_upload, open_picture
from joyimage.spatial import CameraMove, ObjectMove, ObjectRotation, parse

router = APIRouter(tags=["spatial"])
Known = Annotated[Access, Depends(find_access)]
_KINDS = {ObjectMove: "move", ObjectRotation: "rotate", CameraMove: "camera"}


@router.post("/v1/spatial/move", **describe_route("move"))
async def move(request: Request, access: Known) -> Response:
    """Move an object into a box."""
    return await make(request, access, "move")


@router.post("/v1/spatial/rotate", **describe_route("rotate"))
async def rotate(request: Request, access: Known) -> Response:
    """Turn an object to one of eight views."""
    return await make(request, access, "rotate")


@router.post("/v1/spatial/camera", **describe_route("camera"))
async def camera(request: Request, access: Known) -> Response:
    """Move the camera around the object in focus."""
    return await make(request, access, "camera")


@router.post("/v1/spatial/parse", **describe_route("parse"))
async def parse_prompt(request: Request, access: Known) -> dict[str, Any]:
    """Recognise a prompt that words a spatial edit, and say what is wrong with one that nearly does."""
    settings = access.service.settings
    received = await receive(request, settings)
    body = check(ParseBody, received.fields)

    def read() -> dict[str, Any]:
        picture = None
        if received.pictures:
            upload = check_upload(received.pictures[0], settings)
            picture = open_picture(upload.data, settings).convert("RGB")
        try:
            edit = parse(body.prompt[: settings.max_prompt_chars], picture)
        except ValueError as error:
            return {"edit": None, "problem": str(error)}
        if edit is None:
            return {"edit": None, "problem": None}
        fields = {name: getattr(value, "value", value) for name, value in asdict(edit).items()}
        return {"edit": {"kind": _KINDS[type(edit)], **fields}, "problem": None}

    return await run_in_threadpool(read)


@router.post("/v1/describe", **describe_route("describe"))
async def describe(request: Request, access: Known) -> dict[str, Any]:
    """Answer a question about pictures."""
    job, _, _ = await access.service.admit(request, access.client, "describe", is_awaited=True)
    job = await access.service.result(request, job)
    return {"object": "description", "text": (job.result or {})["text"], "job_id": job.id}
