"""What the command says where a command line cannot be parsed or a command fails, and the exit codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joyimage.cli import main as command
from joyimage.errors import CheckpointError
from tests import random_models

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import CommandResult

    Joyimage = Callable[..., CommandResult]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("edit", "`IMAGE` is missing. `joyimage edit --help` lists the arguments."),
        ("edit a.png b", "`--output` or `-o` is missing."),
        (
            "edit a.png remove the heart -o b.png",
            'Put quotes around text of several words: "remove the heart".',
        ),
        ("rotate a.png car rear left -o b.png", "`left` is one argument too many. Put quotes around"),
        (
            "move a.png car -0.1,0,1,1 -o b.png",
            "`-0.1,0,1,1` is read as an option because it starts with a minus",
        ),
        (
            "edit a.png b -o b.png --steps many",
            "`--steps many` is not valid: expected a whole number from 1 to 1000.",
        ),
        ("edit a.png b -o b.png --steps", "`--steps` has no value; write it after the option."),
        (
            "edit a.png b -o b.png --stepz 3",
            "`--stepz` is not an option of `joyimage edit`. Did you mean `--steps`?",
        ),
        ("edit a.png b -o b.png --steps 3 --steps 4", "`--steps` is given more than once; give it once."),
        ("edit -x.png b -o b.png", "For a file, write ./-x.png."),
        (
            "edit -- -x.png b -o b.png",
            "`-o` stands behind `--`, where nothing is an option; write it before.",
        ),
        ("serve --model nope", "There is no folder nope: expected a checkpoint folder"),
        ("edti", "`edti` is not a command. Did you mean `edit`? `joyimage --help` lists the commands."),
    ],
)
def test_command_line_when_it_cannot_be_parsed_then_says_what_to_write(
    joyimage: Joyimage, line: str, message: str
) -> None:
    outcome = joyimage(*line.split())

    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(words=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=4))
def test_command_line_when_random_then_never_a_bug(joyimage: Joyimage, words: list[str]) -> None:
    outcome = joyimage("info", *words)

    assert outcome.code in {0, 2}
    assert "Internal error" not in outcome.err


@pytest.mark.parametrize("line", ["help", "help edit"])
def test_help_when_asked_as_a_command_then_as_the_option(joyimage: Joyimage, line: str) -> None:
    assert joyimage(*line.split()).out == joyimage(*line.split()[1:], "--help").out


def test_version_when_asked_in_short_then_as_the_long_option(joyimage: Joyimage) -> None:
    assert joyimage("-V").out == joyimage("--version").out != ""


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let `joyimage info` raise an error."""
    from joyimage.cli.commands import info

    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr(info, "read_made", fail)


def test_command_when_a_bug_then_one_line_with_exit_1_and_traceback_only_with_debug(
    joyimage: Joyimage, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, KeyError("lost"))

    outcome = joyimage("info", "a.png")
    debugged = joyimage("info", "a.png", "--debug")

    assert (outcome.code, debugged.code) == (1, 1)
    assert outcome.err.startswith("Internal error: KeyError: 'lost'. This is a bug.")
    assert "--debug" in outcome.err
    assert outcome.err.count("\n") == 1
    assert "Traceback" in debugged.err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (CheckpointError("weights\nare gone"), "weights are gone\n"),
        (FileNotFoundError(2, "No such file or directory", "a.png"), "a.png: No such file or directory.\n"),
        (OSError(28, "No space left on device"), "The output can't be written: no space left on device.\n"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB."), "Out of memory. Try fewer"),
    ],
)
def test_command_when_the_error_is_for_the_user_then_one_line_with_exit_2_and_debug_shows_the_traceback(
    joyimage: Joyimage, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    failing(monkeypatch, error)

    outcome = joyimage("info", "a.png")

    assert outcome.code == 2
    assert outcome.err.startswith(message)
    assert outcome.err.count("\n") == 1
    assert "Traceback" in joyimage("info", "a.png", "--debug").err


def test_command_when_interrupted_then_says_so_with_exit_130(
    joyimage: Joyimage, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, KeyboardInterrupt())

    outcome = joyimage("info", "a.png")

    assert (outcome.code, outcome.err) == (130, "Interrupted.\n")


def test_subcommands_when_listed_then_each_has_a_description(joyimage: Joyimage) -> None:
    for group in ("train", "eval"):
        tiny = command.app[group]["tiny"]
        assert tiny.help
        assert tiny.help in " ".join(joyimage(group, "--help").out.replace("│", " ").split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has an accelerator")
@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "banana"])
def test_edit_when_the_device_does_not_exist_then_one_line_and_no_model_is_loaded(
    joyimage: Joyimage, image_path: Path, tmp_path: Path, device: str
) -> None:
    outcome = joyimage(
        "edit", image_path, "x", "-o", tmp_path / "out.png", "--device", device, "--model", "none"
    )

    lines = outcome.err.splitlines()
    assert outcome.code == 2
    if device == "banana":  # no device of any machine, so torch is not asked
        assert lines == [
            "`--device` is 'banana'; expected cuda, xpu, mps, cpu, or with an index such as cuda:1."
        ]
    else:
        assert lines[0] == "Loading none ..."
        assert f"`--device` is '{device}'" in lines[-1]
        assert "Traceback" not in outcome.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has an accelerator")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--device", "cuda:7"), "`--device` is 'cuda:7', but torch"),
        (("--vae", "missing.safetensors"), "`--vae` is missing.safetensors, which is not a file"),
    ],
)
def test_serve_when_its_model_can_not_be_loaded_as_asked_then_one_line_and_no_server(
    joyimage: Joyimage, tmp_path: Path, options: tuple[str, str], message: str
) -> None:
    outcome = joyimage("serve", "--model", "tiny", "--port", 0, "--data-dir", tmp_path / "data", *options)

    lines = outcome.err.splitlines()
    assert outcome.code == 2
    assert lines[0] == "Starting the server ..."
    assert [lines[-1].startswith(message), len(lines)] == [True, 2], outcome.err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--device", "banana"), "`--device` is 'banana'; expected cuda"),
        (("--dtype", "float8"), "`--dtype` is 'float8'; expected float32"),
        (("--offload", "ssd"), "`--offload` is 'ssd'; expected auto"),
        (("--quantize", "int3"), "`--quantize` is 'int3'; expected none"),
    ],
)
@pytest.mark.parametrize(
    "task", ["serve", "ui", "eval tiny", "eval speed", "rewrite x", "describe x.png", "edit x.png x -o y.png"]
)
def test_model_options_when_not_accepted_then_one_line_on_every_command(
    joyimage: Joyimage, task: str, options: tuple[str, str], message: str
) -> None:
    outcome = joyimage(*task.split(), *options)

    assert [outcome.code, outcome.err.count("\n")] == [2, 1]
    assert outcome.err.startswith(message)


