"""Name the options of a command in messages of the library, which knows them as arguments."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cyclopts import App

_NAME = re.compile(r"`([a-z][a-z0-9_]*)`")
_SIZE = re.compile(r"`height` and `width` are (\d+) and (\d+)")

_OTHER_NAMES = {
    "quantization": "quantize",
    "num_images_per_prompt": "num_images",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "load_lora_weights": "loras",
}
"""Names in the library for which a command's parameter has another name."""


def name_options(message: str, app: App, tokens: Sequence[str]) -> str:
    """Return a message with the options that a command has in place of the library's arguments.

    Args:
        message: Such as "`base_size` is 7; expected 96 or 128."
        app: The command line.
        tokens: What was typed; an option with several names is named as it stands there.

    Returns:
        Such as "`--base-size` is 7; expected 96 or 128." A name that the command has no option for stays.
    """
    chain, apps, _ = app.parse_commands(list(tokens))
    arguments: dict[str, Any] = {
        argument.field_info.name: argument
        for argument in apps[-1].assemble_argument_collection()
        if argument.parse
    }
    typed = {token.partition("=")[0] for token in tokens if token.startswith("-")}
    if "`-" in message:  # the command line's own message, which has the first name of each option
        for argument in arguments.values():
            message = re.sub(
                f"`{re.escape(argument.names[0])}(?=[ `])", f"`{_spelled(argument, typed)}", message
            )
        return message
    if chain[:1] == ("batch",):  # columns have the names of the other parameters
        from joyimage.cli.options import LOADING  # here: `joyimage --help` has no message to name options in

        arguments = {name: one for name, one in arguments.items() if name in LOADING}
    elif chain[:1] == ("train",):  # keys of its file have the same names, and the options replace them
        arguments = {name: one for name, one in arguments.items() if typed & set(one.names)}

    def option(found: re.Match[str]) -> str:
        argument = arguments.get(found[1]) or arguments.get(_OTHER_NAMES.get(found[1], ""))
        if argument is None:
            return found[0]
        if argument.field_info.is_positional and not typed & set(argument.names):
            return f"`{argument.names[0].lstrip('-').upper()}`"
        return f"`{_spelled(argument, typed)}`"

    if {"num_inference_steps", "size"} <= set(arguments):  # the size of an edit
        message = _SIZE.sub(r"`size` is \2x\1", message)
    return _NAME.sub(option, message)


def _spelled(argument: Any, typed: set[str]) -> str:
    """Return the name of an option as it was typed, or its first one; never the one that switches a flag off."""
    first, *others = argument.names
    if first in typed:
        return first
    return next((name for name in others if name in typed and not name.startswith("--no-")), first)
