"""The numbers that Prometheus scrapes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from joyimage import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)


class Metrics:
    """The numbers of one server, apart from those of any other in the process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        counter = partial(Counter, registry=self._registry)
        gauge = partial(Gauge, registry=self._registry)
        histogram = partial(Histogram, registry=self._registry)
        self.requests = counter("joyimage_http_requests", "Requests answered.", ["route", "method", "status"])
        self.request_seconds = histogram(
            "joyimage_http_request_seconds",
            "Seconds from the first byte of a request to the last byte of its response.",
            ["route", "method"],
            buckets=_SECONDS,
        )
        self.ended = counter("joyimage_jobs_ended", "Jobs that ended.", ["kind", "state"])
        self.rejected = counter("joyimage_jobs_refused", "Requests rejected by a limit.", ["code"])
        self.restarted = counter("joyimage_jobs_restarted", "Jobs requeued after a server died.")
        self.low_memory = counter(
            "joyimage_low_memory_runs", "Runs that fit only with lower-memory settings."
        )
        self.reused = counter("joyimage_reused_pictures", "Edits of images that had been encoded before.")
        self.run_seconds = histogram(
            "joyimage_run_seconds",
            "Seconds from the claim of a job until it ends, successfully or not.",
            ["kind"],
            buckets=_SECONDS,
        )
        self.wait_seconds = histogram(
            "joyimage_wait_seconds", "Seconds from the request to the claim of its job.", buckets=_SECONDS
        )
        self.batch_size = histogram("joyimage_batch_size", "Number of jobs in a batch.", buckets=(1, 2, 4, 8))
        self._jobs = gauge("joyimage_jobs", "Jobs in each state, of all servers of the database.", ["state"])
        self._oldest = gauge("joyimage_oldest_job_seconds", "Seconds that the oldest queued job has waited.")
        build = gauge("joyimage_build_info", "Version.", ["version"])
        build.labels(__version__).set(1)
        ProcessCollector(registry=self._registry)
        self._replicas = gauge("joyimage_replicas", "Pipelines in each state.", ["state"])

    def page(self, jobs: Mapping[str, int], *, idle: int, busy: int, oldest_wait_s: float = 0.0) -> bytes:
        """Return the page that is scraped.

        Args:
            jobs: Number of jobs in each state.
            idle: Pipelines that wait.
            busy: Pipelines that run.
            oldest_wait_s: Seconds for which the oldest queued job has waited.

        Returns:
            Text.
        """
        for state, number in jobs.items():
            self._jobs.labels(state).set(number)
        self._oldest.set(oldest_wait_s)
        self._replicas.labels("idle").set(idle)
        self._replicas.labels("busy").set(busy)
        return generate_latest(self._registry)