@pytest.mark.parametrize("task", ["serve", "ui", "edit x.png x -o y.png"])
def test_base_size_when_no_trained_size_then_one_line(joyimage: Joyimage, task: str) -> None:
    outcome = joyimage(*task.split(), "--base-size", "100")

    assert [outcome.code, outcome.err.count("\n")] == [2, 1]
    assert outcome.err.startswith("`--base-size` is 100; expected one of 64")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("eval tiny --guidance nan", "`--guidance nan` is not valid"),
        ("eval speed --steps 0", "`--steps 0` is not valid"),
        ("calibrate a.png --prompt x -o y.json --steps 0", "`--steps 0` is not valid"),
        ("bench --steps -1", "`--steps -1` is not valid"),
        ("eval tiny --num 0 --model nowhere", "0; expected 1 to"),
        ("eval speed --batch-size 0 --model nowhere", "0; expected 1 or more"),
    ],
)
def test_amount_when_out_of_range_then_rejected_before_the_model_is_looked_for(
    joyimage: Joyimage, line: str, message: str
) -> None:
    outcome = joyimage(*line.split())

    assert outcome.code == 2
    assert message in outcome.err.splitlines()[-1]


def test_info_when_the_format_records_nothing_then_says_so(joyimage: Joyimage, tmp_path: Path) -> None:
    for name, hint in (("a.bmp", True), ("a.jpg", False), ("a.png", False)):
        random_models.make_image(0, 32, 32).save(tmp_path / name)

        outcome = joyimage("info", tmp_path / name)

        assert outcome.code == 2
        assert ("BMP files hold no record." in outcome.err) is hint


def test_edit_when_the_adapter_is_another_kind_of_file_then_rejected_before_loading(
    joyimage: Joyimage, image_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "style.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")

    outcome = joyimage("edit", image_path, "x", "-o", tmp_path / "out.png", "--lora", tmp_path / "style.gguf")

    assert outcome.code == 2
    assert "style.gguf is a GGUF file; expected a safetensors file." in outcome.err
    assert "Loading" not in outcome.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["doctor", "now"], "`now` is one argument too many. `joyimage doctor --help`"),
        # An option of other commands only is not suggested.
        (["batch", "a.jsonl", "-o", "b", "--no-metadata"], "`joyimage batch`. `joyimage batch --help`"),
        (["edit", "a.png", "x", "--prompt", "y", "-o", "b.png"], "`x` is one argument too many. `joyimage"),
        (
            ["edit", "--image", "a.png", "x", "-o", "b.png"],
            "`x` follows an argument that is given as an",
        ),
        (["edit", "a.png", "--", "x", "-o", "b.png"], "`-o` stands behind `--`"),
    ],
)
def test_words_when_out_of_place_then_says_which_and_no_odd_advice(
    joyimage: Joyimage, words: list[str], message: str
) -> None:
    outcome = joyimage(*words)

    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_batch_when_interrupted_between_rows_then_says_how_to_resume_and_resumes(
    joyimage: Joyimage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from joyimage.cli.commands import batch

    for name in "abc":
        random_models.make_image(ord(name), 64, 64).save(tmp_path / f"{name}.png")
    words = (
        "batch",
        tmp_path,
        "x",
        "-o",
        tmp_path / "out",
        "--model",
        "tiny",
        "--device",
        "cpu",
        "--steps",
        1,
    )
    plain, calls = batch._run_row, []

    def run_row(*arguments: Any) -> dict[str, object]:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(batch, "_run_row", run_row)

    interrupted, resumed = joyimage(*words), joyimage(*words)

    assert interrupted.code == 130
    assert interrupted.err.splitlines()[-1] == "Interrupted; run the same command again to continue."
    assert resumed.code == 0
    assert "2 made, 1 already there, 0 failed." in resumed.err
