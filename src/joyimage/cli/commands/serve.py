"""`joyimage serve`: an OpenAI-compatible server."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from joyimage.cli.console import EXIT_BUG, notify
from joyimage.cli.options import SizedModelOptions
from joyimage.cli.surface import GROUPS
from joyimage.devices import check_device_name
from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastapi import FastAPI

    from joyimage.serving.http.server import HttpServer
    from joyimage.serving.settings import ServerSettings

_BACKLOG = 2048
_LONGEST_STOP_S = 30.0
_NEEDED = (
    "fastapi",
    "uvicorn",
    "sqlalchemy",
    "alembic",
    "prometheus_client",
    "pydantic_settings",
    "python_multipart",
)


def _group(name: str, number: int) -> Parameter:
    return Parameter(group=Group(name, sort_key=number))


_MODEL = Parameter(group=GROUPS["Model"])
_CLIENTS = _group("Clients", 10)
_NETWORK = _group("Network", 11)
_LIMITS = _group("Limits", 12)
_STORAGE = _group("Records and log", 13)
_WORKERS = _group("Workers", 14)


def serve(
    *,
    options: SizedModelOptions | None = None,
    lora: Annotated[list[str] | None, _MODEL, Parameter(negative=[])] = None,
    model_name: Annotated[str | None, _CLIENTS] = None,
    model_aliases: Annotated[str | None, _CLIENTS] = None,
    api_keys_file: Annotated[Path | None, _CLIENTS] = None,
    allow_anonymous: Annotated[bool | None, _CLIENTS] = None,
    image_urls: Annotated[bool | None, _CLIENTS] = None,
    host: Annotated[str | None, _NETWORK] = None,
    port: Annotated[int | None, _NETWORK] = None,
    public_url: Annotated[str | None, _NETWORK] = None,
    allowed_hosts: Annotated[str | None, _NETWORK] = None,
    cors_origins: Annotated[str | None, _NETWORK] = None,
    trusted_proxies: Annotated[str | None, _NETWORK] = None,
    queue_size: Annotated[int | None, _LIMITS] = None,
    client_jobs: Annotated[int | None, _LIMITS] = None,
    max_batch: Annotated[int | None, _LIMITS] = None,
    max_steps: Annotated[int | None, _LIMITS] = None,
    keep_s: Annotated[float | None, _LIMITS] = None,
    data_dir: Annotated[Path | None, _STORAGE] = None,
    database: Annotated[str | None, _STORAGE] = None,
    log_json: Annotated[bool | None, _STORAGE] = None,
    verbose: Annotated[bool, _STORAGE] = False,
    replicas: Annotated[int | None, _WORKERS] = None,
    ray: Annotated[bool, _WORKERS] = False,
    ray_address: Annotated[str | None, _WORKERS] = None,
) -> None:
    """Serve a checkpoint to OpenAI's clients and to other commands' --server.

    An option that is not given is read from JOYIMAGE_NAME in the environment; docs/serving.md lists all settings.

    Args:
        options: Which model is loaded, and how.
        lora: NAME=PATH of an adapter that clients may request by name; may be given several times.
        model_name: Name of the model for clients. Default: the last part of `--model`.
        model_aliases: More names of the model, separated by commas, for example gpt-image-1,dall-e-3.
        api_keys_file: File with one API key, or NAME:KEY, per line; read again when it changes.
        allow_anonymous: Listen on addresses other than loopback without API keys.
        image_urls: Fetch images from public URLs in requests.
        host: Address to listen on. Default: 127.0.0.1, which only this machine can reach.
        port: Port to listen on; 0 picks a free one. Default: 8600.
        public_url: URL under which clients reach the server, for the URLs of results.
        allowed_hosts: Host names that requests may have, separated by commas. Default: those of loopback on
            loopback, else any.
        cors_origins: Origins of web pages that may call the server, separated by commas.
        trusted_proxies: Addresses or networks of proxies whose X-Forwarded-For is trusted, separated by commas.
        queue_size: Maximum number of queued jobs. Default: 128.
        client_jobs: Maximum number of queued or running jobs per client. Default: 64.
        max_batch: Maximum number of small jobs with equal settings that run as one batch. Default: 4.
        max_steps: Maximum number of steps of an edit. Default: 100.
        keep_s: Seconds for which results are kept. Default: 86400.
        data_dir: Folder for records, uploads and results. Default: ~/.local/share/joyimage.
        database: Database URL, for example postgresql+psycopg://user@host/name. Default: a SQLite file in the data
            folder.
        log_json: Write the log as one JSON object per line.
        verbose: Log every request.
        replicas: Number of pipelines, which share the GPUs in turn; with `--ray`, the maximum number. Default: 1.
        ray: Run the pipelines as replicas on Ray Serve.
        ray_address: Address of a running Ray cluster. Default: a new one on this machine, on loopback.

    Raises:
        CheckpointError: There is no such model.
        InvalidInputError: An option is out of range, or the server's own packages are missing.
    """
    options = options or SizedModelOptions()
    options.check()
    check_packages()
    given = {
        **options.given(),
        "model_name": model_name,
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "database": database,
        "api_keys_file": api_keys_file,
        "allow_anonymous": allow_anonymous,
        "replicas": replicas,
        "loras": None if lora is None else parse_loras(lora),
        "queue_size": queue_size,
        "client_jobs": client_jobs,
        "max_batch": max_batch,
        "max_steps": max_steps,
        "keep_s": keep_s,
        "image_urls": image_urls,
        "model_aliases": model_aliases,
        "allowed_hosts": allowed_hosts,
        "cors_origins": cors_origins,
        "trusted_proxies": trusted_proxies,
        "public_url": public_url,
        "log_json": log_json,
    }
    settings = make_settings({name: value for name, value in given.items() if value is not None})
    if ray_address is not None and not ray:
        raise InvalidInputError("`--ray-address` has no effect without `--ray`; give both, or neither.")
    if not Path(settings.model).exists():
        from joyimage.pipeline.hub import find_folder

        find_folder(settings.model)  # rejects what is neither a checkpoint's name nor a hub id
    from joyimage.serving.logs import configure_logging

    configure_logging(verbose=verbose, as_json=settings.log_json)
    run_server(settings, ray=ray, ray_address=ray_address)


def check_packages() -> None:
    """Check that the packages of the extra `serve` are installed.

    Raises:
        InvalidInputError: Some are missing.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidInputError(f'The server needs {", ".join(missing)}: pip install "joyimage[serve]".')


