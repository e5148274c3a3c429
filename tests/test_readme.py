"""What README and docs show works as shown."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from joyimage.cli.main import main
from joyimage.tiny.worlds.scenes import generate
from tests.serving.parts import Process
from tests.test_examples_scored import PAGES as SCORED_PAGES

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT_PATH = Path(__file__).parents[1]
PAGES = [ROOT_PATH / "README.md", *sorted((ROOT_PATH / "docs").rglob("*.md"))]
# Trains or converts for hours, or needs a checkpoint that no test has.
NOT_RUN = ("joyimage train", "joyimage convert", "joyimage eval", "jdopensource", "joyimage ui")
SERVER_URL = "http://127.0.0.1:8600"


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        if page in SCORED_PAGES:
            continue
        for number, code in enumerate(
            re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
        ):
            yield f"{page.relative_to(ROOT_PATH)}-{number}", code


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = generate("recolor", 900_001).source_image
    assert picture is not None
    picture.save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = Process(tmp_path_factory.mktemp("server"))
    yield server.url
    server.kill()


@pytest.mark.parametrize("code", [pytest.param(code, id=name) for name, code in blocks("python")])
def test_python_snippet_when_run_then_works(code: str, request: pytest.FixtureRequest) -> None:
    if SERVER_URL in code:
        code = code.replace(SERVER_URL, request.getfixturevalue("server_url"))

    exec(compile(code, "snippet", "exec"), {})


@pytest.mark.parametrize("code", [pytest.param(code, id=name) for name, code in blocks("sh")])
def test_command_when_run_then_works(code: str, tmp_path: Path) -> None:
    for line in code.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] in (["mkdir"], ["cp"]):
            subprocess.run(words, check=True)
        elif words[:4] == ["joyimage", "serve", "--model", "tiny"]:
            assert Process(tmp_path, *words[4:]).stop() in {0, -signal.SIGTERM}
        elif words[:1] == ["joyimage"] and not any(part in line for part in NOT_RUN):
            assert (
                main([*words[1:], *(["--device", "cpu"] if words[1] not in {"info", "doctor"} else [])]) == 0
            ), line


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
