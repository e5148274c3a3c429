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
    text = joyimage("doctor").out
    for name in found:
        assert name in text


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
        ("cpu", 0, 500, "plan 'none'", "--model tiny"),
        ("cpu", 0, 64, "plan 'none'", "--model tiny"),
        ("cpu", 0, 24, "plan 'disk'", "--model tiny"),
        ("cpu", 0, 2, "The model does not fit", "--model tiny"),
        ("cuda", 141, 500, "plan 'none'", "-o OUTPUT"),
        ("cuda", 80, 32, "plan 'none'", "-o OUTPUT"),  # the weights go straight to the device
        ("cuda", 48, 128, "plan 'model'", "--offload model"),
        ("cuda", 48, 32, "plan 'disk'", "--offload disk"),
        ("cuda", 40, 96, "plan 'model'", "--offload model"),
        ("cuda", 32, 128, "plan 'block'", "--offload block"),
        ("cuda", 24, 128, "plan 'block'", "--offload block"),
        ("cuda", 24, 32, "plan 'disk'", "--offload disk"),
        ("cuda", 16, 64, "plan 'block'", "--offload block"),
        ("cuda", 12, 64, "plan 'block'", "--offload block"),
        ("cuda", 12, 8, "plan 'disk'", "--offload disk"),
        ("cuda", 8, 64, "plan 'block'", "--offload block"),
        ("cuda", 2, 64, "The model does not fit", "--model tiny"),
        ("xpu", 80, 32, "plan 'none'", "-o OUTPUT"),
        ("mps", 48, 60, "plan 'model'", "--offload model"),
        ("mps", 24, 20, "plan 'disk'", "--offload disk"),
    ],
)
def test_advice_when_memory_differs_then_what_fits(
    device: str, device_gb: float, memory_gb: float, fits: str, use: str
) -> None:
    said_fits, said_use = advise(device, device_gb, memory_gb)

    assert fits in said_fits
    assert said_use.startswith("joyimage edit IMAGE PROMPT -o OUTPUT")
    assert said_use.endswith(use)


@pytest.mark.parametrize(
    ("device_gb", "memory_gb", "words"),
    [
        (80, 256, None),  # nothing is faster than all parts on the device
        (48, 128, "With --quantize int8: Memory plan 'none'"),
        (24, 128, "With --quantize int8: Memory plan 'model'"),
        (24, 16, "With --quantize nf4: Memory plan 'none'"),
        (8, 64, None),  # blocks are streamed, quantized or not
    ],
)
def test_advice_when_a_quantized_model_has_a_faster_plan_then_it_says_so(
    device_gb: float, memory_gb: float, words: str | None
) -> None:
    said, _ = advise("cuda", device_gb, memory_gb)

    assert ("--quantize" in said) == (words is not None)
    assert words is None or words in said


def test_advice_when_the_processor_has_no_bf16_instructions_then_it_says_how_slow_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for is_fast in (True, False):
        monkeypatch.setattr("joyimage.compat.torch.has_fast_bf16", lambda _, is_fast=is_fast: is_fast)
        assert ("very slowly" in advise("cpu", 0, 64)[0]) != is_fast


def test_doctor_when_json_then_sizes_are_numbers(joyimage: Joyimage) -> None:
    found = json.loads(joyimage("doctor", "--json").out)

    assert found["memory"]["total"] >= found["memory"]["free"] > 0
    assert found["disk"]["free"] > 0
    assert found["download"]["bf16"] == {
        "size": 50.3,
        "minutes": {"100 Mbit/s": 67.1, "1000 Mbit/s": 6.7},
    }
    assert found["download"]["int8"]["size"] == 26.7
    assert list(found["devices"])[-1] == "cpu"
    assert found["device"].startswith(next(iter(found["devices"])))
