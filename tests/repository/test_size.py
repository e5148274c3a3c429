"""Functions fit on a screen, files hold one idea, and nothing is left over."""

from __future__ import annotations

import ast
import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.repository.language import ROOT

if TYPE_CHECKING:
    from pathlib import Path

MOST_LINES_OF_A_BODY = 50
MOST_LINES_OF_A_FILE = 500
CALLED_BY_OTHERS = {
    "_repr_png_": "notebooks",
    "_save_to_state_dict": "torch",
    "_unsupported_upgrade_warning": "uvicorn",
    "check_health": "Ray",
    "check_inputs": "programs written for diffusers",
    "expected_edit": "tests, which score documented examples",
    "expected_generation": "tests, which score documented examples",
    "get_delta_weight": "peft",
    "on_end": "Starlette's parser of forms",
    "load_published": "tests, as diffusers loads a folder",
    "pids": "tests, which end replicas",
    "preprocess": "programs written for diffusers",
    "process_bind_param": "SQLAlchemy",
    "process_result_value": "SQLAlchemy",
    "revert_text_encoder": "programs that take the parts of a pipeline apart",
    "revert_vae": "programs that take the parts of a pipeline apart",
    "to_original": "programs that map boxes back",
}
FOLDERS = ("src/joyimage", "scripts", "examples", "comfyui")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function without its signature and its docstring."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return 0 if not body else (body[-1].end_lineno or 0) - body[0].lineno + 1


def long_functions(path: Path) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {lines} lines"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := body_lines(node)) > MOST_LINES_OF_A_BODY
    ]


def test_functions_when_counted_then_no_body_is_longer_than_a_screen() -> None:
    assert len(FILES) > 300
    assert [function for path in FILES for function in long_functions(path)] == []


def test_files_when_counted_then_none_is_as_long_as_two_ideas() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in FILES}

    assert {
        path.relative_to(ROOT).as_posix(): lines
        for path, lines in lengths.items()
        if lines > MOST_LINES_OF_A_FILE
    } == {}


@pytest.mark.parametrize(("statements", "is_found"), [(50, False), (51, True)])
def test_function_when_around_the_limit_then_only_the_longer_one_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statements: int, is_found: bool
) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    path = tmp_path / "module.py"
    path.write_text('def f():\n    """Do.\n\n    More.\n    """\n' + "    x = 1\n" * statements, "utf-8")

    assert long_functions(path) == (["module.py:1 f: 51 lines"] if is_found else [])


def test_functions_when_searched_then_each_is_used_by_the_package_or_known_to_others() -> None:
    texts = [path.read_text("utf-8") for path in (ROOT / "src" / "joyimage").rglob("*.py")]
    words = Counter(word for text in texts for word in re.findall(r"\w+", text))
    defined = Counter(
        node.name
        for text in texts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.decorator_list
        and not re.fullmatch(r"__\w+__", node.name)
    )

    unused = {name for name, number in defined.items() if words[name] == number}

    assert unused == set(CALLED_BY_OTHERS)
