"""The `joyimage` command; each subcommand loads when it is called."""

from __future__ import annotations

import sys

from cyclopts import App

from joyimage import __version__
from joyimage.cli.console import EXIT_INTERRUPTED, fail
from joyimage.compat.deferred_imports import defer_optional_imports

app = App(
    name="joyimage",
    help="Edit pictures by instruction with JoyAI-Image-Edit.",
    version=__version__,
    suppress_keyboard_interrupt=False,
)
# Said here as well as in the functions, so that `joyimage --help` needn't load them.
COMMANDS = {
    "edit": ("edit:edit", "Edit a picture as the prompt says."),
    "move": ("spatial:move", "Move an object to a place, with the size that it shall have there."),
    "rotate": ("spatial:rotate", "Turn an object to one of eight views; camera and background stay."),
    "camera": ("spatial:camera", "Move the camera on its orbit around the object in focus."),
    "generate": ("edit:generate", "Make a picture from text alone."),
    "describe": ("describe:describe", "Answer a question about a picture, with the checkpoint's Qwen3-VL."),
    "rewrite": ("rewrite:rewrite", "Put a prompt into fuller words; those of spatial edits stay."),
    "batch": ("batch:batch", "Run many edits; after an interruption it goes on where it was."),
    "serve": ("serve:serve", "Serve a checkpoint to OpenAI's clients and to other commands' --server."),
    "ui": ("ui:ui", "Start a server on this machine and open its page in the browser."),
    "info": ("info:info", "Show the edit that is recorded in a picture."),
    "examples": (
        "examples:examples",
        "Write example images, descriptions of what they show, a batch, and commands to try on them.",
    ),
    "doctor": ("doctor:doctor", "Show device, memory and versions, what fits, and which settings to use."),
    "convert": ("convert:convert", "Turn a checkpoint of JD's code into a folder that --model takes."),
    "bench": ("bench:bench", "Count and time one edit by joyimage and by diffusers, on the same weights."),
}
for _name, (_function, _help) in COMMANDS.items():
    app.command(f"joyimage.cli.commands.{_function}", name=_name, help=_help)
_train = App(name="train", help="Train a checkpoint.")
_train.command("joyimage.cli.commands.train:tiny", name="tiny")
app.command(_train)
_eval = App(name="eval", help="Measure a checkpoint.")
_eval.command("joyimage.cli.commands.evaluate:tiny", name="tiny")
app.command(_eval)
app.register_install_completion_command()


def main(tokens: list[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, 2 for bad input, 130 when interrupted."""
    if tokens is None:
        # This process is the command's own, so its import system is ours to change.
        defer_optional_imports()
    try:
        result = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except (ValueError, TypeError, OSError) as error:
        return fail(str(error))
    except Exception as error:
        if type(error).__module__.startswith("cyclopts"):
            return fail(str(error).strip())
        raise
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
