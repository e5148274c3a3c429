"""The application: routes, and what holds them together."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from joyimage.serving.http import edits, jobs, openai, spatial, status
from joyimage.serving.http.errors import ApiError
from joyimage.serving.http.openapi import add_document, new_document_fields
from joyimage.serving.http.page import add_page
from joyimage.serving.http.service import Service
from joyimage.serving.metrics import Metrics
from joyimage.serving.security.middleware import ApiKeys, Guard
from joyimage.serving.workers.loading import load_runner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from joyimage.serving.settings import ServerSettings
    from joyimage.serving.workers.protocol import Runner

logger = logging.getLogger(__name__)

_PAGE = Path(__file__).parents[1] / "web" / "static"


def create_app(settings: ServerSettings, load: Callable[[int], Runner] | None = None) -> FastAPI:
    """Make the application.

    Nothing is opened or loaded before the application starts; then the model is loaded beside it, and
    `/readyz` says when it is there.

    Args:
        settings: Of the server.
        load: Makes the pipeline of a number; the settings' checkpoint if None.

    Returns:
        An ASGI application.

    Raises:
        ValueError: The API keys can't be read.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = Service(settings, metrics, load or partial(load_runner, settings))
        try:
            yield
        finally:
            app.state.service.close()

    app = FastAPI(
        **new_document_fields(),
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.keys = ApiKeys(settings)
    for router in (openai.router, jobs.router, edits.router, spatial.router, status.router):
        app.include_router(router)
    add_page(app, settings.web_dir or _PAGE)
    add_document(app)
    _add_error_handlers(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"],
            expose_headers=["Retry-After", "X-Job-Id", "X-Job-Is-New", "Location"],
        )
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    """Answer every error in OpenAI's shape."""

    async def api_error(_: Request, error: Any) -> Response:
        # OpenAI's clients send a request again after any 5xx; a job that failed would only fail again.
        is_final = error.status >= 500 and error.retry_after_s is None
        headers = {**error.headers, **({"x-should-retry": "false"} if is_final else {})}
        return JSONResponse(error.body, error.status, headers)

    async def invalid(request: Request, error: Any) -> Response:
        first = error.errors()[0]
        param = str(first["loc"][-1])
        status_code = 404 if first["loc"][0] == "path" else 400
        sentence = (
            "There is no such thing." if status_code == 404 else f"`{param}` can't be taken: {first['msg']}."
        )
        return await api_error(request, ApiError(status_code, sentence, code="invalid_value", param=param))

    async def http(request: Request, error: Any) -> Response:
        sentence = {404: "There is no such address.", 405: "This address doesn't take that method."}
        return await api_error(
            request, ApiError(error.status_code, sentence.get(error.status_code, str(error.detail)))
        )

    async def database(request: Request, error: Any) -> Response:
        logger.error("The database failed.", exc_info=error)
        failure = ApiError(
            503, "The records can't be reached or written at the moment.", code="database", retry_after_s=10
        )
        return await api_error(request, failure)

    async def gone(request: Request, _: Any) -> Response:
        return await api_error(request, ApiError(499, "The client went away.", code="client_gone"))

    async def mistake(request: Request, error: Any) -> Response:
        logger.error("A route failed.", exc_info=error)
        return await api_error(request, ApiError(500, "The server made a mistake; its log says which."))

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(SQLAlchemyError, database)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Exception, mistake)
