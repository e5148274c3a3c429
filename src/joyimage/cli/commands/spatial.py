"""`joyimage move`, `rotate` and `camera`: the three spatial edits."""

from __future__ import annotations

from joyimage.cli.options import ImagePath, Like, Output, RunOptions
from joyimage.cli.run import run_command
from joyimage.cli.surface import edit_command
from joyimage.edits import Camera, Move, Rotate


@edit_command(Move)
def move(
    image: ImagePath, *, edit: Move, output: Output, like: Like = None, options: RunOptions | None = None
) -> None:
    """Move an object into a box; the box also sets its size.

    The image must not show a red box: it is drawn by this command.

    Examples:
        joyimage move shapes.png "black heart" 4,67,30,92 -o moved.png

        joyimage move more_shapes.png "green heart" 8,58,34,84 --preserve -o moved.png
    """
    run_command(edit, options, output, images=[image], like=like)


@edit_command(Rotate)
def rotate(
    image: ImagePath, *, edit: Rotate, output: Output, like: Like = None, options: RunOptions | None = None
) -> None:
    """Rotate an object to one of eight views; camera and background stay.

    Examples:
        joyimage rotate car.png car front-right -o rotated.png

        joyimage rotate car.png car left --seed 3 -o left.png
    """
    run_command(edit, options, output, images=[image], like=like)


@edit_command(Camera)
def camera(
    image: ImagePath, *, edit: Camera, output: Output, like: Like = None, options: RunOptions | None = None
) -> None:
    """Move the camera on its orbit around the object in focus, or toward and away from it.

    Examples:
        joyimage camera turntable.png --yaw 90 -o other-side.png

        joyimage camera turntable.png --zoom in -o closer.png
    """
    run_command(edit, options, output, images=[image], like=like)
