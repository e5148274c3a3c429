"""Every documented command and snippet runs on the example images, and what it made is what it says."""

from __future__ import annotations

import itertools
import os
import re
import secrets
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from joyimage.cli.main import main
from joyimage.tiny.examples import NAMES, write_examples
from tests.documented import EDITING_COMMANDS, Command, Scorer, split_commands
from tests.serving.parts import Process

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT_PATH = Path(__file__).parents[1]
PAGES = [
    page
    for page in (ROOT_PATH / "README.md", *sorted((ROOT_PATH / "docs").rglob("*.md")))
    if re.search(r"^```(sh|python)\n", page.read_text("utf-8"), re.M)
]
SERVER_URL = "http://127.0.0.1:8600"
BLOCK = re.compile(r"^```(?P<language>sh|python)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
# First words of lines that no test can run, each with the reason.
NOT_RUN = {
    "joyimage train": "trains for hours",
    "joyimage convert": "needs the original checkpoint",
    "joyimage eval": "edits 1,800 scenes; tests/cli/test_commands.py runs it on a few",
    "joyimage bench": "takes minutes; tests/benchmark runs it at a small size",
    "joyimage ui": "opens a browser; tests/web drives the page",
    "pip install": "changes the environment; `make wheel-test` installs the wheel",
    "python -m venv": "changes the environment",
    "git clone": "needs the network",
    "joyimage download": "needs the network: tests/cli/test_download.py",
    "python -m pytest": "tests run themselves",
    "make ": "the target exists: tests/test_readme.py",
    "source ": "a setting for the lines behind it",
    "docker ": "needs Docker",
    "export ": "a setting for the lines behind it",
}
# Commands without an image to score; their exit code and output are checked.
NOT_SCORED = ("info", "doctor", "describe", "rewrite", "examples", "serve", "version", "quantize")


@pytest.fixture(autouse=True)
def _fixed_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands without `--seed` draw one: here 0, 1, 2 and so on, so that a run is like the last."""
    numbers = itertools.count()
    monkeypatch.setattr(secrets, "randbelow", lambda _limit: next(numbers))
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = Process(tmp_path_factory.mktemp("server"), base_size=96)
    yield server.url
    server.kill()


def run_page(text: str, folder: Path, request: pytest.FixtureRequest) -> Scorer:
    """Run the blocks of a page in order in one folder that holds the example images."""
    monkeypatch = request.getfixturevalue("monkeypatch")
    monkeypatch.chdir(folder)
    write_examples(folder)
    scorer = Scorer()
    scorer.learn_examples(folder)
    for block in BLOCK.finditer(text):
        code = block["code"]
        if SERVER_URL in code:
            code = code.replace(SERVER_URL, request.getfixturevalue("server_url"))
        if block["language"] == "python":
            with scorer.watching(monkeypatch):
                exec(compile(code, "snippet", "exec"), {"__name__": "__main__"})
        else:
            for words in split_commands(code):
                run_command(words, folder, scorer)
    return scorer


def run_command(words: list[str], folder: Path, scorer: Scorer) -> None:
    """Run one line of a shell block, and score what it made."""
    line = " ".join(words)
    if any(line.startswith(start) for start in NOT_RUN) or "jdopensource/" in line:
        return
    if words[0] == "cd":
        os.chdir(words[1])  # until the test ends: `run_page` has noted where it was
        return
    if words[0] in {"mkdir", "cp"}:
        subprocess.run(words, check=True)
        return
    assert words[0] == "joyimage", f"no test knows how to run: {line}"
    if words[1].startswith("-") or words[-1] == "--help":
        assert main(words[1:]) == 0, line
        return
    if words[1] == "serve":
        server = Process(folder, *(word for word in words[2:] if word not in {"--model", "tiny"}))
        assert server.stop() in {0, -signal.SIGTERM}, line
        return
    command = Command.from_words(words)
    on_cpu = ["--device", "cpu"] if command.name in {*EDITING_COMMANDS, "describe", "rewrite"} else []
    assert main([*words[1:], *([] if "server" in command.options else on_cpu)]) == 0, line
    if command.name in EDITING_COMMANDS:
        scorer.check_command(command)
    else:
        assert command.name in NOT_SCORED, f"no test scores: {line}"
        scorer.learn_examples(folder)


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT_PATH))) for page in PAGES])
def test_page_when_its_commands_and_snippets_run_then_each_made_what_it_says(
    page: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    text = page.read_text("utf-8")

    scorer = run_page(text, tmp_path, request)

    code = "".join(block["code"] for block in BLOCK.finditer(text))
    edits = re.findall(r"^joyimage (?:edit|move|rotate|camera|generate|batch) ", code, re.M)
    edits += re.findall(r"(?<![.\w])(?:pipe|session|client\.edit|client\.plan|client\.images\.edit)\(", code)
    assert len(scorer.scored) >= len(edits)


def test_commands_of_the_examples_when_run_then_each_made_what_it_says(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    write_examples(tmp_path)

    scorer = run_page((tmp_path / "README.md").read_text("utf-8"), tmp_path, request)

    assert len(scorer.scored) >= len(NAMES) + 5  # and the rows of the batch


def test_examples_of_the_help_when_run_then_each_made_what_it_says(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from joyimage.cli.catalog import COMMANDS

    (tmp_path / "images").mkdir()
    write_examples(tmp_path)
    (tmp_path / "shapes.png").rename(tmp_path / "images" / "shapes.png")
    lines = [line for entry in COMMANDS if entry.name in EDITING_COMMANDS for line in entry.examples]

    scorer = run_page("```sh\n" + "\n".join(lines) + "\n```\n", tmp_path, request)

    assert len(scorer.scored) >= len(lines)


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ('joyimage edit shapes.png "Recolor the heart green." -o a.png', "not in its place"),
        ("joyimage camera turntable.png --yaw 45 --pitch 15 -o a.png", "another view"),
        ('joyimage rotate car.png "yellow car" left -o a.png', "another view"),
        ("joyimage frobnicate", "frobnicate"),
        ("curl http://127.0.0.1", "no test knows"),
    ],
)
def test_page_when_an_edit_fails_then_the_score_says_so(
    tmp_path: Path, request: pytest.FixtureRequest, code: str, fault: str
) -> None:
    with pytest.raises(AssertionError, match=fault):
        run_page(f"```sh\n{code}\n```\n", tmp_path, request)


def test_page_when_a_snippet_edits_then_its_results_are_scored(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    snippet = """```python
from PIL import Image
from joyimage import JoyImageEditPipeline

pipe = JoyImageEditPipeline.from_pretrained("tiny")
image = pipe.move(Image.open("shapes.png"), "black heart", (4, 67, 30, 92)).images[0]
pipe(image=image, prompt="Recolor the heart orange.", num_inference_steps=4, guidance_scale=1.0)
```
"""
    assert len(run_page(snippet, tmp_path, request).scored) == 2

    with pytest.raises(AssertionError, match="not in its place"):
        run_page(snippet.replace("4, 67, 30, 92", "4, 67, 20, 72"), tmp_path, request)
