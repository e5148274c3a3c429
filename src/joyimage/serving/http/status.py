"""`/v1/models`, `/healthz`, `/readyz`, `/metrics`: what is served, and how it is."""

# Annotations are real types here: FastAPI reads them.

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from joyimage import __version__
from joyimage.pipeline.buckets import bucket_sizes
from joyimage.serving.http.auth import Access, find_access
from joyimage.serving.http.errors import ApiError
from joyimage.serving.http.openapi import ERRORS
from joyimage.serving.http.service import Service
from joyimage.serving.http.tasks import check_model

router = APIRouter(tags=["status"])
# What a client can refuse itself, before it sends megabytes.
_LIMITS = (
    "max_image_bytes",
    "max_image_pixels",
    "max_output_pixels",
    "max_images",
    "max_outputs",
    "max_steps",
    "max_prompt_chars",
)
Known = Annotated[Access, Depends(find_access)]


@router.get("/v1/models", responses=ERRORS)
def models(access: Known) -> dict[str, Any]:
    """List the model that is served, under all its names."""
    settings = access.service.settings
    names = (settings.served_name, *settings.model_aliases)
    return {"object": "list", "data": [_model(access.service, name) for name in names]}


@router.get("/v1/models/{name}", responses=ERRORS)
def model(name: str, access: Known) -> dict[str, Any]:
    """Return one model."""
    check_model(name, access.service.settings)
    return _model(access.service, name)


@router.get("/healthz")
async def health(request: Request) -> dict[str, Any]:
    """Say that the process lives, and what a page has to know before it may ask for more."""
    engine = request.app.state.service.engine
    return {
        "status": "alive",
        "is_ready": engine.info is not None,
        "problem": engine.problem if engine.info is None else None,
        "needs_key": bool(request.app.state.keys),
    }


@router.get("/readyz", responses={503: ERRORS[503]})
def ready(request: Request) -> Response:
    """Say whether jobs can be run."""
    service: Service = request.app.state.service
    info = service.info
    engine = service.engine
    answer = {
        "status": "ready",
        "model": service.settings.served_name,
        "device": info.device,
        "dtype": info.dtype,
    }
    return JSONResponse(
        answer | {"replicas": engine.idle + engine.busy, "queued": service.store.counts()["queued"]}
    )


@router.get("/metrics", responses={**ERRORS, 200: {"content": {"text/plain": {}}}}, response_class=Response)
async def metrics(access: Known) -> Response:
    """Return Prometheus' page."""
    service = access.service
    jobs = await run_in_threadpool(service.store.counts)
    page = service.metrics.page(jobs, idle=service.engine.idle, busy=service.engine.busy)
    return Response(page, media_type="text/plain; version=0.0.4")


def _model(service: Service, name: str) -> dict[str, Any]:
    """Return a model as OpenAI's clients know it, and what else there is to know."""
    settings = service.settings
    limits = {name: getattr(settings, name) for name in _LIMITS}
    answer: dict[str, Any] = {"id": name, "object": "model", "created": 0, "owned_by": "joyimage"}
    answer |= {"version": __version__, "limits": limits}
    try:
        info = service.info
    except ApiError:
        return answer
    return answer | {
        "device": info.device,
        "dtype": info.dtype,
        "base_size": info.base_size,
        "default_steps": info.steps,
        "default_guidance": info.guidance,
        "takes_several_images": info.takes_several,
        "loras": list(info.loras),
        "sizes": [f"{width}x{height}" for height, width in bucket_sizes(info.base_size)],
    }
