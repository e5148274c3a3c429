"""A server that is killed in the middle of its work: nothing is lost, nothing is done twice."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.serving.parts import SIDE, Process, opened, png, wait_for

if TYPE_CHECKING:
    from pathlib import Path

STATES = {"succeeded", "failed", "cancelled"}


def check_kill(folder: Path, num_jobs: int, steps: int, *arguments: object) -> None:
    """Queue jobs, kill the server when some have ended, start it again, and compare what there is."""
    first = Process(folder, *arguments)
    jobs = []
    for number in range(num_jobs):
        answer = first.client.post(
            "/v1/jobs",
            data={"kind": "edit", "prompt": "Recolor it.", "seed": str(number), "steps": str(steps)},
            files=[("image", png(number))],
            headers={"Idempotency-Key": f"job-{number}"},
        )
        assert answer.status_code == 202, answer.text
        jobs.append(answer.json()["id"])

    def get_all(server: Process) -> dict[str, Any]:
        return {job: server.client.get(f"/v1/jobs/{job}").json() for job in jobs}

    def some_are_done() -> bool:
        states = [record["state"] for record in get_all(first).values()]
        return "running" in states and states.count("succeeded") >= num_jobs // 3

    wait_for(some_are_done, 120)
    before = get_all(first)
    first.kill()
    files = {path: path.stat().st_mtime_ns for path in folder.glob("jobs/*/output-0")}

    second = Process(folder, *arguments)
    try:
        wait_for(lambda: all(record["state"] in STATES for record in get_all(second).values()), 240)
        after = get_all(second)
        repeated = second.client.post(
            "/v1/jobs",
            data={"kind": "edit", "prompt": "Recolor it.", "seed": "0", "steps": str(steps)},
            files=[("image", png(0))],
            headers={"Idempotency-Key": "job-0"},
        )
        images = [second.client.get(f"/v1/jobs/{job}/images/0").content for job in jobs]
        listed = second.client.get("/v1/jobs", params={"limit": 200}).json()["data"]
    finally:
        code = second.stop()

    assert code in {0, -signal.SIGTERM}
    assert {record["state"] for record in after.values()} == {"succeeded"}
    assert sorted(record["id"] for record in listed) == sorted(jobs)
    assert all(opened(image).size == (SIDE, SIDE) for image in images)
    restarted = {job for job, record in after.items() if record["restarted"] == 1}
    assert restarted
    # Only what was running ran again; what had ended was left alone.
    for job, record in before.items():
        if record["state"] == "succeeded":
            assert job not in restarted
            assert record["finished_at"] == after[job]["finished_at"]
            path = folder / "jobs" / job / "output-0"
            assert files[path] == path.stat().st_mtime_ns
    assert repeated.json()["id"] == jobs[0]
    assert not list(folder.glob("jobs/*/.*"))
    assert not list(folder.glob("jobs/*/input-*"))


def test_server_when_killed_then_every_job_ends_once(tmp_path: Path) -> None:
    check_kill(tmp_path, 6, 12, "--max-batch", 1)

    with sqlite3.connect(tmp_path / "jobs.sqlite3") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.slow
def test_server_when_killed_among_many_jobs_then_every_job_ends_once(tmp_path: Path) -> None:
    check_kill(tmp_path, 50, 12)


@pytest.mark.slow
def test_server_on_postgresql_when_killed_then_every_job_ends_once(tmp_path: Path, postgres_url: str) -> None:
    check_kill(tmp_path, 12, 20, "--database", postgres_url)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "there are no API keys"),
        (["--port", "99999"], "`--port` is 99999"),
        (["--lora", "style"], "expected NAME=PATH"),
        (["--api-keys-file", "/nowhere"], "cannot be read"),
        (["--ray-address", "auto"], "without `--ray`"),
        (
            ["--database", "mysql://me:secret@host/name"],
            "`--database` begins with 'mysql:'; expected sqlite:///FILE",
        ),
        (["--database", "user:secret@host"], "`--database` is not an address; expected sqlite"),
        (
            ["--public-url", "images.example.org"],
            "`--public-url` is 'images.example.org'; expected an address",
        ),
        (["--max-batch", "0"], "`--max-batch` is 0; expected 1 or more."),
        (["--allowed-hosts", ","], "`--allowed-hosts` is ',': it holds no name; expected names"),
        (["--database", "sqlite:///"], "`--database` begins with 'sqlite:'"),
    ],
)
def test_serve_when_it_can_not_be_then_one_line_and_exit_2(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from joyimage.cli.main import main

    code = main(["serve", "--model", "tiny", "--data-dir", str(tmp_path), *arguments])

    printed = capsys.readouterr()
    assert code == 2
    assert words in printed.err
    assert "secret" not in printed.err
    assert printed.out == ""


def test_serve_when_the_address_is_taken_then_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import socket

    from joyimage.cli.main import main

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code = main(["serve", "--model", "tiny", "--data-dir", str(tmp_path), "--port", port])

    assert code == 2
    assert "Cannot listen on" in capsys.readouterr().err


def test_command_when_only_listed_then_no_server_is_imported() -> None:
    code = (
        "import sys, joyimage, joyimage.serving, joyimage.cli.main\n"
        "sys.exit(', '.join({'torch', 'fastapi', 'sqlalchemy', 'pydantic'} & set(sys.modules)) or None)"
    )

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr
