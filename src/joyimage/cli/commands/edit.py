"""`joyimage edit` and `joyimage generate`: an image by instruction, or from text alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from joyimage.cli.options import EditOptions, GenerateOptions, ImagePath, Like, Output
from joyimage.cli.run import run_command
from joyimage.cli.surface import GROUPS, edit_command
from joyimage.edits import Edit, Generate

References = Annotated[
    list[Path] | None,
    Parameter(
        name="--ref",
        help="Further reference image, for Edit-Plus checkpoints; may be given several times.",
        group=GROUPS["Image"],
        negative=[],
    ),
]


@edit_command(Edit)
def edit(
    image: ImagePath,
    *,
    edit: Edit,
    output: Output,
    like: Like = None,
    ref: References = None,
    options: EditOptions | None = None,
) -> None:
    """Edit an image as the prompt says."""
    run_command(edit, options, output, images=[image, *(ref or [])], like=like)


@edit_command(Generate)
def generate(
    *, edit: Generate, output: Output, like: Like = None, options: GenerateOptions | None = None
) -> None:
    """Make an image from text alone."""
    run_command(edit, options, output, like=like)
