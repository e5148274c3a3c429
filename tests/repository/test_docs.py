"""The documentation builds, its links lead somewhere, and the files and names that it mentions exist."""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from typing import TYPE_CHECKING

import pytest
from markdown.extensions.toc import slugify

from tests.repository.language import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / ".github").rglob("*.md"), *DOCS.rglob("*.md")])
SOURCE_FOLDERS = (ROOT, ROOT / "src", ROOT / "src" / "joyimage", ROOT / "src" / "joyimage" / "web" / "static")
PACKAGE = ROOT / "src" / "joyimage"
# Files that a user or a run makes, and routes of the server.
NOT_IN_THE_PROJECT = {"DEVICE.md", "adapter_config.json", "/openapi.json", "model_index.json", "config.json"}


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


@cache
def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text("utf-8")), re.MULTILINE)
    plain = [re.sub(r"[`*]|\[(.*?)\]\(.*?\)", r"\1", heading) for heading in headings]
    if page.is_relative_to(DOCS):
        return {slugify(heading, "-") for heading in plain}
    # GitHub keeps one dash for every space.
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_when_relative_then_file_and_heading_exist(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text("utf-8"))):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            broken.append(f"{link}: no such file")
        elif anchor and anchor not in anchors(target):
            broken.append(f"{link}: no such heading")
        elif page.is_relative_to(DOCS) and not target.is_relative_to(DOCS):
            broken.append(f"{link}: not part of the documentation site; name the file as code instead")

    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_when_named_as_code_then_exist(page: Path) -> None:
    folders = (page.parent, *SOURCE_FOLDERS)
    named = re.findall(
        r"`([\w./-]+\.(?:py|md|js|css|html|toml|ya?ml))`", without_code(page.read_text("utf-8"))
    )
    if name_of(page) == "docs/architecture.md":
        folders = (*folders, PACKAGE / "pipeline")

    missing = [
        name
        for name in named
        if name not in NOT_IN_THE_PROJECT and not any((folder / name).exists() for folder in folders)
    ]

    assert missing == []


def test_folders_when_the_architecture_page_names_them_then_exist() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")

    named = set(re.findall(r"`([\w/]+/)`", text))

    assert len(named) >= 1
    assert [
        name for name in sorted(named) if not any((root / name).exists() for root in SOURCE_FOLDERS)
    ] == []


def architecture_layers() -> list[set[str]]:
    """Return the layers that the architecture page draws: before the first two spaces of each line."""
    drawn = re.findall(
        r"^```\n(.*?)^```", (DOCS / "architecture.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )[0]
    return [set(re.split(r" {2,}", line)[0].split(" | ")) for line in drawn.splitlines()]


def test_layers_when_drawn_then_those_that_the_linter_checks() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (checked,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")

    names = [set(re.findall(r"joyimage\.([\w.]+)", layer)) for layer in checked]

    assert architecture_layers() == names


def test_packages_when_listed_then_each_exists_and_none_is_missing() -> None:
    table = (DOCS / "architecture.md").read_text("utf-8").partition("## Packages")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| (?:`([^`]+)`)? ?\|$", table, re.MULTILINE)
    packages = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("__init__.py")} - {"."}
    modules = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}

    assert sorted(name for name, _, _ in rows) == sorted(packages | modules)
    assert [first for name, _, first in rows if first and not first.startswith(f"{name}/")] == []
    assert [name for name, _, first in rows if bool(first) is name.endswith(".py")] == []


def test_changelog_when_read_then_its_entries_are_dated_and_the_newest_stand_first() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    kinds = re.findall(r"^### (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)

    days = [datetime.date.fromisoformat(heading.partition(" (")[0]) for heading in headings]
    assert days == sorted(set(days), reverse=True)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_site_when_built_strictly_then_has_every_page(tmp_path: Path) -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",
            "--quiet",
            "--site-dir",
            str(tmp_path / "site"),
        ],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    for page in DOCS.rglob("*.md"):
        part = page.relative_to(DOCS).with_suffix("")
        folder = part.parent if part.name == "index" else part
        assert (tmp_path / "site" / folder / "index.html").is_file(), page
    reference = (tmp_path / "site" / "reference" / "index.html").read_text("utf-8")
    assert 'id="joyimage.loading.load_pipeline"' in reference
