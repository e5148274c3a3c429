"""Free words that ask for a spatial edit become that edit, and are shown before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from joyimage.cli.console import notify
from joyimage.edits import Edit, Move
from joyimage.errors import InvalidInputError
from joyimage.understanding.intent import parse, show

if TYPE_CHECKING:
    from PIL.Image import Image

    from joyimage.cli.runners import Runner
    from joyimage.edits import AnyEdit


def understood(edit: AnyEdit, runner: Runner | None = None, image: Image | None = None) -> AnyEdit:
    """Return the spatial edit that an edit's prompt asks for, or the edit itself.

    Args:
        edit: The edit, as given.
        runner: What runs edits, and may read the prompt where no rule knows it; None: rules alone.
        image: The image, for the runner.

    Raises:
        InvalidInputError: The prompt asks for a move, which needs a box.
    """
    if not isinstance(edit, Edit) or edit.prompt is None or edit.intent == "literal" or edit.close_up:
        return edit
    found = parse(edit.prompt)
    if found is None and runner is not None and image is not None:
        found = runner.understand(edit.prompt, image)
    if found is None:
        return edit
    if isinstance(found, Move):
        raise InvalidInputError(
            f"The prompt asks to move the {found.object}, which needs a box that says where to: `joyimage move IMAGE "
            f'"{found.object}" LEFT,TOP,RIGHT,BOTTOM`. To edit by the prompt as it is, give `--literal`.'
        )
    notify(f"Understood: {show(found)}. `--literal` edits by the prompt as it is.")
    return found.filled_from(edit)