def make_settings(given: dict[str, Any]) -> ServerSettings:
    """Put options over the environment, and the environment over the defaults.

    Raises:
        InvalidInputError: A value is not accepted.
    """
    import os

    from pydantic import ValidationError

    from joyimage.loading import default_model
    from joyimage.serving.settings import ServerSettings

    if "model" not in given and "JOYIMAGE_MODEL" not in os.environ:
        notify("Looking for an accelerator ...")  # the import of torch takes seconds
        given["model"] = default_model(given.get("device") or os.environ.get("JOYIMAGE_DEVICE"))
    try:
        return ServerSettings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if not name:  # the sentence is ours and names the setting
            raise InvalidInputError(first["msg"].removeprefix("Value error, ")) from None
        from joyimage.serving.http.errors import describe_invalid

        raise InvalidInputError(describe_invalid(first, name)) from None


def run_server(
    settings: ServerSettings,
    *,
    ray: bool = False,
    ray_address: str | None = None,
    listening_on: Callable[[str], object] = lambda _: None,
) -> None:
    """Serve until interrupted.

    Args:
        settings: Settings of the server.
        ray: Whether the pipelines run on Ray Serve.
        ray_address: Address of a running Ray cluster; None starts Ray here.
        listening_on: Called with the server's address once it listens.

    Raises:
        CheckpointError: A weight file or an adapter is missing, or holds something else.
        InvalidInputError: The address is taken, the keys cannot be read, or the device does not exist.
        ServerError: The database cannot be opened.
        SystemExit: The device failed; the process has to be started again.
    """
    notify("Starting the server ...")  # the imports alone take seconds
    if settings.device is not None:
        check_device_name(settings.device)
    import prometheus_client
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from joyimage.compat.pillow import return_pixels_at_once
    from joyimage.serving.http.server import HttpServer

    return_pixels_at_once()
    if not ray:  # with Ray, the devices are those of the cluster
        from joyimage.serving.workers.loading import check_settings

        check_settings(settings)
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    prometheus_client.disable_created_metrics()  # they would double the number of series
    listening = _listen(settings)
    failures: list[str] = []
    # Whatever keeps the process from ending in order then, a supervisor has to get its chance.
    last_resort = threading.Timer(settings.shutdown_grace_s + _LONGEST_STOP_S, os._exit, [EXIT_BUG])
    last_resort.daemon = True

    def on_fatal(reason: str) -> None:
        failures.append(reason)
        server.should_exit = True
        last_resort.start()

    app, close = _make_app(settings, on_fatal, ray=ray, ray_address=ray_address)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{listening.getsockname()[1]}"

    def on_started() -> None:
        notify(f"Serving {settings.served_name} on {url} (Ctrl+C to stop).")
        listening_on(url)

    server = HttpServer(app, settings, on_started)
    with _orderly_signals(server):
        try:
            server.run(sockets=[listening])
        finally:
            close()
    service = getattr(app.state, "service", None)
    if service is not None and service.dispatcher.is_stuck:
        os._exit(EXIT_BUG)  # the interpreter would wait for the device call for ever
    last_resort.cancel()
    if failures:
        raise SystemExit(EXIT_BUG)


