"""Private names of Ray and gRPC that joyimage uses, because they have no public way to them."""

from __future__ import annotations

import importlib
import os
from typing import Any


def keep_ray_on_loopback() -> None:
    """Have the Ray that this process starts listen on loopback only.

    Ray reads "127.0.0.1" as a node address, and listens on all interfaces nevertheless, except on platforms where
    it supports no clusters. Anyone who reaches its ports can run code, so this process, and those that it starts,
    count as such a platform.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    constants: Any = importlib.import_module("ray._private.ray_constants")
    constants.ENABLE_RAY_CLUSTER = False


def keep_replica_on_loopback() -> None:
    """Have the Ray Serve replica that this process will be listen on loopback only."""
    grpc_server: Any = importlib.import_module("grpc.aio._server").Server
    listen = grpc_server.add_insecure_port

    # Ray asks for "[::]:0", whatever the node's address is.
    def listen_on_loopback(self: Any, address: str) -> int:
        return listen(self, address.replace("[::]", "127.0.0.1"))

    grpc_server.add_insecure_port = listen_on_loopback
