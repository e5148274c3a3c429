"""The mutations of `make mutants` still fit the code, and each is told from a change that does nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from scripts.mutants import find_stale, load_mutants

if TYPE_CHECKING:
    from pathlib import Path


def test_mutants_when_listed_then_each_fits_exactly_one_place_and_names_a_test() -> None:
    assert find_stale(load_mutants()) == []


def test_mutants_when_counted_then_every_package_has_some_and_none_is_listed_twice() -> None:
    mutants = load_mutants()

    assert len(mutants) >= 60
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in mutants}) == len(mutants)
    packages = {mutant.file.split("/")[2] for mutant in mutants if mutant.file.startswith("src/joyimage/")}
    assert packages >= {
        *("benchmark", "cli", "client", "edits", "evaluation", "model", "pipeline", "serving", "spatial"),
        *("tiny", "training", "understanding", "web"),
    }
    assert all(mutant.old != mutant.new for mutant in mutants)


def test_stale_when_text_or_test_is_gone_then_each_is_named(tmp_path: Path) -> None:
    mutant = replace(load_mutants()[0], file="code.py", old="a = 1", test="test_code.py::test_it")
    (tmp_path / "code.py").write_text("a = 1\na = 1\n")

    twice, no_test = find_stale([mutant], tmp_path)

    assert "occurs 2 times" in twice
    assert "no test test_code.py::test_it" in no_test
    (tmp_path / "code.py").write_text("a = 1\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_code.py").write_text("def test_it(): ...\n")
    assert find_stale([mutant], tmp_path) == []
