"""The numbers that Prometheus scrapes."""

from __future__ import annotations

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
        self.requests = Counter(
            "joyimage_http_requests",
            "Requests answered.",
            ["route", "method", "status"],
            registry=self._registry,
        )
        self.request_seconds = Histogram(
            "joyimage_http_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ["route", "method"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.ended = Counter(
            "joyimage_jobs_ended", "Jobs that ended.", ["kind", "state"], registry=self._registry
        )
        self.rejected = Counter(
            "joyimage_jobs_refused", "Requests rejected by a limit.", ["code"], registry=self._registry
        )
        self.restarted = Counter(
            "joyimage_jobs_restarted", "Jobs requeued after a server died.", registry=self._registry
        )
        self.low_memory = Counter(
            "joyimage_low_memory_runs", "Runs that fitted only with less memory.", registry=self._registry
        )
        self.reused = Counter(
            "joyimage_reused_pictures",
            "Edits of images that had been encoded before.",
            registry=self._registry,
        )
        self.run_seconds = Histogram(
            "joyimage_run_seconds",
            "From claim to the end of the job, in whatever way it ends.",
            ["kind"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.wait_seconds = Histogram(
            "joyimage_wait_seconds", "From request to claim.", buckets=_SECONDS, registry=self._registry
        )
        self.batch_size = Histogram(
            "joyimage_batch_size", "Jobs that ran together.", buckets=(1, 2, 4, 8), registry=self._registry
        )
        self._jobs = Gauge(
            "joyimage_jobs",
            "Jobs in each state, of all servers of the database.",
            ["state"],
            registry=self._registry,
        )
        self._oldest = Gauge(
            "joyimage_oldest_job_seconds", "Wait of the oldest queued job.", registry=self._registry
        )
        build = Gauge("joyimage_build_info", "Version.", ["version"], registry=self._registry)
        build.labels(__version__).set(1)
        ProcessCollector(registry=self._registry)
        self._replicas = Gauge("joyimage_replicas", "Pipelines.", ["state"], registry=self._registry)

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
