"""Workflows and forms of the repository: valid, and about commands, files and Python versions that exist."""

from __future__ import annotations

import re
import subprocess
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tests.repository.language import ROOT

if TYPE_CHECKING:
    from pathlib import Path

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
FIELD_TYPES = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


def load(path: Path) -> dict[str, Any]:
    # YAML 1.1 reads the key `on` as true.
    return {
        "on" if key is True else key: value for key, value in yaml.safe_load(path.read_text("utf-8")).items()
    }


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_when_read_then_has_the_parts_that_github_requires(path: Path) -> None:
    workflow = load(path)

    assert {"name", "on", "jobs", "permissions"} <= set(workflow)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert {"runs-on", "steps", "timeout-minutes"} <= set(job)
    for step in steps(workflow):
        assert len({"uses", "run"} & set(step)) == 1
        assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|[0-9a-f]{40})", step.get("uses", "actions/checkout@v4"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_commands_when_parsed_then_valid_shell_and_files_exist(path: Path) -> None:
    for step in steps(load(path)):
        command = re.sub(r"\$\{\{.*?\}\}", "value", step.get("run", ":"))
        subprocess.run(["bash", "-n", "-c", command], check=True)
        name = command.split()[0]
        assert not name.startswith(".") or (ROOT / name).is_file()


def test_versions_when_tested_then_all_that_the_package_supports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    matrix = load(ROOT / ".github" / "workflows" / "test.yml")["jobs"]["versions"]["strategy"]["matrix"]
    readme = (ROOT / "README.md").read_text("utf-8")

    assert set(matrix["resolution"]) == {"lowest-direct", "highest"}
    supported = SpecifierSet(project["requires-python"])
    assert all(version in supported for version in matrix["python"])
    first, last = matrix["python"][0], matrix["python"][-1]
    assert project["requires-python"] == f">={first}"
    assert f"Python {first} to {last}" in readme
    classifiers = {f"Programming Language :: Python :: {version}" for version in matrix["python"]}
    assert classifiers <= set(project["classifiers"])


def test_citation_when_read_then_has_the_keys_that_its_format_requires() -> None:
    citation = load(ROOT / "CITATION.cff")

    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    for work in (citation, *citation["references"]):
        assert {"title", "authors", "type"} <= set(work)
        assert all(
            "name" in author or {"family-names", "given-names"} <= set(author) for author in work["authors"]
        )


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_form_when_read_then_has_the_parts_that_github_requires(path: Path) -> None:
    form = load(path)

    assert {"name", "description", "body"} <= set(form)
    names = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(names) == len(set(names)) >= 1
    for field in form["body"]:
        assert field["type"] in FIELD_TYPES
        assert field["attributes"].get("label") or field["type"] == "markdown"
