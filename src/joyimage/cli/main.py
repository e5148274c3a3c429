"""The `joyimage` command; each subcommand loads when it is called."""

from __future__ import annotations

import sys

from cyclopts import App

from joyimage import __version__
from joyimage.cli.console import EXIT_INTERRUPTED, fail

app = App(
    name="joyimage",
    help="Edit pictures by instruction with JoyAI-Image-Edit.",
    version=__version__,
    suppress_keyboard_interrupt=False,
)
app.command("joyimage.cli.edit:edit", name="edit")
app.command("joyimage.cli.spatial:move", name="move")
app.command("joyimage.cli.spatial:rotate", name="rotate")
app.command("joyimage.cli.spatial:camera", name="camera")
app.command("joyimage.cli.edit:generate", name="generate")
app.command("joyimage.cli.describe:describe", name="describe")
app.command("joyimage.cli.rewrite:rewrite", name="rewrite")
app.command("joyimage.cli.batch:batch", name="batch")
app.command("joyimage.cli.info:info", name="info")
app.command("joyimage.cli.doctor:doctor", name="doctor")
app.command("joyimage.cli.convert:convert", name="convert")
_train = App(name="train", help="Train a checkpoint.")
_train.command("joyimage.cli.train:tiny", name="tiny")
app.command(_train)
_eval = App(name="eval", help="Measure a checkpoint.")
_eval.command("joyimage.cli.evaluate:tiny", name="tiny")
app.command(_eval)


def main(tokens: list[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, 2 for bad input, 130 when interrupted."""
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
