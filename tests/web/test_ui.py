"""`joyimage ui` starts a server that no one else reaches, and opens its page; the wheel holds the page."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx2
import pytest

from joyimage.cli.main import main
from tests.web.parts import Server, wait_for

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a browser was asked to open."""
    note = tmp_path / "opened"
    program = tmp_path / "browser"
    program.write_text(f'#!/bin/sh\necho "$1" >> {note}\n')
    program.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{program} %s")
    return note


def test_ui_when_started_then_serves_on_loopback_and_opens_the_page(opened: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "joyimage.cli.main", "ui", "--model", "tiny", "--port", "0"]
    given = {**os.environ, "JOYIMAGE_HOST": "0.0.0.0"}  # which others could reach
    process = subprocess.Popen([*command, "--data-dir", tmp_path / "data"], stderr=subprocess.PIPE, env=given)
    try:
        url = wait_for(lambda: opened.exists() and opened.read_text().strip(), 90)
        page = httpx2.get(url, timeout=30)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)

    assert url.startswith("http://127.0.0.1:")
    assert page.status_code == 200
    assert "<title>joyimage</title>" in page.text


def test_ui_when_a_server_is_there_already_then_its_page_is_opened(
    server: Server, opened: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = server.url.rpartition(":")[2]

    assert main(["ui", "--model", "tiny", "--port", port, "--no-browser"]) == 0
    assert not opened.exists()
    assert main(["ui", "--model", "tiny", "--port", port]) == 0

    assert wait_for(lambda: opened.exists() and opened.read_text().strip()) == server.url
    assert "already" in capsys.readouterr().err
