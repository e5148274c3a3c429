"""The application: routes, and what holds them together."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from joyimage.errors import JoyImageError
from joyimage.serving.http import convert, edits, jobs, openai, spatial, status
from joyimage.serving.http.errors import ApiError, describe_invalid, to_response
from joyimage.serving.http.openapi import add_document, new_document_fields
from joyimage.serving.http.page import add_page
from joyimage.serving.http.service import Service
from joyimage.serving.metrics import Metrics
from joyimage.serving.security.keys import ApiKeys
from joyimage.serving.security.middleware import SecurityMiddleware
from joyimage.serving.workers.loading import load_runner
from joyimage.web import page_folder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from joyimage.serving.settings import ServerSettings
    from joyimage.serving.workers.protocol import Runner

logger = logging.getLogger(__name__)


def create_app(
    settings: ServerSettings,
    load: Callable[[int], Runner] | None = None,
    *,
    on_fatal: Callable[[str], None] = lambda _: None,
) -> FastAPI:
    """Create the application.

    Nothing is opened or loaded before the application starts; then the model is loaded beside it, and
    `/readyz` reports when it is there.

    Args:
        settings: Settings of the server.
        load: Makes the pipeline of a number; the settings' checkpoint if None.
        on_fatal: Called where only a restart of the process helps, with the reason.

    Returns:
        An ASGI application.

    Raises:
        InvalidInputError: The API keys cannot be read, or there are none although some were given.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            service = Service(settings, metrics, load or partial(load_runner, settings), on_fatal)
        except Exception as error:
            app.state.startup_error = error  # whoever runs the application reports it
            raise
        app.state.service = service
        try:
            yield
        finally:
            service.close()

    app = FastAPI(
        **new_document_fields(),
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.keys = ApiKeys(settings)
    for router in (openai.router, convert.router, jobs.router, edits.router, spatial.router, status.router):
        app.include_router(router)
    add_page(app, settings.web_dir or page_folder())
    add_document(app)
    _add_error_handlers(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"],
            expose_headers=["Retry-After", "X-Job-Id", "X-Job-Is-New", "X-Request-Id", "Location"],
        )
    app.add_middleware(SecurityMiddleware, settings=settings, metrics=metrics, respond=to_response)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    """Answer every error in OpenAI's shape."""

    async def known(_: Request, error: Any) -> Response:
        return to_response(error)

    async def invalid(_: Request, error: Any) -> Response:
        first = error.errors()[0]
        param = str(first["loc"][-1])
        if first["loc"][0] == "path":
            return to_response(ApiError(404, "Not found.", code="not_found", param=param))
        return to_response(ApiError(400, describe_invalid(first, param), code="invalid_value", param=param))

    async def http(_: Request, error: Any) -> Response:
        messages = {404: "Not found.", 405: "This address does not accept that method."}
        response = to_response(
            ApiError(error.status_code, messages.get(error.status_code, str(error.detail)))
        )
        response.headers.update(error.headers or {})  # such as the methods that are accepted
        return response

    async def database(_: Request, error: Any) -> Response:
        logger.error("The database failed.", exc_info=error)
        return to_response(error)

    async def gone(_: Request, __: Any) -> Response:
        return to_response(ApiError(499, "The client went away.", code="client_gone"))

    async def bug(_: Request, error: Any) -> Response:
        logger.error("A route failed.", exc_info=error)
        return to_response(error)

    app.add_exception_handler(JoyImageError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(SQLAlchemyError, database)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Exception, bug)
