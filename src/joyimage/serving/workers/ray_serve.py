"""The same server with its pipelines as replicas on Ray Serve.

The application, its queue and its records stay in one process; what Ray runs are the pipelines. So a replica,
or the machine it is on, may die at any moment: its job is in the records and runs again elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

from joyimage import errors
from joyimage.compat.ray import keep_replica_on_loopback
from joyimage.serving.settings import ServerSettings
from joyimage.serving.workers.loading import load_runner
from joyimage.serving.workers.protocol import DeviceFailedError, ReplicaLostError
from joyimage.serving.workers.ray_cluster import start_ray

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from joyimage.serving.workers.protocol import ModelInfo, ModelOutput, ProgressCallback, WorkItem

_APPLICATION = "joyimage"
MODEL_SETTINGS = (
    *(
        "model",
        "transformer",
        "text_encoder",
        "vae",
        "quantize",
        "offload",
        "device",
        "gpus",
        "gpu_layout",
        "dtype",
        "base_size",
    ),
    *("loras", "preview_px", "preview", "session_bytes"),
)
"""What a replica is told: all settings that `load_runner` reads."""

_ASK_S = 0.1
_KNOWN_IMAGES = 16  # that one replica is remembered for
_QUEUE_A_REPLICA = 1  # more than one run in flight for each, and another replica is started
_ERRORS: dict[str, type[Exception]] = {
    **{name: one for name, one in vars(errors).items() if isinstance(one, type)},
    "DeviceFailedError": ReplicaLostError,  # Ray starts another replica; the server continues
    "ValueError": ValueError,
    "TypeError": TypeError,
}


def tell_error(error: BaseException) -> tuple[str, str]:
    """Return an error as a replica tells of it: the name of a class that both sides know, and the message."""
    names = [kind.__name__ for kind in type(error).__mro__]
    return next((name for name in names if name in _ERRORS), "RuntimeError"), str(error)


def told_error(name: str, message: str) -> Exception:
    """Return the error that a replica told of."""
    return _ERRORS.get(name, RuntimeError)(message)


class EditReplica:
    """A pipeline in a process of Ray's.

    Args:
        settings: Those of the server that concern the model.
        is_alone: Whether all of Ray is on this machine, so that it is not to be reached from elsewhere.
    """

    def __init__(self, settings: dict[str, Any], *, is_alone: bool) -> None:
        if is_alone:
            keep_replica_on_loopback()
        # Not what the environment says of the server: this process does not listen.
        self._runner = load_runner(ServerSettings(host="127.0.0.1", **settings))
        self._lock = threading.Lock()
        self._failure: DeviceFailedError | None = None

    def info(self) -> ModelInfo:
        """Describe the model."""
        return self._runner.info

    def check_health(self) -> None:
        """Raise the error of a broken device, so that Ray replaces this replica."""
        if self._failure is not None:
            raise self._failure

    def pid(self) -> int:
        """Return the process's number."""
        return os.getpid()

    async def remember(self, image_hash: str) -> str:
        """Become known for an image, so that Ray sends its next edit here too."""
        return image_hash

    async def run(self, items: Sequence[WorkItem]) -> AsyncIterator[tuple[str, Any]]:
        """Run tasks.

        Args:
            items: Tasks that can share a pass.

        Yields:
            ("step", (step, steps, previews)) each step, then ("done", made), or ("error", (name, message)).
        """
        from ray import serve

        image_hash = serve.get_multiplexed_model_id()
        if image_hash:
            await self.remember(image_hash)
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        stopped = threading.Event()

        def put(kind: str, value: Any) -> None:
            # After a cancelled run there is no listener, and the loop may be closed.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(events.put_nowait, (kind, value))

        def work() -> None:
            try:
                with self._lock:
                    done = self._runner.run(items, lambda *step: put("step", step), stopped.is_set)
                put("done", done)
            except BaseException as error:  # noqa: BLE001 - it is raised again where the job is kept
                if isinstance(error, DeviceFailedError):
                    self._failure = error
                put("error", tell_error(error))

        threading.Thread(target=work, name="joyimage-run", daemon=True).start()
        try:
            while True:
                kind, value = await events.get()
                yield kind, value
                if kind != "step":
                    return
        finally:
            stopped.set()


