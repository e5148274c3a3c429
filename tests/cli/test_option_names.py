"""A message on the command line names the option that the user typed, never the library's argument."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from joyimage.cli.catalog import COMMANDS
from joyimage.cli.main import app
from joyimage.cli.option_names import name_options
from joyimage.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import CommandResult

    Joyimage = Callable[..., CommandResult]

BASES = {
    "edit": "edit IMAGE p -o out.png",
    "move": "move IMAGE cat 1,1,60,60 -o out.png",
    "rotate": "rotate IMAGE cat front -o out.png",
    "camera": "camera IMAGE --yaw 10 -o out.png",
    "generate": "generate p -o out.png",
    "describe": "describe IMAGE",
}

REJECTED = {
    "model": "",
    "device": "banana",
    "dtype": "x",
    "offload": "x",
    "transformer": "no.bin",
    "text_encoder": "no.bin",
    "vae": "no.bin",
    "quantize": "x",
    "base_size": "7",
    "gpus": "3",
    "gpu_layout": "rows",
    "server": "nope",
    "rewrite": "nope",
    "intent": "x",
    "num_inference_steps": "0",
    "guidance_scale": "x",
    "seed": "-1",
    "num_images": "0",
    "num_candidates": "99",
    "until": "3",
    "max_attempts": "0",
    "size": "7",
    "speed": "banana",
    "loras": "nope",
    "fit": "x",
    "region": "0,0,0,0",
    "feather": "x",
    "box_form": "x",
    "prompt_style": "x",
    "yaw": "999",
    "pitch": "999",
    "zoom": "x",
    "max_new_tokens": "0",
}
"""A value that each option rejects before the model is loaded."""

NEVER_REJECTED = {
    "json",
    "literal",
    "metadata",
    "overwrite",
    "close_up",
    "judge",
    "restore",
    "preserve",
    "force",
}
NEVER_REJECTED |= {"negative_prompt", "question"}
NAMED_BY_FILE = {"image", "after", "output", "like", "ref"}
POSITIONAL = {"prompt", "object", "box", "view"}


def _arguments(command: str) -> list[Any]:
    found = app
    for word in command.split():
        found = found[word]
    return [one for one in found.assemble_argument_collection() if one.parse and one.names[0] != "*"]


def _options() -> list[tuple[str, str, str]]:
    return [
        (command, name, REJECTED[argument.field_info.name])
        for command in BASES
        for argument in _arguments(command)
        for name in argument.names
        if argument.field_info.name in REJECTED
    ]


@pytest.mark.parametrize(("command", "option", "value"), _options())
def test_option_when_rejected_then_the_message_names_it_as_typed(
    joyimage: Joyimage,
    image_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    option: str,
    value: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [str(image_path) if word == "IMAGE" else word for word in BASES[command].split()]
    words = words[: words.index(option)] + words[words.index(option) + 2 :] if option in words else words

    outcome = joyimage(*words, option, value)

    assert outcome.code == 2
    message = outcome.err.splitlines()[-1]
    assert message.startswith((f"`{option}` ", f"`{option} "))
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("command", BASES)
def test_options_when_listed_then_each_is_rejected_by_a_case_or_known_not_to_be(command: str) -> None:
    names = {argument.field_info.name for argument in _arguments(command)}

    assert names <= {*REJECTED, *NEVER_REJECTED, *NAMED_BY_FILE, *POSITIONAL}


@pytest.mark.parametrize(
    "command", [one.name for one in COMMANDS if one.name != "batch" and not one.name.startswith("train ")]
)
def test_argument_when_the_library_names_it_then_the_command_names_its_option(command: str) -> None:
    for argument in _arguments(command):
        shown = argument.names[0]
        if argument.field_info.is_positional:
            shown = shown.lstrip("-").upper()

        message = name_options(f"`{argument.field_info.name}` is 7; expected 8.", app, command.split())

        assert message == f"`{shown}` is 7; expected 8."


@pytest.mark.parametrize(
    ("line", "sentence", "shown"),
    [
        ("edit a b --no-restore", "`close_up` needs `restore`.", "`--close-up` needs `--restore`."),
        ("edit a b --size 96x32", "`height` and `width` are 32 and 96 here.", "`--size` is 96x32 here."),
        ("edit a b", "Load one with `load_lora_weights`.", "Load one with `--lora`."),
        ("edit a b", "Leave out `dtype`, or call `joyimage`.", "Leave out `--dtype`, or call `joyimage`."),
        (
            "batch rows.csv -o out",
            "its `output` is 'x', and `fit` too.",
            "its `output` is 'x', and `fit` too.",
        ),
        ("batch rows.csv -o out", "`offload` is 'disk'.", "`--offload` is 'disk'."),
        ("train lora run.toml --rank 0", "`rank` is 0.", "`--rank` is 0."),
        ("train lora run.toml", "`rank` is 0.", "`rank` is 0."),
        ("move a b --box=1", "`box` is 1, 2.", "`--box` is 1, 2."),
        ("move a b 1", "`box` is 1, 2.", "`BOX` is 1, 2."),
    ],
)
def test_sentence_when_it_names_arguments_then_only_those_with_an_option_change(
    line: str, sentence: str, shown: str
) -> None:
    assert name_options(sentence, app, line.split()) == shown


def test_gpus_when_given_then_checked_once(
    joyimage: Joyimage, image_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[tuple[int, str | None, str]] = []

    def check(num: int, device: str | None, layout: str) -> None:
        checked.append((num, device, layout))

    def stop(num: int, device: str | None, layout: str) -> None:
        check(num, device, layout)
        raise DeviceError("`gpus` is checked.")

    monkeypatch.setattr("joyimage.devices.check_gpus", check)
    monkeypatch.setattr("joyimage.companions.check_gpus", stop)

    outcome = joyimage("edit", image_path, "p", "-o", tmp_path / "out.png", "--gpus", 2)

    assert checked == [(2, None, "guidance")]
    assert outcome.err.splitlines()[-1] == "`--gpus` is checked."


def test_train_tiny_when_the_device_is_unknown_then_one_line(joyimage: Joyimage, tmp_path: Path) -> None:
    outcome = joyimage("train", "tiny", tmp_path / "run", "--device", "banana")

    assert outcome.code == 2
    assert outcome.err.startswith("`--device` is 'banana'; expected cuda")
