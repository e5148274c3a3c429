"""The declaration of a field: its form, help text, aliases and command-line option."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from joyimage.edits.forms import FormError
from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from joyimage.edits.forms import Form

_LONGEST_SHOWN = 120

Group = Literal["Image", "Model", "Output", "Edit", "Advanced"]


class FieldError(InvalidInputError):
    """A field has a value that is not accepted.

    Args:
        name: Name of the field; an interface with another name for it builds its own message with `message_for`.
        value: The rejected value; None if the field is missing.
        expected: What is accepted, as the end of the sentence "expected ...".
    """

    def __init__(self, name: str, value: object, expected: str) -> None:
        self.name = name
        self.value = value
        self.expected = expected
        super().__init__(self.message_for(f"`{name}`"))

    def message_for(self, shown_name: str) -> str:
        """Return the message with the name that an interface shows."""
        if self.value is None:
            return f"{shown_name} is missing; expected {self.expected}."
        shown = repr(self.value)
        shown = shown if len(shown) <= _LONGEST_SHOWN else shown[: _LONGEST_SHOWN - 3] + "..."
        return f"{shown_name} is {shown}; expected {self.expected}."


class UnknownFieldError(FieldError):
    """A field does not exist.

    Args:
        name: The unknown field.
        known: Names of the fields that exist.
        aliases: Other accepted names.
    """

    def __init__(self, name: str, known: tuple[str, ...], aliases: tuple[str, ...] = ()) -> None:
        close = difflib.get_close_matches(name, (*known, *aliases), n=1, cutoff=0.75)
        self.hint = f"did you mean `{close[0]}`?" if close else "expected some of " + ", ".join(known) + "."
        super().__init__(name, name, "another field")

    def message_for(self, shown_name: str) -> str:
        """Return the message with the name that an interface shows."""
        return f"{shown_name} is not a field here; {self.hint}"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of an edit.

    Attributes:
        form: Reads, checks and writes its values.
        help: One or two sentences, shown by every interface.
        aliases: Other accepted names: older ones, and those of OpenAI, vLLM-Omni and SGLang.
        flag: Command-line option; "--" and the field's name if None.
        old_flags: Options of older versions that are still accepted.
        group: Heading under which help texts list the field.
        is_required: Whether an edit cannot run without it.
        is_positional: Whether it is a positional argument of the command line, in the order of the fields.
    """

    form: Form
    help: str
    aliases: tuple[str, ...] = ()
    flag: str | None = None
    old_flags: tuple[str, ...] = ()
    group: Group = "Advanced"
    is_required: bool = False
    is_positional: bool = False

    def check(self, name: str, value: Any) -> Any:
        """Return the canonical value.

        Raises:
            FieldError: The value is not accepted.
        """
        try:
            return self.form.check(value)
        except FormError as error:
            raise FieldError(name, value, error.expected) from None

    def parse(self, name: str, text: Any) -> Any:
        """Read a value from text.

        Raises:
            FieldError: The text is not accepted.
        """
        if not isinstance(text, str):
            raise FieldError(name, text, "text")
        try:
            return self.form.parse(text)
        except FormError as error:
            raise FieldError(name, text, error.expected) from None

    def flags(self, name: str) -> tuple[str, ...]:
        """Return all command-line options that set this field, the current one first."""
        usual = self.flag or _flag(name)
        return tuple(dict.fromkeys((usual, _flag(name), *self.old_flags)))


def setting(
    form: Form,
    description: str,
    *,
    aliases: tuple[str, ...] = (),
    flag: str | None = None,
    old_flags: tuple[str, ...] = (),
    group: Group | None = None,
    is_required: bool = False,
    is_positional: bool = False,
) -> Any:
    """Declare a field of an edit, None by default; arguments as in `Setting`."""
    one = Setting(
        form=form,
        help=description,
        aliases=aliases,
        flag=flag,
        old_flags=old_flags,
        group=group or ("Edit" if is_positional else "Advanced"),
        is_required=is_required,
        is_positional=is_positional,
    )
    return dataclasses.field(default=None, metadata={Setting.__name__: one})


def own_settings(cls: type[Any]) -> dict[str, Setting]:
    """Return the settings that a dataclass itself declares, by name."""
    return {
        one.name: one.metadata[Setting.__name__]
        for one in dataclasses.fields(cls)
        if Setting.__name__ in one.metadata
    }


def read_fields(
    settings: Mapping[str, Setting], data: Mapping[str, Any], how: Literal["check", "parse"]
) -> dict[str, Any]:
    """Read fields under their own names or an alias.

    Args:
        settings: Fields that exist.
        data: Values by name; None means "not given".
        how: "check" for values of JSON and Python, "parse" for text.

    Returns:
        Canonical values by field name.

    Raises:
        UnknownFieldError: A field does not exist.
        FieldError: A value is not accepted.
        InvalidInputError: A field is given under two names with two values.
    """
    names = {alias: name for name, one in settings.items() for alias in (name, *one.aliases)}
    found: dict[str, Any] = {}
    came_as: dict[str, str] = {}
    for given_name, value in data.items():
        if value is None:
            continue
        if given_name not in names:
            raise UnknownFieldError(str(given_name), tuple(settings), tuple(names))
        name = names[given_name]
        one = settings[name]
        try:
            read = one.check(name, value) if how == "check" else one.parse(name, value)
        except FieldError as error:
            raise FieldError(given_name, value, error.expected) from None
        if name in found and found[name] != read:
            raise InvalidInputError(
                f"`{came_as[name]}` and `{given_name}` mean the same and have two values; give one of them."
            )
        found[name], came_as[name] = read, given_name
    return found


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