class RayRunner:
    """A runner on any replica: the one that has the image cached, or a free one.

    Args:
        handle: Ray Serve's handle of the replicas.
        info: Description of the model of the replicas.
    """

    def __init__(self, handle: Any, info: ModelInfo) -> None:
        self._handle = handle
        self.info = info

    def run(
        self,
        items: Sequence[WorkItem],
        report: ProgressCallback,
        is_stopped: Callable[[], bool],
    ) -> list[ModelOutput] | None:
        """Run tasks on a replica; see `Runner`.

        Raises:
            ReplicaLostError: The replica has died.
            RuntimeError: The replica's pipeline failed.
        """
        from ray.exceptions import RayError

        handle = self._handle.options(stream=True, multiplexed_model_id=items[0].image_hash or "")
        failure: tuple[str, str] | None = None
        is_over, has_stopped = threading.Event(), threading.Event()
        answers = handle.run.remote(list(items))

        def watch() -> None:
            # Not after each step: the first may be far off, where no replica is free or there yet.
            while not is_over.wait(_ASK_S):
                if is_stopped():
                    has_stopped.set()
                    answers.cancel()
                    return

        watcher = threading.Thread(target=watch, name="joyimage-watch", daemon=True)
        watcher.start()
        try:
            for kind, value in answers:
                if kind == "done":
                    return value
                if kind == "error":
                    failure = value
                    break
                report(*value)
        except RayError as error:
            if has_stopped.is_set():
                return None
            raise ReplicaLostError(str(error)) from error
        finally:
            is_over.set()
            watcher.join()
        if has_stopped.is_set():
            return None
        if failure is None:
            raise ReplicaLostError("the replica ended without an answer")
        error = told_error(*failure)
        raise error


class RayReplicas:
    """Replicas on Ray Serve, started in this process's own Ray on loopback or on a cluster.

    Args:
        settings: Settings of the server; `replicas` is the maximum that is started.
        address: Address of a Ray cluster; None starts Ray here.

    Raises:
        ValueError: Ray isn't installed.
    """

    def __init__(self, settings: ServerSettings, address: str | None = None) -> None:
        self.settings = settings
        self._is_alone = address is None
        self._is_own = start_ray(settings.replicas, address)
        import ray
        from ray import serve

        serve.start(proxy_location="Disabled")  # the application is the only door
        has_gpu = (settings.device or "").startswith("cuda") or (
            settings.device is None and ray.cluster_resources().get("GPU", 0) > 0
        )
        deployment: Any = serve.deployment(
            _sticky_replica(),
            name="EditReplica",
            max_ongoing_requests=1,  # one edit fills a GPU
            autoscaling_config={
                "min_replicas": 1,
                "max_replicas": settings.replicas,
                "target_ongoing_requests": _QUEUE_A_REPLICA,
                "upscale_delay_s": 2.0,
                "downscale_delay_s": 600.0,  # loading a model takes minutes
            },
            ray_actor_options={"num_gpus": settings.gpus} if has_gpu else {"num_cpus": 1},
            graceful_shutdown_timeout_s=settings.shutdown_grace_s,
            health_check_period_s=5.0,
        )
        # What is not set stays so: files without a model mean the published model's configs.
        chosen = settings.model_dump(include=set(MODEL_SETTINGS), exclude_unset=True)
        if has_gpu:
            chosen["device"] = "cuda"  # those that Ray gave the replica, all on one machine
        application = deployment.bind(chosen, is_alone=self._is_alone)
        self._handle = serve.run(application, name=_APPLICATION, route_prefix=None)
        self._info: ModelInfo = self._handle.info.remote().result()

    def load(self, _number: int) -> RayRunner:
        """Return a way to the replicas; there are as many as replicas, so that all of them may be busy."""
        return RayRunner(self._handle, self._info)

    def pids(self) -> set[int]:
        """Return the processes of some replicas."""
        return {self._handle.pid.remote().result() for _ in range(8)}

    def close(self) -> None:
        """End the replicas, and Ray where it was started here; others may have theirs on a cluster."""
        import ray
        from ray import serve

        serve.delete(_APPLICATION)
        if self._is_own and self._is_alone:
            serve.shutdown()
        if self._is_own:
            ray.shutdown()


def _sticky_replica() -> type[EditReplica]:
    """Return the replica's class with Ray's memory of which replica knows which image; Ray is imported only now."""
    from ray import serve

    class StickyReplica(EditReplica):
        @serve.multiplexed(max_num_models_per_replica=_KNOWN_IMAGES)
        async def remember(  # pyright: ignore[reportIncompatibleMethodOverride] - Ray wraps it untyped
            self, image_hash: str
        ) -> str:
            return image_hash

    return StickyReplica
