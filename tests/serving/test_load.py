"""Many clients at once: every accepted job ends, every rejection is a 429, memory stays flat. And one alone."""

from __future__ import annotations

import io
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx2
import numpy as np
import pytest
import torch

from joyimage import JoyImageEditPipeline
from tests.serving.parts import SIDE, Process, opened, png

if TYPE_CHECKING:
    from pathlib import Path


def drive(url: str, num_clients: int, num_requests: int, *, retries: bool) -> dict[str, Any]:
    """Send requests from many clients and count the answers.

    Args:
        url: URL of the server.
        num_clients: At the same time.
        num_requests: Number of requests of all clients together.
        retries: Whether who is rejected comes back after Retry-After.

    Returns:
        Seconds of each accepted request, number of each status.
    """
    image = png(1)
    left = iter(range(num_requests))
    lock = threading.Lock()
    seconds: list[float] = []
    counts: dict[int, int] = {}

    def work() -> None:
        with httpx2.Client(base_url=url, timeout=300) as client:
            while True:
                with lock:
                    number = next(left, None)
                if number is None:
                    return
                while True:
                    started = time.perf_counter()
                    fields = {"prompt": "red", "seed": str(number), "steps": "1"}
                    answer = client.post("/v1/images/edits", data=fields, files=[("image", image)])
                    with lock:
                        counts[answer.status_code] = counts.get(answer.status_code, 0) + 1
                        if answer.status_code == 200:
                            seconds.append(time.perf_counter() - started)
                    if answer.status_code != 429 or not retries:
                        break
                    time.sleep(float(answer.headers["retry-after"]))

    threads = [threading.Thread(target=work) for _ in range(num_clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"seconds": seconds, "counts": counts, "total_s": time.perf_counter() - started}


def check(server: Process, found: dict[str, Any]) -> None:
    assert set(found["counts"]) <= {200, 429}
    records = server.client.get("/v1/jobs", params={"limit": 200}).json()["data"]
    assert {record["state"] for record in records} == {"succeeded"}
    page = server.client.get("/metrics").text
    accepted = f'joyimage_jobs_ended_total{{kind="edit",state="succeeded"}} {float(found["counts"][200])}'
    assert accepted in page


def report(found: dict[str, Any], memory: list[int]) -> None:
    seconds, rejected = found["seconds"], found["counts"].get(429, 0)
    middle, slow = np.percentile(seconds, [50, 95])
    rate = len(seconds) / found["total_s"]
    grown = f"{memory[0] >> 20} -> {memory[-1] >> 20} MiB"
    print(  # noqa: T201 - the load table
        f"\nserved {len(seconds)}, rejected {rejected}, p50 {middle:.2f} s, "
        f"p95 {slow:.2f} s, {rate:.1f}/s, {grown}"
    )


def test_load_when_more_come_than_fit_then_served_or_429_and_nothing_else(tmp_path: Path) -> None:
    server = Process(tmp_path, "--queue-size", 4, "--client-jobs", 100)
    try:
        found = drive(server.url, 12, 36, retries=False)
        check(server, found)
        assert found["counts"][429] > 0
        report(found, [server.memory_bytes] * 2)
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_load_when_200_clients_send_1000_requests_then_all_end_and_memory_is_flat(tmp_path: Path) -> None:
    server = Process(tmp_path, "--queue-size", 64, "--client-jobs", 1000)
    try:
        drive(server.url, 50, 100, retries=True)  # everything that is made once has been made
        memory = [server.memory_bytes]
        before = 100
        found = drive(server.url, 200, 1000, retries=True)
        memory.append(server.memory_bytes)
        report(found, memory)
        assert found["counts"][200] == 1000
        assert set(found["counts"]) <= {200, 429}
        page = server.client.get("/metrics").text
        assert f'state="succeeded"}} {float(1000 + before)}' in page
        assert memory[1] - memory[0] < 200 * 2**20
    finally:
        server.stop()


@pytest.mark.slow
def test_server_when_it_does_one_edit_after_another_then_the_same_image_as_by_a_direct_call(
    tmp_path: Path,
) -> None:
    pipe: Any = JoyImageEditPipeline.from_pretrained("tiny")
    pipe.register_to_config(base_size=SIDE)
    pipe.set_progress_bar_config(disable=True)
    server = Process(tmp_path)
    direct, served = [], []
    try:
        for number in range(12):
            upload = png(number)  # another one each time: none is known to the server
            started = time.perf_counter()
            image = pipe(
                image=opened(upload),
                prompt="red",
                num_inference_steps=4,
                guidance_scale=1.0,
                generator=torch.Generator().manual_seed(number),
            ).images[0]
            file = io.BytesIO()
            image.save(file, "PNG")
            direct.append(time.perf_counter() - started)
            started = time.perf_counter()
            answer = server.client.post(
                "/v1/images/edits",
                data={"prompt": "red", "seed": str(number), "steps": "4", "guidance": "1"},
                files=[("image", upload)],
            )
            served.append(time.perf_counter() - started)
            found = opened(answer.json()["data"][0]["b64_json"])
            assert np.abs(np.asarray(found, int) - np.asarray(image, int)).max() <= 1
    finally:
        server.stop()
    ours, alone = np.median(served[2:]), np.median(direct[2:])
    print(  # noqa: T201 - the server's overhead
        f"\na direct call {alone * 1e3:.0f} ms, by the server {ours * 1e3:.0f} ms, "
        f"{(ours - alone) * 1e3:+.0f} ms"
    )
