"""The warning where the embedded model was chosen by default and cannot do what is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from joyimage.edits import SPATIAL_KINDS
from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL.Image import Image

    from joyimage.cli.options import RunOptions
    from joyimage.cli.runners import Runner
    from joyimage.edits import AnyEdit


def scope_warning(edit: AnyEdit, options: RunOptions, runner: Runner, images: Sequence[Image]) -> str | None:
    """Return a warning if the embedded model was chosen by default and the edit is out of its scope.

    Args:
        edit: The edit, as given.
        options: Options of the command.
        runner: What runs the edit.
        images: Input images.
    """
    if options.model is not None or options.server is not None or runner.model != "tiny":
        return None
    from joyimage.tiny.scope import out_of_scope

    given = edit.given()
    prompt = str(given.get("object", "")) if edit.kind in SPATIAL_KINDS else str(given.get("prompt", ""))
    found = out_of_scope(prompt, images)
    if not found:
        return None
    return (
        f"the embedded tiny model edits small drawn scenes only: {'; '.join(found)}. For photographs, give "
        "`--model` a published checkpoint (docs/tiny.md)."
    )


def check_readable(
    path: Path, image: Image, question: str | None, options: RunOptions, runner: Runner
) -> None:
    """Reject what the embedded model cannot read: its answer would be made up.

    Raises:
        InvalidInputError: The image is not a drawn scene, or the question is not in English.
    """
    if options.server is not None or runner.model != "tiny":
        return
    from joyimage.tiny.scope import unreadable

    if (problem := unreadable(image, question)) is not None:
        raise InvalidInputError(
            f"{path} can't be described: {problem}. The embedded tiny model reads drawn scenes only, and answers in "
            "English; give `--model` a published checkpoint (docs/tiny.md)."
        )
