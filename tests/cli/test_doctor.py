"""`joyimage doctor` says what is there, and advises what fits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from joyimage.cli.commands.doctor import PACKAGES, advise

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Outcome

    Joyimage = Callable[..., Outcome]


def test_doctor_when_called_then_names_this_machine(joyimage: Joyimage) -> None:
    report = json.loads(joyimage("doctor", "--json").out)

    assert set(report["versions"]) == set(PACKAGES)
    assert report["versions"]["torch"] == torch.__version__
    assert report["fits"]
    for name in report:
        assert name in joyimage("doctor").out


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
    report = json.loads(joyimage("doctor", "--json").out)

    assert report["memory"]["total"] >= report["memory"]["free"] > 0
    assert report["disk"]["free"] > 0
    assert list(report["devices"])[-1] == "cpu"
    assert report["device"].startswith(next(iter(report["devices"])))