@contextmanager
def _orderly_signals(server: HttpServer) -> Iterator[None]:
    """Have no signal end the process in the middle of its jobs, or before Ray is stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # uvicorn stops in order at SIGTERM, and then repeats the signal.
    earlier = {signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: None)}
    # A terminal that is closed sends SIGHUP, which uvicorn does not know.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        earlier[signal.SIGHUP] = signal.signal(signal.SIGHUP, server.handle_exit)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _make_app(
    settings: ServerSettings, on_fatal: Callable[[str], None], *, ray: bool, ray_address: str | None
) -> tuple[FastAPI, Callable[[], None]]:
    """Make the application; the second value ends what it runs its pipelines on."""
    from joyimage.serving.app import create_app

    if not ray:
        return create_app(settings, on_fatal=on_fatal), lambda: None
    from joyimage.serving.workers.ray_serve import RayReplicas

    replicas = RayReplicas(settings, address=ray_address)
    return create_app(replicas.settings, replicas.load, on_fatal=on_fatal), replicas.close


def _listen(settings: ServerSettings) -> socket.socket:
    """Open the socket.

    Raises:
        InvalidInputError: The address is taken, or not one of this machine.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen(_BACKLOG)  # connections that come before the first accept wait
    except OSError as error:
        listening.close()
        raise InvalidInputError(
            f"Cannot listen on {settings.host}:{settings.port} ({error.strerror}); choose another `--port`, 0 for "
            "a free one."
        ) from None
    return listening


def parse_loras(entries: list[str]) -> dict[str, Path]:
    """Read NAME=PATH.

    Raises:
        InvalidInputError: An entry has another form, or its file does not exist.
    """
    loras: dict[str, Path] = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not (name and equals and path):
            raise InvalidInputError(f"`--lora` is {entry!r}; expected NAME=PATH.")
        if not Path(path).exists():
            raise InvalidInputError(f"`--lora` is {entry!r}; {path} does not exist.")
        loras[name] = Path(path)
    return loras
