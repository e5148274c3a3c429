"""Word what is wrong with a command line: cyclopts finds it, the sentences are ours."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from cyclopts import exceptions

if TYPE_CHECKING:
    from collections.abc import Iterable

_TYPES: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
_NUMBERS = re.compile(r"-[\d.]+(,|$)")


def usage_message(error: exceptions.CycloptsError, commands: Iterable[str]) -> str:
    """Return one sentence or two for a command line that cannot be parsed: what is wrong, and what to do.

    Args:
        error: The error that cyclopts raised.
        commands: Names of all commands.
    """
    command = " ".join(("joyimage", *(error.command_chain or ())))
    see = f"`{command} --help` lists the arguments."
    if isinstance(error, exceptions.MissingArgumentError) and error.argument is not None:
        return f"{_missing(error)} {see}"
    if isinstance(error, exceptions.UnusedCliTokensError):
        return _unused(
            error.unused_tokens or [], error.root_input_tokens or [], len(error.command_chain or ()), see
        )
    if isinstance(error, exceptions.UnknownOptionError):
        option = error.token.keyword or error.token.value
        if _NUMBERS.match(option):
            return (
                f"`{option}` is read as an option because it starts with a minus sign. Box coordinates are 0"
                " or more; write other negative values as --name=VALUE."
            )
        if Path(option.lstrip("-")).suffix:
            return f"`{option}` is read as an option because it starts with a minus sign. For a file, write ./{option}."
        offered = (argument for argument in error.argument_collection if argument.parse)
        known = {name for argument in offered for name in argument.names} - {option}
        return f"`{option}` is not an option of `{command}`.{_closest(option, known)} {see}"
    if isinstance(error, exceptions.UnknownCommandError):
        name = (error.unused_tokens or error.root_input_tokens or [""])[0]
        return f"`{name}` is not a command.{_closest(name, commands)} `joyimage --help` lists the commands."
    if isinstance(error, exceptions.CoercionError) and error.token is not None:
        return _wrong_type(error, error.token)
    if isinstance(error, exceptions.ArgumentOrderError):
        return (
            f"`{error.token}` follows an argument that is given as an option; give it as an option too. {see}"
        )
    if isinstance(error, exceptions.RepeatArgumentError):
        return f"`{error.token.keyword or error.token.value}` is given more than once; give it once."
    return " ".join(str(error).split())


def _missing(error: exceptions.MissingArgumentError) -> str:
    argument: Any = error.argument
    tokens = list(error.root_input_tokens or [])
    options = tokens[: tokens.index("--")] if "--" in tokens else tokens  # behind it nothing is an option
    given = [name for name in argument.names if name in options]
    if given:
        return f"`{given[0]}` has no value; write it after the option."
    if late := [name for name in argument.names if name in tokens[len(options) :]]:
        return f"`{late[0]}` stands behind `--`, where nothing is an option; write it before."
    if argument.field_info.is_positional:
        return f"`{argument.name.lstrip('-').upper()}` is missing."
    names = sorted((name for name in argument.names if not name.startswith("--no-")), key=len, reverse=True)
    return f"{' or '.join(f'`{name}`' for name in names)} is missing."


def _unused(unused: list[str], given: list[str], num_command_words: int, see: str) -> str:
    """Return the message for too many words, which are usually a text without quotes."""
    listed = ", ".join(f"`{word}`" for word in unused)
    verb = "is one argument" if len(unused) == 1 else f"are {len(unused)} arguments"
    for start in range(num_command_words + 1, len(given)):
        end = start + len(unused)
        if given[start:end] == unused and _is_word(given[start - 1]):
            text = " ".join(given[start - 1 : end])
            return f'{listed} {verb} too many. Put quotes around text of several words: "{text}". {see}'
    return f"{listed} {verb} too many. {see}"


def _is_word(text: str) -> bool:
    return not text.startswith("-") and not Path(text).suffix


def _wrong_type(error: exceptions.CoercionError, token: Any) -> str:
    argument = error.argument
    name = token.keyword or ("" if argument is None else argument.name.lstrip("-").upper())
    if get_origin(error.target_type) is Literal:
        expected = ", ".join(map(str, get_args(error.target_type)))
    else:
        expected = _TYPES.get(error.target_type, getattr(error.target_type, "__name__", "another value"))
    given = f"{name} {token.value}".strip()
    return f"`{given}` is not valid: expected {expected}."


def _closest(word: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean `{matches[0]}`?" if matches else ""
