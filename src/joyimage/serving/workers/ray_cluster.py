"""Ray: started in this process and heard on loopback only, or joined where it runs."""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any

from joyimage.errors import InvalidInputError


def start_ray(num_workers: int, address: str | None = None) -> bool:
    """Start Ray here, or join a cluster, unless this process has one.

    Args:
        num_workers: Most processes that shall run pipelines, where Ray is started here.
        address: Of a running cluster; None starts one here.

    Returns:
        Whether it was started or joined now, and has to be shut down.

    Raises:
        InvalidInputError: Ray isn't installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray._private import ray_constants
    except ImportError as error:
        raise InvalidInputError('`--ray` needs Ray: pip install "joyimage[ray]".') from error
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"address": address}
    if address is None:
        # Ray takes "127.0.0.1" for a wish to be reached and listens everywhere, except where it supports no
        # clusters. Who reaches its ports may have code run, so this counts as such a place, for the processes
        # that it starts too.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        ray_constants.ENABLE_RAY_CLUSTER = False
        # Ray hands out places, not cores: a pipeline on a CPU may share them.
        options = {"include_dashboard": False, "num_cpus": max(os.cpu_count() or 1, num_workers + 2)}
    ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)
    return True


def listen_on_loopback() -> None:
    """Have the Serve replica that this process will be listen on loopback only, as the rest of Ray does."""
    grpc_server: Any = importlib.import_module("grpc.aio._server").Server
    listen = grpc_server.add_insecure_port

    # It is asked for "[::]:0", whatever the node's address is.
    def listen_near(self: Any, address: str) -> int:
        return listen(self, address.replace("[::]", "127.0.0.1"))

    grpc_server.add_insecure_port = listen_near
