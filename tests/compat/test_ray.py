"""Names inside Ray and gRPC that joyimage relies on."""

from __future__ import annotations

import importlib
import os

import pytest

from joyimage.compat.ray import keep_ray_on_loopback, keep_replica_on_loopback

pytest.importorskip("ray", reason="Ray isn't installed")


def test_ray_when_kept_on_loopback_then_its_switch_is_off_here_and_in_children(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    constants = importlib.import_module("ray._private.ray_constants")
    monkeypatch.setattr(constants, "ENABLE_RAY_CLUSTER", True)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")

    keep_ray_on_loopback()

    assert constants.ENABLE_RAY_CLUSTER is False
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


def test_replica_when_asked_to_listen_everywhere_then_listens_on_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = importlib.import_module("grpc.aio._server").Server
    addresses: list[str] = []
    monkeypatch.setattr(server, "add_insecure_port", lambda _self, address: addresses.append(address) or 1)

    keep_replica_on_loopback()
    server.add_insecure_port(object(), "[::]:0")

    assert addresses == ["127.0.0.1:0"]
