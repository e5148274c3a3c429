"""Private names of other libraries are used in `joyimage.compat` only, below tested upper bounds."""

from __future__ import annotations

import ast
from functools import cache
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.repository.language import ROOT

if TYPE_CHECKING:
    from pathlib import Path

import tomllib  # comes with pytest there

PACKAGE = ROOT / "src" / "joyimage"
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "compat" not in path.relative_to(PACKAGE).parts)
# Libraries whose private names are in `joyimage.compat`, or whose behavior the numbers depend on.
BOUNDED = ("accelerate", "diffusers", "peft", "pillow", "ray", "torch", "transformers")
# Operators of torch's dispatcher have no other names; `os._exit` is documented.
NAMESPACES = {"aten", "os"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def module_names(tree: ast.Module) -> set[str]:
    """Every private name that a file defines."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            names |= {node.attr} if isinstance(node.ctx, ast.Store) else set()
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


@cache
def own_names() -> frozenset[str]:
    return frozenset(name for path in SOURCES for name in module_names(ast.parse(path.read_text("utf-8"))))


def foreign_names(tree: ast.Module) -> list[str]:
    """Private names of other libraries that a file imports or uses, with their lines."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("joyimage"):
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            found += [(node.lineno, name) for name in names if is_private(name)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
            found += [(node.lineno, name) for name in names if is_private(name)]
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if owner not in {"self", "cls", *NAMESPACES} and node.attr not in own_names():
                found.append((node.lineno, node.attr))
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {"getattr", "hasattr", "setattr"}
            and isinstance(node.args[1], ast.Constant)
            and is_private(str(node.args[1].value))
            and node.args[1].value not in own_names()
        ):
            found.append((node.lineno, str(node.args[1].value)))
    return [f"line {line}: {name}" for line, name in sorted(found)]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from ray._private import ray_constants", ["line 1: _private"]),
        ("import torch._dynamo", ["line 1: _dynamo"]),
        ("module._hf_hook_of_someone", ["line 1: _hf_hook_of_someone"]),
        ("getattr(module, '_hf_hook_of_someone', None)", ["line 1: _hf_hook_of_someone"]),
        ("self._anything", []),
        ("from joyimage.model import _anything", []),
        ("aten._to_copy", []),
    ],
)
def test_private_names_when_searched_then_those_of_other_libraries_are_found(
    code: str, expected: list[str]
) -> None:
    assert foreign_names(ast.parse(code)) == expected


def test_private_names_when_of_other_libraries_then_only_in_compat() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix(): names
        for path in SOURCES
        if (names := foreign_names(ast.parse(path.read_text("utf-8"))))
    }

    assert found == {}, "Move these into joyimage/compat/LIBRARY.py, with a test in tests/compat."


def requirements(project: Path = ROOT / "pyproject.toml") -> dict[str, Requirement]:
    table = tomllib.loads(project.read_text("utf-8"))["project"]
    lines = [
        *table["dependencies"],
        *(line for extra in table["optional-dependencies"].values() for line in extra),
    ]
    return {one.name: one for one in map(Requirement, lines)}


def pinned_versions() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return {name: Version(version) for name, version in (line.split("==") for line in lines)}


@pytest.mark.parametrize("name", BOUNDED)
def test_bound_when_names_inside_a_library_are_used_then_ends_after_the_tested_version(name: str) -> None:
    specifier, tested = requirements()[name].specifier, pinned_versions()[name]
    ends = [Version(one.version) for one in specifier if one.operator == "<"]

    assert len(ends) == 1, f"{name} needs an upper bound"
    assert tested in specifier
    next_minor, next_major = Version(f"{tested.major}.{tested.minor + 1}"), Version(f"{tested.major + 1}")
    assert ends[0] in {next_minor, next_major}, f"{name} {ends[0]} is further than what was tested ({tested})"
