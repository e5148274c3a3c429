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
        num_workers: Most processes that run pipelines, where Ray is started here.
        address: Of a running cluster; None starts one here.

    Returns:
        Whether it was started or joined now, and has to be shut down.

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
        # Ray hands out places, not cores: a pipeline on a CPU may share them.
        options = {"include_dashboard": False, "num_cpus": max(os.cpu_count() or 1, num_workers + 2)}
    ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)
    return True
