"""Pieces that the tests of the server share: a cheap pipeline of real parts, images, an engine."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import numpy as np
from PIL import Image

from joyimage.edits import Defaults, kind_of
from joyimage.serving.app import create_app
from joyimage.serving.http.server import HttpServer
from joyimage.serving.jobs.clock import SteadyClock
from joyimage.serving.jobs.dispatcher import Dispatcher
from joyimage.serving.jobs.events import EventLog
from joyimage.serving.jobs.files import JobFiles
from joyimage.serving.jobs.limits import QueueLimits
from joyimage.serving.jobs.liveness import Liveness
from joyimage.serving.jobs.records import Job
from joyimage.serving.jobs.store import JobStore
from joyimage.serving.jobs.task import Task
from joyimage.serving.metrics import Metrics
from joyimage.serving.settings import ServerSettings
from joyimage.serving.workers.local import LocalRunner
from joyimage.serving.workers.preparation import JobResult, prepare
from tests import random_models
from tests.forked import start_command

if TYPE_CHECKING:
    from collections.abc import Callable

    from joyimage.types import ImageSize

SIDE = 64


def make_runner(**settings: Any) -> LocalRunner:
    """Real parts with random weights at 64 pixels: a step takes about 15 ms."""
    pipe = random_models.make_pipeline()
    pipe.register_to_config(base_size=SIDE, default_num_inference_steps=2, default_guidance_scale=1.0)
    pipe.text_encoder.config.judges_edits = False  # with random weights it would find no object anywhere
    return LocalRunner(pipe, preview_px=32, **settings)


ROOM = QueueLimits(queue_size=10_000, client_jobs=10_000)


def make_task(
    kind: str = "generate",
    *,
    output_format: str = "png",
    num_inputs: int = 0,
    has_mask: bool = False,
    has_previews: bool = True,
    target_size: ImageSize | None = None,
    **fields: Any,
) -> Task:
    """A task whose edit has these fields, and two steps and the seed 0 where they are not given."""
    defaults = Defaults(num_inference_steps=2, guidance_scale=1.0)
    if kind != "describe":
        fields = {"seed": 0, **fields}
    if kind in {"generate", "edit"}:
        fields = {"prompt": "x", **fields}
    edit = kind_of(kind).from_dict(fields)
    return Task(
        edit=edit.resolve(defaults),
        given=edit.to_dict(),
        output_format=output_format,
        num_inputs=num_inputs,
        has_mask=has_mask,
        has_previews=has_previews,
        target_size=target_size,
    )


def run_on(
    runner: Any, *tasks: tuple[Task, bytes | None], report: Callable[..., None] = lambda *_: None
) -> list[JobResult]:
    """Run tasks, of an image each or of none, in one pass and without an engine."""
    prepared = [prepare(task, [] if image is None else [image], None, runner.info) for task, image in tasks]
    made = runner.run([one.item for one in prepared], report, lambda: False)
    assert made is not None
    return [one.finish(own) for one, own in zip(prepared, made, strict=True)]


def make_settings(folder: Path, **values: Any) -> ServerSettings:
    return ServerSettings(
        **{"data_dir": folder, "model_name": "tiny", "port": 0, "shutdown_grace_s": 5, **values}
    )


def png(seed: int = 0, width: int = SIDE, height: int = SIDE) -> bytes:
    file = io.BytesIO()
    random_models.make_image(seed, height, width).save(file, "PNG")
    return file.getvalue()


def opened(data: bytes | str) -> Image.Image:
    """Decode an image file, or base64 of one."""
    return Image.open(io.BytesIO(base64.b64decode(data) if isinstance(data, str) else data))


def wait_for(condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """Wait until something holds, and return it."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("it did not happen in time")


def difference(first: bytes, second: bytes) -> int:
    """Largest difference of two image files, of 255."""
    return int(np.abs(np.asarray(opened(first), dtype=int) - np.asarray(opened(second), dtype=int)).max())


def create(client: httpx2.Client, *, key: str | None = None, **fields: Any) -> httpx2.Response:
    """Queue a job; a generation unless another kind is given."""
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/v1/jobs", json={"kind": "generate", "prompt": "x", **fields}, headers=headers)


def ended(client: httpx2.Client, job: dict[str, Any]) -> dict[str, Any]:
    def look() -> Any:
        record = client.get(f"/v1/jobs/{job['id']}").json()
        return record if record["state"] in {"succeeded", "failed", "cancelled"} else None

    return wait_for(look)


