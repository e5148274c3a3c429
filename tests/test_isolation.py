"""Tests leave the machine as it is, and don't pass by being skipped."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest


def test_home_when_tests_run_then_is_a_temporary_one() -> None:
    home = Path.home()

    assert home != Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert home.name.startswith("joyimage-test-home-")
    for name in ("CONFIG", "DATA", "CACHE", "STATE"):
        assert home in Path(os.environ[f"XDG_{name}_HOME"]).parents


@pytest.mark.parametrize(("required", "code"), [("Chromium,PostgreSQL", 1), ("", 0)])
def test_skip_when_what_is_missing_must_be_there_then_fails(tmp_path: Path, required: str, code: int) -> None:
    root = Path(__file__).parents[1]
    conftest = (root / "tests" / "conftest.py").read_text("utf-8")
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.skip(reason='no Chromium: apt-get install chromium')\n"
        "def test_page(): ...\n"
    )
    environment = {**os.environ, "JOYIMAGE_TESTS_REQUIRE": required, "PYTHONPATH": f"{root}:{root / 'src'}"}

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == code, run.stdout + run.stderr
    assert ("must not be skipped here" in run.stdout) == bool(code)
