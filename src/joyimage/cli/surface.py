"""The options of an edit on the command line, made from the fields of `joyimage.edits`.

A command is a plain function that takes an edit. `edit_command` gives it one argument or option per field of that
kind of edit, so that a new field needs nothing here or in any command.
"""

from __future__ import annotations

import inspect
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from cyclopts import Group, Parameter

from joyimage.edits import FieldError
from joyimage.edits.compound_forms import Region, Size, Texts
from joyimage.edits.forms import Choice, Flag, Integer, Number, Text
from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from joyimage.edits import AnyEdit, Setting

GROUPS = {
    name: Group(name, sort_key=number)
    for number, name in enumerate(("Input", "Image", "Model", "Output", "Advanced"))
}
"""Groups of options, in the order in which help texts list them."""


def edit_command(kind: type[AnyEdit]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a command whose parameter `edit` is an edit of `kind`, as given.

    Args:
        kind: The kind of edit whose fields become arguments and options.

    Returns:
        A decorator. The decorated command has the fields in place of `edit`: positional ones behind the
        command's own positional parameters, the others as options.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(function, include_extras=True)
        own = [
            parameter.replace(annotation=hints[name])
            for name, parameter in inspect.signature(function).parameters.items()
            if name != "edit"
        ]
        fields = [_parameter(name, one) for name, one in kind.settings().items()]
        signature = inspect.Signature(sorted([*own, *fields], key=_place))

        @wraps(function)
        def command(*arguments: Any, **options: Any) -> Any:
            bound = signature.bind(*arguments, **options).arguments
            given = {name: bound.pop(name) for name in kind.settings() if bound.get(name) is not None}
            return function(edit=read_edit(kind, given), **{name: bound[name] for name in bound})

        command.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
        command.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()}
        return command

    return decorate


def read_edit(kind: type[AnyEdit], given: Mapping[str, Any]) -> AnyEdit:
    """Read an edit from what the command line holds: text, lists of text, and booleans for flags.

    Raises:
        InvalidInputError: An option has a value that is not accepted.
    """
    settings = kind.settings()
    try:
        values = {name: _value(name, settings[name], value) for name, value in given.items()}
        return kind.from_dict(values)
    except FieldError as error:
        raise InvalidInputError(describe_error(kind, error)) from None


def check_sampling(steps: int | None, guidance: float | None) -> None:
    """Check denoising steps and guidance of a command that edits by itself, by the rules of an edit.

    Raises:
        InvalidInputError: One of them is out of range.
    """
    from joyimage.edits import Edit

    given = {"num_inference_steps": steps, "guidance_scale": guidance}
    read_edit(Edit, {name: str(value) for name, value in given.items() if value is not None})


def describe_error(kind: type[AnyEdit], error: FieldError) -> str:
    """Return the message of a field's error with the name that the field has on the command line."""
    setting = kind.settings().get(error.name)
    if setting is None:
        return str(error)
    flag = setting.flags(error.name)[0]
    if setting.is_positional or not isinstance(error.value, str):
        return error.message_for(f"`{error.name.upper()}`" if setting.is_positional else f"`{flag}`")
    return f"`{flag} {error.value}` is not valid: expected {error.expected}."


def _value(name: str, setting: Setting, value: Any) -> Any:
    if isinstance(setting.form, Texts):
        return value if len(value) > 1 else setting.parse(name, value[0])
    return value if isinstance(value, bool) else setting.parse(name, value)


def _parameter(name: str, setting: Setting) -> inspect.Parameter:
    if setting.is_positional:
        # A word that begins with a dash can be given by name.
        parameter = Parameter(help=setting.help, group=GROUPS["Input"])
        return inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=None,
            annotation=Annotated[str | None, parameter],
        )
    is_flag = isinstance(setting.form, Flag)
    kind = bool if is_flag else list[str] if isinstance(setting.form, Texts) else str
    flags = setting.flags(name)
    negative = [f"--no-{flags[0][2:]}"] if is_flag else []
    parameter = Parameter(
        name=list(flags),
        help=setting.help,
        group=GROUPS[setting.group],
        negative=negative,
        metavar=_metavar(setting),
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, parameter]
    )


def _metavar(setting: Setting) -> str | None:
    """Return what help texts show in place of an option's value."""
    form = setting.form
    if isinstance(form, Choice):
        return "|".join(form.values)
    names = {
        Integer: "N",
        Number: "NUMBER",
        Size: "WIDTHxHEIGHT",
        Region: "BOX|FILE",
        Texts: "PATH[:SCALE]",
        Text: "TEXT",
    }
    return names.get(type(form))


def _place(parameter: inspect.Parameter) -> int:
    return parameter.kind.value
