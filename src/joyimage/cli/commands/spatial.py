"""`joyimage move`, `rotate` and `camera`: the three spatial edits."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from joyimage.cli.options import EditOptions, load, parse_box, print_report, run_edit
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
    numbers = parse_box(box)
    record = {"command": "move", "object": object, "box": numbers, "box_form": box_form, "style": style}
    _run(image, output, options, record)


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
    _run(image, output, options, {"command": "rotate", "object": object, "view": view, "style": style})


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
    record = {"command": "camera", "yaw": yaw, "pitch": pitch, "zoom": zoom, "style": style}
    _run(image, output, options, record)


def check_record(record: dict[str, Any], picture_size: tuple[int, int]) -> None:
    """Refuse a spatial edit that can't be.

    Args:
        record: The edit as the commands record it: `command`, and the arguments of the pipeline's method.
        picture_size: Width and height of the picture in pixels.

    Raises:
        ValueError: An argument is out of range.
    """
    given = {name: value for name, value in record.items() if name not in {"command", "style"}}
    if record["command"] == "move":
        box = resolve_box(given["box"], picture_size, given.get("box_form", "xyxy"))
        edit: ObjectMove | ObjectRotation | CameraMove = ObjectMove(given["object"], box)
    elif record["command"] == "rotate":
        edit = ObjectRotation(**given)
    else:
        edit = CameraMove(**given)
    edit.prompt_in(record.get("style", "documented"))


def bind_record(record: dict[str, Any], pipe: Any, picture: Any) -> Callable[..., Any]:
    """Return the pipeline's method that runs a recorded spatial edit, its own arguments bound."""
    given = {name: value for name, value in record.items() if name != "command"}
    return partial(getattr(pipe, record["command"]), picture, **given)


def _run(image: Path, output: Path, options: EditOptions | None, record: dict[str, Any]) -> None:
    """Run one of the three.

    Args:
        image: Picture file.
        output: File to write.
        options: What all editing commands have in common.
        record: The edit; see `check_record`.

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
    check_record(record, picture.size)
    loaded = load(options)
    report = run_edit(
        loaded, options, output, bind_record(record, loaded.pipe, picture), record, source=image
    )
    print_report(report, json=options.json)
