"""The Triton kernels against their plain twins, under Triton's interpreter and on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = "tests.acceleration.kernels_program"


@pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux")
@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({"TRITON_INTERPRET": "1"}, id="interpreted"),
        pytest.param({}, id="compiled", marks=pytest.mark.gpu),
    ],
)
def test_kernels_when_run_then_they_agree_with_plain_torch(variables: dict[str, str]) -> None:
    pytest.importorskip("triton")

    # The interpreter is chosen when Triton is imported, so it gets a process of its own.
    result = subprocess.run(
        [sys.executable, "-m", PROGRAM],
        env={**os.environ, "JOYIMAGE_KERNELS": "triton", **variables},
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )

    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("agrees") == 43, result.stdout
