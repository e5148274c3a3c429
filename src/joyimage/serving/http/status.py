"""`/v1/models`, `/healthz`, `/livez`, `/readyz`, `/metrics`: what is served, and whether it works."""

# Annotations are real types here: FastAPI reads them.

from dataclasses import asdict
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from joyimage import __version__
from joyimage.pipeline.buckets import bucket_sizes
from joyimage.serving.http.admission import check_model
from joyimage.serving.http.auth import RequestContext, find_context
from joyimage.serving.http.errors import ApiError
from joyimage.serving.http.openapi import ERRORS
from joyimage.serving.http.plans import MOST_STEPS
from joyimage.serving.http.service import Service

router = APIRouter(tags=["status"])
_PATIENCE_S = 5.0  # of who asks for readiness
# What a client can reject itself, before it sends megabytes.
_LIMITS = (
    "max_image_bytes",
    "max_image_pixels",
    "max_output_pixels",
    "max_images",
    "max_outputs",
    "max_new_tokens",
    "max_steps",
    "max_prompt_chars",
)
Known = Annotated[RequestContext, Depends(find_context)]


@router.get("/v1/models", responses=ERRORS)
def models(context: Known) -> dict[str, Any]:
    """List the model that is served, under all its names."""
    settings = context.service.settings
    names = (settings.served_name, *settings.model_aliases)
    return {"object": "list", "data": [_model(context.service, name) for name in names]}


@router.get("/v1/models/{name}", responses=ERRORS)
def model(name: str, context: Known) -> dict[str, Any]:
    """Return one model."""
    check_model(name, context.service.settings)
    return _model(context.service, name)


@router.get("/healthz")
async def health(request: Request) -> dict[str, Any]:
    """Report that the process is alive, and what a page has to know before it may ask for more."""
    dispatcher = request.app.state.service.dispatcher
    problem = dispatcher.problem
    keys = request.app.state.keys
    return {
        "status": "alive",
        "is_ready": dispatcher.info is not None and problem is None and not dispatcher.is_stopping,
        "problem": _shown(problem, has_keys=bool(keys)),
        "needs_key": bool(keys),
    }


@router.get("/livez", responses={503: ERRORS[503]})
async def live(request: Request) -> dict[str, Any]:
    """Report whether the process works; where it does not, only a restart helps.

    Raises:
        ApiError: It does not.
    """
    problem = request.app.state.service.dispatcher.fatal_problem
    if problem is not None:
        shown = _shown(problem, has_keys=bool(request.app.state.keys)) or ""
        raise ApiError(503, shown, code="not_working")
    return {"status": "alive"}


@router.get("/readyz", responses={503: ERRORS[503]})
async def ready(request: Request) -> Response:
    """Report whether jobs can be run.

    Raises:
        ApiError: They cannot.
    """
    service: Service = request.app.state.service
    problem = service.dispatcher.problem
    if problem is not None:
        shown = _shown(problem, has_keys=bool(request.app.state.keys)) or ""
        raise ApiError(503, shown, code="model_not_ready", retry_after_s=5)
    info = service.info
    has_keys = bool(request.app.state.keys)
    with anyio.move_on_after(_PATIENCE_S):
        await service.budgets.status.run("", service.store.check)
        queued = (await service.budgets.status.run("", service.store.counts))["queued"]
        answer: dict[str, Any] = {"status": "ready"}
        if not has_keys:  # with keys, strangers are told no more than a probe needs
            answer |= {
                "model": service.settings.served_name,
                "device": info.device,
                "dtype": info.dtype,
                "replicas": service.dispatcher.idle + service.dispatcher.busy,
                "queued": queued,
            }
        return JSONResponse(answer)
    raise ApiError(503, "The database does not answer in time.", code="database", retry_after_s=10)


@router.get("/metrics", responses={**ERRORS, 200: {"content": {"text/plain": {}}}}, response_class=Response)
async def metrics(context: Known) -> Response:
    """Return Prometheus' page."""
    service = context.service

    def read() -> tuple[dict[str, int], float]:
        return service.store.counts(), service.store.oldest_wait_s()

    jobs, oldest_s = await service.budgets.status.run("", read)
    dispatcher = service.dispatcher
    page = service.metrics.page(jobs, idle=dispatcher.idle, busy=dispatcher.busy, oldest_wait_s=oldest_s)
    return Response(page, media_type="text/plain; version=0.0.4")


def _shown(problem: str | None, *, has_keys: bool) -> str | None:
    """Return what is said of a problem to anybody; paths in it are for the log, where strangers may ask."""
    if problem is None or not has_keys:
        return problem
    return "The server cannot run jobs; see its log."


def _model(service: Service, name: str) -> dict[str, Any]:
    """Return a model as OpenAI's clients know it, and its defaults, sizes and limits."""
    settings = service.settings
    limits = {name: getattr(settings, name) for name in _LIMITS} | {"max_plan_steps": MOST_STEPS}
    answer: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": service.started_at,
        "owned_by": "joyimage",
    }
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
        "speeds": list(info.speeds),
        "lora_sha256": dict(info.lora_sha256),
        "lora_defaults": {name: asdict(one) for name, one in info.lora_defaults.items()},
        "acceleration": dict(info.acceleration),
        "sizes": [str(size) for size in bucket_sizes(info.base_size)],
    }
