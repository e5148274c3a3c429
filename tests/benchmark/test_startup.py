"""`joyimage bench --startup`: what is measured and how it is shown. No test asserts a time."""

from __future__ import annotations

import json

import pytest

from joyimage.benchmark.startup import StartupTime, measure_startup, to_startup_table
from joyimage.cli.main import main
from joyimage.errors import InvalidInputError


def test_bench_when_startup_is_asked_for_then_prints_each_program(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["bench", "--startup", "--rounds", "1", "--json"])

    results = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert code == 0
    assert list(results) == ["import torch", "import joyimage", "joyimage --help", "joyimage edit"]
    assert all(one["cpu_s"] > 0 for one in results.values())
    assert results["import torch"]["first_output_s"] is None
    assert results["joyimage edit"]["first_output_s"] <= results["joyimage edit"]["wall_s"]


def test_startup_table_when_printed_then_names_the_bound() -> None:
    programs = (("import torch", 1.5, None), ("joyimage edit", 3.25, 0.25))

    table = to_startup_table(
        [StartupTime(name=name, cpu_s=cpu, wall_s=4.0, first_output_s=first) for name, cpu, first in programs]
    )

    assert "| `joyimage edit` | 3.25 | 4.00 | 0.25 s |" in table
    assert table.endswith("one second: 4.00 CPU seconds.")


def test_measure_startup_when_rounds_is_0_then_names_the_argument() -> None:
    with pytest.raises(InvalidInputError, match="`rounds` is 0; expected 1 or more"):
        measure_startup(0)
