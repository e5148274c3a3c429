"""`joyimage move`, `rotate` and `camera`: the three spatial edits."""

from __future__ import annotations

from joyimage.cli.options import ImagePath, Like, Output, SpatialOptions
from joyimage.cli.run import run_command
from joyimage.cli.surface import edit_command
from joyimage.edits import Camera, Move, Rotate


@edit_command(Move)
def move(
    image: ImagePath, *, edit: Move, output: Output, like: Like = None, options: SpatialOptions | None = None
) -> None:
    """Move an object into a box; the box also sets its size.

    The image must not show a red box: it is drawn by this command.
    """
    run_command(edit, options, output, images=[image], like=like)


@edit_command(Rotate)
def rotate(
    image: ImagePath,
    *,
    edit: Rotate,
    output: Output,
    like: Like = None,
    options: SpatialOptions | None = None,
) -> None:
    """Rotate an object to one of eight views; camera and background stay."""
    run_command(edit, options, output, images=[image], like=like)


@edit_command(Camera)
def camera(
    image: ImagePath,
    *,
    edit: Camera,
    output: Output,
    like: Like = None,
    options: SpatialOptions | None = None,
) -> None:
    """Move the camera on its orbit around the object in focus, or toward and away from it."""
    run_command(edit, options, output, images=[image], like=like)
