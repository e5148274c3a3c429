"""What `--help` and `--install-completion` show, and what they change: nothing unasked."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cyclopts import App

from joyimage.cli.catalog import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from joyimage.cli.catalog import CatalogEntry
    from joyimage.cli.completion import Shell
    from tests.cli.conftest import CommandResult

    Joyimage = Callable[..., CommandResult]

EDITING = ("edit", "move", "rotate", "camera", "generate", "batch", "describe")
# Options that only some of the editing commands have.
OFFERED = {
    "--rewrite": {"edit", "generate", "batch"},
    "--metadata": {"edit", "move", "rotate", "camera", "generate"},
    "--overwrite": {"edit", "move", "rotate", "camera"},
    "--fit": {"edit", "move", "rotate", "camera", "batch"},
    "--region": {"edit", "move", "rotate", "camera", "batch"},
    "--ref": {"edit"},
    "--yaw": {"camera"},
    "--box-form": {"move"},
    "--seed": {"edit", "move", "rotate", "camera", "generate", "batch"},
    "--lora": {"edit", "move", "rotate", "camera", "generate", "batch"},
    "--max-new-tokens": {"describe"},
    "--server": set(EDITING),
    "--json": set(EDITING),
}


@pytest.fixture(scope="module", autouse=True)
def scripts_are_made_once() -> Generator[None]:
    """Keep the completion of each shell: it reads the options of every command, for nearly a second."""
    make = App.generate_completion
    made: dict[str, str] = {}

    def generate(app: App, *, shell: Shell) -> str:
        if shell not in made:
            made[shell] = make(app, shell=shell)
        return made[shell]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(App, "generate_completion", generate)
        yield


def help_of(joyimage: Joyimage, monkeypatch: pytest.MonkeyPatch, *command: str) -> str:
    monkeypatch.setenv("COLUMNS", "200")
    outcome = joyimage(*command, "--help")
    assert outcome.code == 0
    return outcome.out


@pytest.mark.parametrize("command", EDITING)
def test_help_when_a_command_edits_then_groups_in_order_and_only_options_that_apply(
    joyimage: Joyimage, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    page = help_of(joyimage, monkeypatch, command)

    groups = re.findall(r"╭─ (\w+) ─", page)
    order = ["Input", "Image", "Model", "Output", "Advanced"]
    assert groups == [group for group in order if group in groups]
    assert {"Input", "Model", "Output"} <= set(groups)
    for option, commands in OFFERED.items():
        assert bool(re.search(rf"{option}\b", page)) == (command in commands), option
        if command not in commands:
            outcome = joyimage(command, option, "1", "a.png", "x")
            assert outcome.code == 2
            assert f"`{option}` is not an option" in outcome.err
            assert f"mean `{option}`" not in outcome.err


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_help_when_a_command_has_many_options_then_in_groups_of_few(
    joyimage: Joyimage, monkeypatch: pytest.MonkeyPatch, entry: CatalogEntry
) -> None:
    page = help_of(joyimage, monkeypatch, *entry.name.split())

    panels = re.split(r"╭─ ([\w ]+?) ─+╮", page)
    sizes = {
        name: len(re.findall(r"^│ [* ]*(?:[A-Z-]+ )?--", panel, re.M))
        for name, panel in zip(panels[1::2], panels[2::2], strict=True)
    }
    if sum(sizes.values()) > 12:
        assert "Parameters" not in sizes
        assert max(sizes.values()) <= 12


@pytest.mark.parametrize("command", ["edit", "move", "rotate", "camera", "generate", "batch"])
def test_help_when_a_default_is_the_checkpoints_then_its_numbers_are_there(
    joyimage: Joyimage, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    from joyimage.pipeline.settings import CheckpointSettings
    from joyimage.tiny.checkpoint import GUIDANCE_SCALE, NUM_INFERENCE_STEPS

    page = " ".join(help_of(joyimage, monkeypatch, command).replace("│", " ").split())

    published = CheckpointSettings()
    steps = (published.default_num_inference_steps, NUM_INFERENCE_STEPS)
    scales = (published.default_guidance_scale, GUIDANCE_SCALE)
    sides = (published.base_size, 96)
    for numbers in (steps, scales, sides):
        assert f"own (published: {numbers[0]}, tiny: {numbers[1]})." in page
    assert "[default: False]" not in page


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_help_when_asked_of_any_command_then_two_examples_that_can_be_parsed(
    joyimage: Joyimage, monkeypatch: pytest.MonkeyPatch, entry: CatalogEntry
) -> None:
    from joyimage.cli.main import app

    page = help_of(joyimage, monkeypatch, *entry.name.split())

    assert len(entry.examples) == 2
    for example in entry.examples:
        assert example in page
        words = shlex.split(example)
        assert words[: 1 + len(entry.name.split())] == ["joyimage", *entry.name.split()]
        app.parse_args(words[1:], exit_on_error=False, print_error=False)


@pytest.mark.parametrize("name", [*(entry.name for entry in COMMANDS), "train", "eval"])
def test_help_when_options_take_values_then_named_for_people(
    joyimage: Joyimage, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    page = help_of(joyimage, monkeypatch, *name.split())

    assert not re.findall(r"\b(?:STR|INT|FLOAT|True|False)\b|--empty-\w+|--no-json", page)
    assert "─ Other ─" not in page
    assert not re.findall(r"(?i)if not given|; default:|\bmost [a-z]+s\b", page)


def test_help_when_the_commands_are_listed_then_editing_comes_first(
    joyimage: Joyimage, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = help_of(joyimage, monkeypatch)

    assert re.findall(r"^│ (\w+)  ", page, re.M)[:3] == ["edit", "move", "rotate"]


@pytest.mark.parametrize(
    ("shell", "startup"),
    [("bash", ".bashrc"), ("zsh", ".zshrc"), ("fish", None)],
    ids=["bash", "zsh", "fish"],
)
@pytest.mark.parametrize(
    "old", [None, b"alias a=b", b"alias a=b\n\xff\n"], ids=["new", "no-newline", "binary"]
)
def test_completion_when_agreed_then_written_once_and_the_startup_file_keeps_its_content(
    joyimage: Joyimage,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    shell: str,
    startup: str | None,
    old: bytes | None,
) -> None:
    _set_home(monkeypatch, tmp_path)
    if startup and old is not None:
        (tmp_path / startup).write_bytes(old)
    _answer(monkeypatch, "y\n")

    first = joyimage("--install-completion", "--shell", shell)
    again = joyimage("--install-completion", "--shell", shell, "--yes")

    assert (first.code, again.code) == (0, 0)
    (script,) = {Path(outcome.out.strip()) for outcome in (first, again)}
    assert "joyimage" in script.read_text("utf-8")
    assert f"This writes {script}." in first.err
    if startup:
        content = (tmp_path / startup).read_bytes()
        assert content.startswith(old or b"")
        assert content.count(b"# joyimage") == 1
        assert f"This adds to {tmp_path / startup}" in first.err
        assert "This adds" not in again.err
    else:
        assert "This adds" not in first.err


@pytest.mark.parametrize("answer", ["n\n", "\n", "", None])
def test_completion_when_not_agreed_then_nothing_is_changed(
    joyimage: Joyimage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str | None
) -> None:
    _set_home(monkeypatch, tmp_path)
    _answer(monkeypatch, answer)

    outcome = joyimage("--install-completion", "--shell", "bash")

    assert outcome.code == (2 if answer is None else 0)
    assert "Nothing was changed" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_completion_when_the_user_has_no_home_then_a_file_is_asked_for(
    joyimage: Joyimage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def has_none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", has_none)

    outcome = joyimage("--install-completion", "--shell", "bash", "--yes")
    written = joyimage("--install-completion", "--shell", "bash", "-o", tmp_path / "script")

    assert (outcome.code, written.code) == (2, 0)
    assert "no home folder" in outcome.err
    assert "`--output FILE`" in outcome.err


def test_completion_when_a_file_is_named_then_only_that_one_is_written(
    joyimage: Joyimage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _set_home(monkeypatch, tmp_path)

    outcome = joyimage("--install-completion", "--shell", "zsh", "-o", tmp_path / "script")

    assert outcome.code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["script"]


def _set_home(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("HOME", str(folder))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)


def _answer(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    """Let the terminal answer; None is no terminal."""
    stream = io.StringIO(text or "")
    stream.isatty = lambda: text is not None
    monkeypatch.setattr("sys.stdin", stream)
