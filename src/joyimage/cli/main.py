"""The `joyimage` command; each subcommand loads when it is called."""

from __future__ import annotations

import sys
import traceback
import warnings

from cyclopts import App, CycloptsError

from joyimage import __version__
from joyimage.cli.console import EXIT_BUG, EXIT_INTERRUPTED, fail, note
from joyimage.cli.usage import usage_message
from joyimage.compat.deferred_imports import defer_optional_imports
from joyimage.devices import as_out_of_memory
from joyimage.errors import JoyImageError

app = App(
    name="joyimage",
    help="Edit images by instruction with JoyAI-Image-Edit.",
    version=__version__,
    version_flags=["--version", "-V"],
    help_epilogue="Add --debug to any command to see the traceback of an error.",
    suppress_keyboard_interrupt=False,
)
# These texts are the first lines of the functions' docstrings. `joyimage --help` shows them without importing
# the functions.
COMMANDS = {
    "edit": ("edit:edit", "Edit an image as the prompt says."),
    "move": ("spatial:move", "Move an object into a box; the box also sets its size."),
    "rotate": ("spatial:rotate", "Rotate an object to one of eight views; camera and background stay."),
    "camera": (
        "spatial:camera",
        "Move the camera on its orbit around the object in focus, or toward and away from it.",
    ),
    "generate": ("edit:generate", "Make an image from text alone."),
    "describe": ("describe:describe", "Answer a question about an image, with the checkpoint's Qwen3-VL."),
    "rewrite": ("rewrite:rewrite", "Rewrite a prompt in more detail; spatial prompts are left unchanged."),
    "batch": (
        "batch:batch",
        "Run many edits; resumable: interrupt it at any point and rerun the same command.",
    ),
    "serve": ("serve:serve", "Serve a checkpoint to OpenAI's clients and to other commands' --server."),
    "ui": ("ui:ui", "Start a server on this machine and open its page in the browser."),
    "info": ("info:info", "Show the edit that is recorded in an image."),
    "examples": (
        "examples:examples",
        "Write example images, descriptions of what they show, a batch, and commands to try on them.",
    ),
    "doctor": ("doctor:doctor", "Show device, memory and versions, what fits, and which settings to use."),
    "bench": (
        "bench:bench",
        "Compare joyimage with diffusers on the same weights: counts and seconds of one edit.",
    ),
}
for _name, (_function, _help) in COMMANDS.items():
    app.command(f"joyimage.cli.commands.{_function}", name=_name, help=_help)
app.command(
    "joyimage.cli.commands.convert:app",
    name="convert",
    help="Convert a checkpoint of the original code to a folder for --model.",
)
_train = App(name="train", help="Train a checkpoint.")
_train.command(
    "joyimage.cli.commands.train:tiny",
    name="tiny",
    help="Train joyimage-tiny from drawn scenes, stage by stage.",
)
app.command(_train)
_eval = App(name="eval", help="Measure a checkpoint.")
_eval.command(
    "joyimage.cli.commands.evaluate:tiny",
    name="tiny",
    help="Measure how well a checkpoint edits drawn scenes that it never saw.",
)
app.command(_eval)
app.register_install_completion_command()


def main(tokens: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        tokens: The arguments; those of this process if None.

    Returns:
        The exit code: 0, 1 for a failed batch row or a bug, 2 for bad input, 130 when interrupted.
    """
    if tokens is None:
        # This process is the command's own, so its import system is ours to change.
        defer_optional_imports()
        # peft says this of every adapter after the first; several adapters are what the user asked for.
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        tokens = sys.argv[1:]
    is_debugging = "--debug" in tokens
    # "-" is a path here, never an option; written so, the parser sees that.
    tokens = ["./-" if token == "-" else token for token in tokens if token != "--debug"]
    if tokens[:1] == ["help"]:
        tokens = [*tokens[1:], "--help"]
    try:
        result = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except KeyboardInterrupt:
        note("Interrupted.")
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - nothing escapes: it is a message for the user, or a bug
        if is_debugging:
            traceback.print_exc()
        return _report(error)
    return result if isinstance(result, int) else 0


def _report(error: Exception) -> int:
    """Print one line for an error that ended a command, and return the exit code."""
    if isinstance(error, CycloptsError):
        return fail(usage_message(error, app))
    if isinstance(error, JoyImageError):
        return fail(str(error))
    if isinstance(error, OSError) and error.filename is not None:
        return fail(f"{error.filename}: {error.strerror or error}.")
    out_of_memory = as_out_of_memory(error)
    if out_of_memory is not None:
        return fail(str(out_of_memory))
    return fail(
        f"Internal error: {type(error).__name__}: {error}. This is a bug. Run the command again with --debug"
        " for the traceback, and report it.",
        EXIT_BUG,
    )


if __name__ == "__main__":
    sys.exit(main())
