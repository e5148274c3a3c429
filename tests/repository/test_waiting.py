"""Tests of the page wait for what they name: Playwright takes the promise of an asynchronous function for true."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "web"


def find_waits(source: str) -> list[int]:
    """Return the lines where `wait_for_function` is given an asynchronous function, as text or by a constant's name."""
    tree = ast.parse(source)
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "wait_for_function":
            script = node.args[0]
            script = constants.get(script.id, script) if isinstance(script, ast.Name) else script
            if "async" in ast.unparse(script):
                lines.append(node.lineno)
    return lines


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ('page.wait_for_function("() => 1")', []),
        ('page.wait_for_function("async () => false")', [1]),
        ('STORED = """async (id) => false"""\npage.wait_for_function(STORED, arg=1)', [2]),
        ('page.evaluate("async () => false")', []),
    ],
)
def test_waits_when_searched_then_those_for_a_promise_are_found(source: str, lines: list[int]) -> None:
    assert find_waits(source) == lines


def test_waits_when_the_function_is_asynchronous_then_none_is_playwrights() -> None:
    files = sorted(FOLDER.glob("*.py"))

    assert sum("wait_for_function" in path.read_text() for path in files) > 3
    found = {path.name: find_waits(path.read_text()) for path in files}
    assert {name: lines for name, lines in found.items() if lines} == {}
