"""`joyimage move`, `rotate` and `camera`: the three spatial edits."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from joyimage.cli.options import EditOptions, load, print_report, run_edit
from joyimage.cli.pictures import check_output, read_picture
from joyimage.spatial import CameraMove, ObjectMove, ObjectRotation, resolve_box

if TYPE_CHECKING:
    from collections.abc import Callable

Output = Annotated[Path, Parameter(name=["--output", "-o"])]


def move(
    image: Path,
    object: str,
    box: str,
    *,
    output: Output,
    box_form: str = "xyxy",
    style: str = "documented",
    options: EditOptions | None = None,
) -> None:
    """Move an object to a place, with the size that it shall have there.

    Args:
        image: Picture file, without a red box: it is drawn.
        object: What to move, such as "blue car".
        box: Where it shall end on the picture, LEFT,TOP,RIGHT,BOTTOM in pixels, or in fractions of its sides.
        output: File to write; PNG, JPEG or WebP by its ending.
        box_form: "xyxy", or "xywh" for LEFT,TOP,WIDTH,HEIGHT.
        style: Wording, "documented" or "benchmark".
        options: What all editing commands have in common.
    """
    numbers = _parse_box(box)
    picture_size = read_picture(image).size
    ObjectMove(object, resolve_box(numbers, picture_size, box_form)).prompt_in(style)
    record = {"command": "move", "object": object, "box": list(numbers), "box_form": box_form, "style": style}
    _run(
        image,
        output,
        options,
        record,
        lambda pipe, picture: partial(pipe.move, picture, object, numbers, box_form=box_form, style=style),
    )


def rotate(
    image: Path,
    object: str,
    view: str,
    *,
    output: Output,
    style: str = "documented",
    options: EditOptions | None = None,
) -> None:
    """Turn an object to one of eight views; camera and background stay.

    Args:
        image: Picture file.
        object: What to turn, such as "car".
        view: Where its front shall point in the picture: right, front-right, front, front-left, left,
            rear-left, rear or rear-right.
        output: File to write; PNG, JPEG or WebP by its ending.
        style: Wording, "documented" or "benchmark".
        options: What all editing commands have in common.
    """
    ObjectRotation(object, view).prompt_in(style)
    record = {"command": "rotate", "object": object, "view": view, "style": style}
    _run(
        image,
        output,
        options,
        record,
        lambda pipe, picture: partial(pipe.rotate, picture, object, view, style=style),
    )


def camera(
    image: Path,
    *,
    output: Output,
    yaw: float = 0,
    pitch: float = 0,
    zoom: str = "unchanged",
    style: str = "documented",
    options: EditOptions | None = None,
) -> None:
    """Move the camera on its orbit around the object in focus.

    Args:
        image: Picture file.
        output: File to write; PNG, JPEG or WebP by its ending.
        yaw: Degrees; positive carries the camera to its right. Trained: steps of 45 from -135 to 180.
        pitch: Degrees; positive raises it to look down. Trained: steps of 15 within 75.
        zoom: "in", "out" or "unchanged".
        style: Wording, "documented" or "benchmark".
        options: What all editing commands have in common.
    """
    CameraMove(yaw, pitch, zoom).prompt_in(style)
    record = {"command": "camera", "yaw": yaw, "pitch": pitch, "zoom": zoom, "style": style}
    _run(
        image,
        output,
        options,
        record,
        lambda pipe, picture: partial(pipe.camera, picture, yaw, pitch, zoom, style=style),
    )


def _run(
    image: Path,
    output: Path,
    options: EditOptions | None,
    record: dict[str, Any],
    bind: Callable[[Any, Any], Callable[..., Any]],
) -> None:
    """Run one of the three.

    Args:
        image: Picture file.
        output: File to write.
        options: What all editing commands have in common.
        record: What only this command knows.
        bind: Gives the pipeline's method, its own arguments bound, for pipeline and picture.

    Raises:
        ValueError: `--rewrite` is given.
    """
    options = options or EditOptions()
    if options.rewrite != "none":
        raise ValueError(
            "`--rewrite` is for words of your own; a spatial edit's are never rewritten. Leave it out."
        )
    options.check()
    check_output(output)
    picture = read_picture(image)
    loaded = load(options)
    report = run_edit(loaded, options, output, bind(loaded.pipe, picture), record, source=image)
    print_report(report, json=options.json)


def _parse_box(box: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in box.split(","))
    except ValueError:
        raise ValueError(f"`box` is {box!r}; expected four numbers such as 120,80,360,300.") from None
