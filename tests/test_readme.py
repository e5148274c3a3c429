"""What README and docs show works as shown."""

from __future__ import annotations

import re
from pathlib import Path

ROOT_PATH = Path(__file__).parents[1]
PAGES = [ROOT_PATH / "README.md", *sorted((ROOT_PATH / "docs").rglob("*.md"))]


def test_make_targets_when_named_then_exist() -> None:
    makefile = (ROOT_PATH / "Makefile").read_text("utf-8")

    found = [
        (page, target)
        for page in PAGES
        for target in re.findall(r"^make ([a-z-]+)", page.read_text("utf-8"), re.M)
    ]
    assert found
    for page, target in found:
        assert re.search(rf"^{target}:", makefile, re.M), f"{page}: make {target}"
