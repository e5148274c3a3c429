"""A verb says what a function gives back: `check_` raises or returns nothing, `checked_` returns what it checked."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src/joyimage"
NAMED_BY_OTHERS = {
    "check_argument_for_proper_class",  # transformers
    "check_edit",  # its result is the check
    "check_inputs",  # diffusers
}


def test_checks_when_they_return_something_then_named_otherwise() -> None:
    functions = [
        (path, node)
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.name.lstrip("_").startswith("check_")
    ]
    assert len(functions) > 50
    assert [
        f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}"
        for path, node in functions
        if node.name not in NAMED_BY_OTHERS
        and node.returns is not None
        and ast.unparse(node.returns) != "None"
    ] == []
