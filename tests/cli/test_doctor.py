"""`joyimage doctor` says what is there, and advises what fits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from joyimage.acceleration import report
from joyimage.cli.commands.doctor import PACKAGES, advise
from joyimage.errors import CheckpointError
from joyimage.loading import load_pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import CommandResult

    Joyimage = Callable[..., CommandResult]


def test_doctor_when_called_then_names_this_machine(joyimage: Joyimage) -> None:
    found = json.loads(joyimage("doctor", "--json").out)

    assert set(found["versions"]) == set(PACKAGES)
    assert found["versions"]["torch"] == torch.__version__
    assert found["fits"]
    for name in found:
        assert name in joyimage("doctor").out


def test_doctor_when_the_embedded_model_loads_then_reports_what_runs(joyimage: Joyimage) -> None:
    found = json.loads(joyimage("doctor", "--json").out)["acceleration"]

    assert found == report(load_pipeline("tiny").pipe).to_dict()
    lines = joyimage("doctor").out.splitlines()
    for name in ("ops", "attention backend", "offload"):
        assert any(line.split("  ")[0] != name and f" {name} " in line for line in lines)


def test_doctor_when_the_embedded_model_cannot_be_loaded_then_says_why(
    joyimage: Joyimage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_model: str) -> None:
        raise CheckpointError("A file is missing.")

    monkeypatch.setattr("joyimage.loading.load_pipeline", fail)

    assert json.loads(joyimage("doctor", "--json").out)["acceleration"] == {"error": "A file is missing."}
    assert "cannot be loaded: A file is missing." in joyimage("doctor").out


@pytest.mark.parametrize(
    ("device", "device_gb", "memory_gb", "fits", "use"),
    [
        ("cpu", 0, 500, "The tiny model", "--model tiny"),
        ("cuda", 141, 500, "all parts", "-o OUTPUT"),
        ("cuda", 80, 32, "all parts", "-o OUTPUT"),  # the weights go straight to the device
        ("xpu", 80, 32, "The tiny model", "--model tiny"),
        ("cuda", 48, 128, "one part", "--offload model"),
        ("cuda", 24, 128, "a few layers", "--offload group"),
        ("cuda", 24, 32, "The tiny model", "--model tiny"),
    ],
)
def test_advice_when_memory_differs_then_what_fits(
    device: str, device_gb: float, memory_gb: float, fits: str, use: str
) -> None:
    said_fits, said_use = advise(device, device_gb, memory_gb)

    assert fits in said_fits
    assert said_use.startswith("joyimage edit IMAGE PROMPT -o OUTPUT")
    assert said_use.endswith(use)


def test_doctor_when_json_then_sizes_are_numbers(joyimage: Joyimage) -> None:
    found = json.loads(joyimage("doctor", "--json").out)

    assert found["memory"]["total"] >= found["memory"]["free"] > 0
    assert found["disk"]["free"] > 0
    assert list(found["devices"])[-1] == "cpu"
    assert found["device"].startswith(next(iter(found["devices"])))
