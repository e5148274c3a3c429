"""How help pages show options: the values of every command's options have the same names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cyclopts import Group

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions

SUBCOMMANDS = Group("Commands")
"""Heading of the commands of a command, such as those of `joyimage train`."""

_VALUES = {"STR": "TEXT", "INT": "N", "FLOAT": "NUMBER"}
"""Name of a Python type → what a help page shows in place of a value."""


class HelpPages:
    """Lays help pages out as cyclopts does. Formatters are imported for the first page: only a help page needs rich."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print one panel of options or commands.

        Args:
            console: Where to print.
            options: Width and style of the console.
            panel: Heading, and one entry per option or command.
        """
        from attrs import evolve
        from cyclopts.help import DefaultFormatter

        entries = [
            entry if entry.metavar is None else evolve(entry, metavar=name_value(entry.metavar))
            for entry in panel.entries
        ]
        DefaultFormatter()(console, options, panel.copy(entries=entries))

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """Print the line that shows how a command is called.

        Args:
            console: Where to print.
            options: Width and style of the console.
            usage: The line, without "Usage:".
        """
        from cyclopts.help import DefaultFormatter
        from rich.text import Text

        DefaultFormatter().render_usage(console, options, Text(name_value(str(usage))))


def shown_default(value: Any) -> Any:
    """Return what a help page shows of a default; None shows nothing, as for options that are off."""
    if value is None or value is False:
        return None
    return "yes" if value is True else value


def name_value(shown: str) -> str:
    """Return what stands for an option's value, such as "N" for "INT" and "TEXT..." for "STR..."."""
    return re.sub(r"\b(STR|INT|FLOAT)\b", lambda found: _VALUES[found[1]], shown)
