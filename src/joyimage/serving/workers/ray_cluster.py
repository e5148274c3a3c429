"""Ray: started in this process and heard on loopback only, or joined where it runs."""

from __future__ import annotations

import logging
import os
from typing import Any

from joyimage.compat.ray import keep_ray_on_loopback
from joyimage.errors import InvalidInputError


def start_ray(num_workers: int, address: str | None = None) -> bool:
    """Start Ray here, or join a cluster, unless this process has one.

    Args:
        num_workers: Maximum number of pipeline processes, if Ray is started here.
        address: Address of a running cluster; None starts Ray here.

    Returns:
        Whether this call started or joined Ray, so that the caller has to shut it down.

    Raises:
        InvalidInputError: Ray isn't installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InvalidInputError('`--ray` needs Ray: pip install "joyimage[ray]".') from error
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"address": address}
    if address is None:
        keep_ray_on_loopback()
        # Ray counts slots, not cores: pipelines on a CPU can share cores.
        options = {"include_dashboard": False, "num_cpus": max(os.cpu_count() or 1, num_workers + 2)}
    ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)
    return True
