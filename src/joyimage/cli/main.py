"""The `joyimage` command; each subcommand loads when it is called."""

from __future__ import annotations

import atexit
import errno
import gc
import io
import os
import sys
import traceback
import warnings

from cyclopts import App, CycloptsError, Group, Parameter

from joyimage import __version__
from joyimage.cli.catalog import COMMANDS, GROUPS
from joyimage.cli.completion import make_installer
from joyimage.cli.console import EXIT_BUG, EXIT_INTERRUPTED, fail, notify, plain_warnings
from joyimage.cli.help_pages import SUBCOMMANDS, HelpPages, shown_default
from joyimage.cli.option_names import name_options
from joyimage.cli.path_arguments import check_paths
from joyimage.cli.usage import usage_message
from joyimage.compat.deferred_imports import defer_optional_imports
from joyimage.compat.openmp import let_waiting_threads_sleep
from joyimage.devices import as_out_of_memory
from joyimage.errors import JoyImageError

app = App(
    name="joyimage",
    help="Edit images by instruction with JoyAI-Image-Edit.",
    version=__version__,
    version_flags=["--version", "-V"],
    help_epilogue="`joyimage COMMAND --help` shows a command's options with examples. Documentation: "
    "docs/index.md. Add `--debug` to any command to see the traceback of an error.",
    suppress_keyboard_interrupt=False,
    config=check_paths,
    help_formatter=HelpPages(),
    group_commands=Group("Other", sort_key=len(GROUPS)),
    default_parameter=Parameter(show_default=shown_default),
)


def _add_commands() -> None:
    groups = {name: Group(name, sort_key=number) for number, name in enumerate(GROUPS)}
    last = groups[GROUPS[-1]]
    parents = {
        "train": "Train a LoRA adapter, or the tiny checkpoint.",
        "eval": "Measure a checkpoint on drawn scenes.",
    }
    for number, (name, text) in enumerate(parents.items(), len(COMMANDS)):
        app.command(App(name=name, help=text, group=last, sort_key=number, group_commands=SUBCOMMANDS))
    for number, entry in enumerate(COMMANDS):
        parent, _, name = entry.name.rpartition(" ")
        function = f"joyimage.cli.commands.{entry.function}"
        # A command with subcommands is an `App` and states its examples itself.
        epilogue = {} if function.endswith(":app") else {"help_epilogue": entry.epilogue}
        if not parent:
            group = groups[entry.group]
            app.command(function, name=name, help=entry.help, group=group, sort_key=number, **epilogue)
        elif parent in parents:
            app[parent].command(function, name=name, help=entry.help, **epilogue)
    app.command(
        make_installer(app),
        name="--install-completion",
        help="Complete commands and options in the shell; shows which files change, and asks first.",
    )


_add_commands()


def main(tokens: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        tokens: The arguments; those of this process if None.

    Returns:
        The exit code: 0, 1 for a failed batch row or a bug, 2 for bad input, 130 when interrupted.
    """
    if tokens is None:
        # This process is the command's own, so its import system and environment are ours to change.
        defer_optional_imports()
        let_waiting_threads_sleep(os.environ)
        # Python would look for cycles among all objects before it ends, which takes a second once torch is loaded.
        atexit.register(gc.freeze)
        # peft says this of every adapter after the first; several adapters are what the user asked for.
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        _accept_any_path()
        tokens = sys.argv[1:]
    is_debugging = "--debug" in tokens
    # "-" is a path here, never an option; written so, the parser sees that.
    tokens = ["./-" if token == "-" else token for token in tokens if token != "--debug"]
    if tokens[:1] == ["help"]:
        tokens = [*tokens[1:], "--help"]
    try:
        with plain_warnings(lambda sentence: name_options(sentence, app, tokens), with_source=is_debugging):
            result = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except KeyboardInterrupt:
        notify("Interrupted.")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of standard output is gone, as in `joyimage info a.png | head -1`: nothing is left to say.
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - stays open until the process ends
        return EXIT_BUG
    except Exception as error:  # noqa: BLE001 - nothing escapes: it is a message for the user, or a bug
        if is_debugging:
            traceback.print_exc()
        return _report(error, tokens)
    return result if isinstance(result, int) else 0


def _accept_any_path() -> None:
    """Let standard output print paths and prompts that the terminal's encoding does not have."""
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        is_utf8 = stream.encoding.lower().replace("-", "") == "utf8"
        stream.reconfigure(errors="surrogateescape" if is_utf8 else "backslashreplace")


def _report(error: Exception, tokens: list[str]) -> int:
    """Print one line for an error that ended a command, and return the exit code."""
    if isinstance(error, CycloptsError):
        return fail(usage_message(error, app))
    if isinstance(error, JoyImageError):
        return fail(name_options(str(error), app, tokens))
    if isinstance(error, OSError) and error.filename is not None:
        return fail(f"{error.filename}: {error.strerror or error}.")
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EIO, errno.EDQUOT}:
        return fail(f"The output can't be written: {(error.strerror or str(error)).lower()}.")
    out_of_memory = as_out_of_memory(error)
    if out_of_memory is not None:
        return fail(name_options(str(out_of_memory), app, tokens))
    return fail(
        f"Internal error: {type(error).__name__}: {error}. This is a bug. Run the command again with --debug"
        " for the traceback, and report it.",
        EXIT_BUG,
    )


if __name__ == "__main__":
    sys.exit(main())