def find_descendants() -> set[int]:
    """Return the processes that descend from this one, and this one itself."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it has just ended
                status = (folder / "stat").read_text(encoding="ascii", errors="replace")
                parents[int(folder.name)] = int(status.rpartition(")")[2].split()[1])
    found = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


class Workshop:
    """A dispatcher with its store, without HTTP."""

    def __init__(self, folder: Path, runner: Any, *, is_started: bool = True, **values: Any) -> None:
        self.settings = make_settings(folder, **values)
        self.store = JobStore(self.settings.database_url, SteadyClock(), self.settings.keep_s)
        self.files = JobFiles(folder / "jobs")
        self.events = EventLog()
        self.metrics = Metrics()
        self.liveness = Liveness(folder / "servers")
        self.fatal: list[str] = []
        self.dispatcher = Dispatcher(
            self.settings,
            self.store,
            self.files,
            self.events,
            self.metrics,
            self.liveness,
            self.fatal.append,
        )
        self.runner = runner
        if is_started:
            self.start()

    def start(self) -> None:
        self.dispatcher.start(lambda _: self.runner)

    def submit(
        self, *, client: str = "a", batch_key: str | None = None, image: bytes | None = None, **task: Any
    ) -> Job:
        """Queue an edit, or a generation where no image is given."""
        job_id = self.files.new_id()
        settings: dict[str, Any] = {"prompt": "blue", "has_previews": False, **task}
        if image is not None:
            self.files.write(job_id, "input-0", image)
            settings = {"kind": "edit", "num_inputs": 1, **settings}
        made = make_task(**settings)
        return self.put(
            Job(
                id=job_id,
                client=client,
                kind=made.kind,
                task=made.to_dict(),
                request_hash="",
                batch_key=batch_key,
            )
        )

    def put(self, job: Job) -> Job:
        """Queue a record."""
        stored, _ = self.store.submit(job, ROOM)
        self.dispatcher.wake()
        return stored

    def has(self, job: Job, name: str) -> bool:
        """Whether a job has a file of this name."""
        return (self.settings.data_dir / "jobs" / job.id / name).exists()

    def ended(self, job: Job, timeout_s: float = 30.0) -> Job:
        """Wait for a job's end."""

        def look() -> Job | None:
            found = self.store.get(job.id)
            assert found is not None
            return found if found.is_finished else None

        return wait_for(look, timeout_s)

    def close(self) -> None:
        self.dispatcher.stop()
        self.liveness.close()
        self.store.close()


class Gate:
    """A runner's door: it stops at each step until it is let through."""

    def __init__(self, runner: LocalRunner) -> None:
        self.info = runner.info
        self._runner = runner
        self.is_open = threading.Event()
        self.steps = 0
        self.batches: list[int] = []

    def run(self, items: Any, report: Any, is_stopped: Any) -> Any:
        self.batches.append(len(items))

        def stop() -> bool:
            self.steps += 1
            while not self.is_open.wait(0.01):
                if is_stopped():
                    return True
            return is_stopped()

        return self._runner.run(items, report, stop)


class LiveServer:
    """The application behind uvicorn, in a thread of this process, on a free port of loopback."""

    def __init__(self, settings: ServerSettings, runner: Any, load: Any = None) -> None:
        self.settings = settings
        self.app = create_app(settings, load or (lambda _: runner))
        self._server = HttpServer(self.app, settings)
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.run, args=([listening],), daemon=True)
        self._thread.start()
        wait_for(lambda: self._server.started and self.service.dispatcher.info)

    @property
    def service(self) -> Any:
        return self.app.state.service

    def client(self, key: str | None = None, **options: Any) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=30, **options)

    @property
    def num_connections(self) -> int:
        return len(self._server.server_state.connections)

    @property
    def num_timed_connections(self) -> int:
        """Number of connections whose request's headers have to be there in time."""
        connections: list[Any] = list(self._server.server_state.connections)
        return sum(one._header_timer is not None for one in connections)

    def press_interrupt(self) -> None:
        """Do what Ctrl+C does."""
        self._server.handle_exit(signal.SIGINT, None)

    def begin_close(self) -> None:
        """Ask it to stop, as a signal does."""
        self._server.should_exit = True

    def close(self) -> None:
        self.begin_close()
        self._thread.join(timeout=20)
        assert not self._thread.is_alive()


class Process:
    """`joyimage serve` in a process of its own."""

    def __init__(self, folder: Path, *arguments: object, base_size: int = SIDE) -> None:
        log_path = folder / f"log-{time.monotonic_ns()}"
        options = [
            "--port",
            0,
            "--data-dir",
            folder,
            "--model",
            "tiny",
            "--device",
            "cpu",
            "--base-size",
            base_size,
        ]
        self._process = start_command("serve", *options, *arguments, log_path=log_path)
        self._log_path = log_path
        wait_for(lambda: "Serving" in self.log or not self._process.is_alive(), 90)
        assert self._process.is_alive(), self.log
        self.url = self.log.partition("Serving")[2].partition(" on ")[2].split(" ")[0]
        self.client = httpx2.Client(base_url=self.url, timeout=30)
        wait_for(lambda: self.client.get("/readyz").status_code == 200, 60)

    @property
    def log(self) -> str:
        """What it has printed on stderr."""
        return self._log_path.read_text() if self._log_path.exists() else ""

    @property
    def memory_bytes(self) -> int:
        """What the process holds in memory."""
        numbers = Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()
        return int(numbers[1]) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        """End it as a power cut does."""
        self.client.close()
        self._process.kill()
        self._process.join()

    def stop(self) -> int:
        """Ask it to end, and return its exit code."""
        self.client.close()
        self._process.terminate()
        self._process.join(timeout=60)
        assert self._process.exitcode is not None
        return self._process.exitcode
