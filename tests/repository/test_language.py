"""American spelling, and one term for one thing, in everything that a person reads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.repository import language
from tests.repository.language import DEBT_PATH, ROOT, TERMS, Term, find_terms

if TYPE_CHECKING:
    from pathlib import Path

CHECKED = ("src", "docs", "tests", "scripts", "examples", "deploy", ".github", ".ci")


def test_spelling_when_checked_then_american_and_without_mistakes() -> None:
    folders = [name for name in CHECKED if (ROOT / name).exists()]
    files = [
        path.name for path in ROOT.iterdir() if path.is_file() and path.suffix in {".md", ".toml", ".yml"}
    ]

    run = subprocess.run(
        [sys.executable, "-m", "codespell_lib", *folders, *sorted(files), "Makefile", "Dockerfile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, f"Correct the spelling (options: [tool.codespell]):\n{run.stdout}{run.stderr}"


def test_terms_when_counted_then_no_area_has_more_than_it_had() -> None:
    allowed = json.loads(DEBT_PATH.read_text(encoding="utf-8"))
    instead = {term.name: term.instead for term in TERMS}

    too_many = [
        f"{area}: {len(places)} lines with '{term}', {allowed.get(term, {}).get(area, 0)} are allowed."
        f" Write: {instead[term]}.\n  " + "\n  ".join(places)
        for (term, area), places in find_terms().items()
        if len(places) > allowed.get(term, {}).get(area, 0)
    ]

    assert not too_many, "\n".join(too_many)


@pytest.mark.parametrize(
    "text", ["a job wants\na say", "    # wants\n    # a say here", '"it wants "\n"a say"']
)
def test_term_when_wrapped_then_found(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "NOTES.md").write_text(text, "utf-8")
    monkeypatch.setattr(language, "ROOT", tmp_path)

    assert list(find_terms()) == [("wants a say", ".")]


def test_terms_when_listed_then_each_that_is_left_is_one_of_the_list() -> None:
    assert set(json.loads(DEBT_PATH.read_text(encoding="utf-8"))) <= {term.name for term in TERMS}


@pytest.mark.parametrize(
    ("name", "line", "is_found"),
    [
        pytest.param("picture", "def to_pictures(", True, id="part of a name"),
        pytest.param("picture", "    Pictures: none", True, id="capital letter"),
        pytest.param("fragment", "        kind: Of the job.", True, id="genitive"),
        pytest.param(
            "fragment", "        kind: Its media type.", True, id="what it is about is a line above"
        ),
        pytest.param("fragment", "        ImageError: Its encoding is not known.", False, id="exception"),
        pytest.param("fragment", "        kind: Kind of the job.", False, id="complete line"),
        pytest.param("go on", "def test_run_when_stopped_then_it_goes_on() -> None:", True, id="test name"),
        pytest.param("shall", "a shallow copy", False, id="inside another word"),
        pytest.param("homely classes", "made(", False, id="lower case"),
    ],
)
def test_term_when_in_a_line_then_found(name: str, line: str, is_found: bool) -> None:
    (term,) = (term for term in TERMS if isinstance(term, Term) and term.name == name)

    assert bool(re.search(term.pattern, line, re.IGNORECASE | re.MULTILINE)) is is_found
