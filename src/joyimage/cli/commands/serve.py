"""`joyimage serve`: an OpenAI-compatible server."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joyimage.cli.console import note
from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from joyimage.serving.settings import ServerSettings

_BACKLOG = 2048
_NEEDED = (
    "fastapi",
    "uvicorn",
    "sqlalchemy",
    "alembic",
    "prometheus_client",
    "pydantic_settings",
    "python_multipart",
)


def serve(
    *,
    model: str | None = None,
    model_name: str | None = None,
    host: str | None = None,
    port: int | None = None,
    data_dir: Path | None = None,
    database: str | None = None,
    api_keys_file: Path | None = None,
    allow_anonymous: bool | None = None,
    device: str | None = None,
    dtype: str | None = None,
    base_size: int | None = None,
    replicas: int | None = None,
    lora: list[str] | None = None,
    queue_size: int | None = None,
    client_jobs: int | None = None,
    max_batch: int | None = None,
    max_steps: int | None = None,
    keep_s: float | None = None,
    image_urls: bool | None = None,
    ray: bool = False,
    ray_address: str | None = None,
    verbose: bool = False,
) -> None:
    """Serve a checkpoint to OpenAI's clients and to other commands' --server.

    Whatever is not given comes from JOYIMAGE_... in the environment, else from the defaults.

    Args:
        model: Checkpoint folder, hub id, or "tiny"; the published one where an accelerator is, else tiny.
        model_name: What clients call it; the end of `model` if not given.
        host: Address to listen on; 127.0.0.1, which only this machine reaches, if not given.
        port: Port to listen on; 8600 if not given, 0 for a free one.
        data_dir: Where records, pictures and results are kept.
        database: Such as postgresql+psycopg://user@host/name; a SQLite file in the data folder if not given.
        api_keys_file: A file with an API key, or NAME:KEY, a line.
        allow_anonymous: Listen on other addresses than loopback without keys.
        device: Such as "cuda" or "cpu".
        dtype: "bfloat16", "float16" or "float32".
        base_size: Side of the square size that the trained sizes derive from.
        replicas: Pipelines; several take the GPUs in turn. With --ray, the most that are started.
        lora: NAME=PATH of an adapter that clients may ask for by name; may be given several times.
        queue_size: Most jobs that wait.
        client_jobs: Most jobs of one client that wait or run.
        max_batch: Most small jobs of equal settings that run together.
        max_steps: Most steps of an edit.
        keep_s: Seconds for which results are kept.
        image_urls: Fetch pictures from public addresses that requests name.
        ray: Run the pipelines as replicas on Ray Serve.
        ray_address: Of a running Ray cluster; without, Ray is started here on loopback.
        verbose: Log every request.

    Raises:
        InvalidInputError: An option is out of range, or the server's own packages are missing.
    """
    check_packages()
    given = {
        "model": model,
        "model_name": model_name,
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "database": database,
        "api_keys_file": api_keys_file,
        "allow_anonymous": allow_anonymous,
        "device": device,
        "dtype": dtype,
        "base_size": base_size,
        "replicas": replicas,
        "loras": None if lora is None else parse_loras(lora),
        "queue_size": queue_size,
        "client_jobs": client_jobs,
        "max_batch": max_batch,
        "max_steps": max_steps,
        "keep_s": keep_s,
        "image_urls": image_urls,
    }
    settings = make_settings({name: value for name, value in given.items() if value is not None})
    if ray_address is not None and not ray:
        raise InvalidInputError("`--ray-address` has no meaning without `--ray`; give both, or neither.")
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    run_server(settings, ray=ray, ray_address=ray_address)


def check_packages() -> None:
    """Refuse to serve where the server's own packages are missing.

    Raises:
        InvalidInputError: They are.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidInputError(f'The server needs {", ".join(missing)}: pip install "joyimage[serve]".')


def make_settings(given: dict[str, Any]) -> ServerSettings:
    """Put options over the environment, and the environment over the defaults.

    Raises:
        InvalidInputError: One of them can't be.
    """
    import os

    from pydantic import ValidationError

    from joyimage.loading import default_model
    from joyimage.serving.settings import ServerSettings

    if "model" not in given and "JOYIMAGE_MODEL" not in os.environ:
        given["model"] = default_model(given.get("device") or os.environ.get("JOYIMAGE_DEVICE"))
    try:
        return ServerSettings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        sentence = first["msg"].removeprefix("Value error, ")
        # pydantic's own sentences don't name the setting; ours do.
        raise InvalidInputError(
            sentence if not name else f"`{name}` is {first['input']!r}: {sentence}."
        ) from None


def run_server(
    settings: ServerSettings,
    *,
    ray: bool = False,
    ray_address: str | None = None,
    listening_on: Callable[[str], object] = lambda _: None,
) -> None:
    """Serve until interrupted.

    Args:
        settings: Of the server.
        ray: Run the pipelines on Ray Serve.
        ray_address: Of a running cluster.
        listening_on: Called with the server's address once it listens.

    Raises:
        InvalidInputError: The address is taken, or the keys can't be read.
    """
    import socket

    import uvicorn
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from joyimage.serving.app import create_app

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen(_BACKLOG)  # who comes between the line below and the first accept waits
    except OSError as error:
        listening.close()
        raise InvalidInputError(
            f"{settings.host}:{settings.port} can't be listened on: {error.strerror}."
        ) from None
    if ray:
        from joyimage.serving.workers.ray_serve import RayReplicas

        replicas = RayReplicas(settings, address=ray_address)
        app, close = create_app(replicas.settings, replicas.load), replicas.close
    else:
        app, close = create_app(settings), lambda: None
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{listening.getsockname()[1]}"
    note(f"Serving {settings.served_name} on {url} (Ctrl+C stops).")
    listening_on(url)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # its lines hold queries, and those signatures
        proxy_headers=False,  # anyone can send them
        server_header=False,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=30,
    )
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        close()


def parse_loras(entries: list[str]) -> dict[str, Path]:
    """Read NAME=PATH.

    Raises:
        InvalidInputError: It isn't that, or there is no such file.
    """
    loras: dict[str, Path] = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not (name and equals and path):
            raise InvalidInputError(f"`--lora` is {entry!r}; expected NAME=PATH.")
        if not Path(path).exists():
            raise InvalidInputError(f"`--lora` is {entry!r}; there is no such file or folder.")
        loras[name] = Path(path)
    return loras
