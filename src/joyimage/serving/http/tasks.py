"""From a checked body and its pictures to a task in which everything is decided."""

from __future__ import annotations

import hashlib
import json
import secrets
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

from joyimage.pipeline.buckets import nearest_bucket
from joyimage.serving.http.errors import ApiError
from joyimage.serving.http.schemas import Task
from joyimage.serving.workers.preparation import SPATIAL
from joyimage.spatial import CameraMove, ObjectMove, ObjectRotation, resolve_box
from joyimage.spatial.frame import STEP, exact_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from joyimage.serving.security.uploads import Upload
    from joyimage.serving.settings import ServerSettings
    from joyimage.serving.workers.protocol import ModelInfo

_SHARE_OF_STEPS = {"low": 0.5, "medium": 0.75}
_LARGEST_SIDE = 16_384


def make_task(
    kind: str,
    body: Any,
    pictures: Sequence[Upload],
    mask: Upload | None,
    *,
    settings: ServerSettings,
    info: ModelInfo,
    has_previews: bool,
) -> Task:
    """Decide everything that a request leaves open, and refuse what can't work.

    Args:
        kind: Of the job.
        body: Of the request, the class that belongs to `kind`.
        pictures: What came with it.
        mask: The same.
        settings: Hold the limits.
        info: Of the model.
        has_previews: Whether steps shall be shown.

    Returns:
        The task.

    Raises:
        ApiError: What is wrong.
    """
    check_model(body.model, settings)
    _check_pictures(kind, len(pictures), settings, info)
    if kind == "describe":
        return Task(
            kind=kind, question=body.question, max_new_tokens=body.max_new_tokens, num_images=len(pictures)
        )
    steps = _choose_steps(body, settings, info)
    num_outputs = body.n or 1
    if num_outputs > settings.max_outputs:
        _refuse("n", num_outputs, f"at most {settings.max_outputs}")
    for name in ("prompt", "negative_prompt", "object"):
        text = getattr(body, name, None)
        if text is not None and len(text) > settings.max_prompt_chars:
            _refuse(name, f"{len(text)} characters long", f"at most {settings.max_prompt_chars}")
    if body.lora is not None and body.lora not in settings.loras:
        offered = ", ".join(settings.loras) or "none"
        raise ApiError(404, f"There is no adapter {body.lora!r} here; offered: {offered}.", param="lora")
    width, height = parse_size(body.size)
    framing = _check_framing(kind, body, has_mask=mask is not None, info=info)
    if mask is not None:
        _check_mask(mask, pictures, info)
    task = Task(
        kind=kind,
        prompt=getattr(body, "prompt", ""),
        negative_prompt=body.negative_prompt,
        num_outputs=num_outputs,
        width=width,
        height=height,
        steps=steps,
        guidance=info.guidance if body.guidance is None else body.guidance,
        seed=secrets.randbelow(2**31) if body.seed is None else body.seed,
        lora=body.lora,
        framing=framing,
        spatial=_check_spatial(kind, body, pictures),
        output_format=body.output_format or "png",
        output_compression=100 if body.output_compression is None else body.output_compression,
        num_images=len(pictures),
        has_mask=mask is not None,
        previews=has_previews,
    )
    canvas = _find_canvas(task, pictures, info)
    if canvas is not None and canvas[0] * canvas[1] > settings.max_output_pixels:
        _refuse("size", f"{canvas[0]}x{canvas[1]}", f"at most {settings.max_output_pixels:,} pixels")
    return task.model_copy(update={"canvas": canvas})


def batch_key(task: Task, settings: ServerSettings) -> str | None:
    """Return what tasks have in common that can run in one pass; None where a task runs alone."""
    if task.kind not in {"edit", "generate"} or task.canvas is None or task.has_mask:
        return None
    if 2 * task.num_outputs * task.canvas[0] * task.canvas[1] > settings.batch_pixels:
        return None
    alike = task.model_dump(
        exclude={"prompt", "negative_prompt", "seed", "output_format", "output_compression"}
    )
    text = json.dumps([alike, task.negative_prompt is None], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def check_model(name: str | None, settings: ServerSettings) -> None:
    """Refuse the name of a model that isn't served.

    Raises:
        ApiError: It isn't.
    """
    if name is not None and name not in {settings.served_name, *settings.model_aliases}:
        raise ApiError(
            404,
            f"There is no model {name!r} here; `model` may be {settings.served_name!r} or left out.",
            code="model_not_found",
            param="model",
        )


def parse_size(size: str | None) -> tuple[int | None, int | None]:
    """Read "WIDTHxHEIGHT" or "auto".

    Returns:
        Width and height; None for both where the picture decides.

    Raises:
        ApiError: It is neither.
    """
    if size is None or size == "auto":
        return None, None
    width, _, height = size.partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        _refuse("size", repr(size), "'auto' or WIDTHxHEIGHT, such as 1024x768")
    if not (1 <= int(width[:9]) <= _LARGEST_SIDE and 1 <= int(height[:9]) <= _LARGEST_SIDE):
        _refuse("size", repr(size), f"sides from 1 to {_LARGEST_SIDE}")
    return int(width), int(height)


def _choose_steps(body: Any, settings: ServerSettings, info: ModelInfo) -> int:
    """Return the number of steps: the wish, or the share of the default that `quality` asks for.

    Raises:
        ApiError: It is too large.
    """
    if body.steps is None:
        return max(1, round(info.steps * _SHARE_OF_STEPS.get(body.quality or "auto", 1.0)))
    if body.steps > settings.max_steps:
        _refuse("steps", body.steps, f"at most {settings.max_steps}")
    return body.steps


def _check_pictures(kind: str, number: int, settings: ServerSettings, info: ModelInfo) -> None:
    """Refuse the wrong number of pictures.

    Raises:
        ApiError: It is wrong.
    """
    if kind == "generate":
        return
    if number == 0:
        raise ApiError(400, "`image` is missing; expected a picture.", code="missing_image", param="image")
    if number > settings.max_images:
        _refuse("image", f"{number} pictures", f"at most {settings.max_images}")
    takes_several = kind == "describe" or (kind == "edit" and info.takes_several)
    if number > 1 and not takes_several:
        raise ApiError(
            400,
            f"`image` holds {number} pictures; this model takes one. A server with an Edit-Plus checkpoint "
            "takes several.",
            code="too_many_images",
            param="image",
        )


def _check_framing(kind: str, body: Any, *, has_mask: bool, info: ModelInfo) -> dict[str, Any]:
    """Return how the picture goes in and comes out.

    Raises:
        ApiError: A field would have no effect.
    """
    if kind == "generate":
        return {}
    if body.masks and not (body.preserve or has_mask):
        raise ApiError(
            400,
            "`masks` is true, and there will be none without `preserve` or `mask`; give one of these.",
            code="invalid_value",
            param="masks",
        )
    framing = {"fit": body.fit, "restore": body.restore, "preserve": body.preserve}
    if kind == "edit" and info.takes_several:
        for name, value in framing.items():
            if value != type(body).model_fields[name].default:
                raise ApiError(400, f"`{name}` can't be used with this model; leave it out.", param=name)
        return {}
    return framing


def _check_mask(mask: Upload, pictures: Sequence[Upload], info: ModelInfo) -> None:
    """Refuse a mask that doesn't belong to the picture.

    Raises:
        ApiError: It doesn't.
    """
    if info.takes_several:
        raise ApiError(400, "`mask` can't be used with this model; leave it out.", param="mask")
    if mask.size != pictures[0].size:
        _refuse(
            "mask", "{} x {} pixels".format(*mask.size), "{} x {}, as the image".format(*pictures[0].size)
        )


def _check_spatial(kind: str, body: Any, pictures: Sequence[Upload]) -> dict[str, Any]:
    """Return the arguments of a spatial edit, checked against the picture.

    Raises:
        ApiError: One of them can't be.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice for people at a prompt, not for servers
        try:
            if kind == "move":
                edit: Any = ObjectMove(body.object, resolve_box(body.box, pictures[0].size, body.box_form))
                arguments = {"object": body.object, "box": body.box, "box_form": body.box_form}
            elif kind == "rotate":
                edit = ObjectRotation(body.object, body.view)
                arguments = {"object": body.object, "view": body.view}
            elif kind == "camera":
                edit = CameraMove(body.yaw, body.pitch, body.zoom)
                arguments = {"yaw": body.yaw, "pitch": body.pitch, "zoom": body.zoom}
            else:
                return {}
            edit.prompt_in(body.wording)
        except (ValueError, OverflowError) as error:
            raise ApiError(400, str(error), code="invalid_value") from None
    return {**arguments, "style": body.wording}


def _find_canvas(task: Task, pictures: Sequence[Upload], info: ModelInfo) -> tuple[int, int] | None:
    """Return width and height that the model will work at.

    Raises:
        ApiError: The wish can't be met.
    """
    if info.takes_several and task.kind not in SPATIAL:  # any size that 16 divides
        if task.width is None or task.height is None:
            return None
        _check_divisible(task.width, task.height)
        return task.width, task.height
    if task.framing.get("fit") == "exact":
        if task.width is None or task.height is None:
            return exact_size(pictures[0].size, info.base_size)
        _check_divisible(task.width, task.height)
        return task.width, task.height
    if task.width is not None and task.height is not None:
        height, width = nearest_bucket(task.height, task.width, info.base_size)
    elif pictures:
        height, width = nearest_bucket(pictures[0].size[1], pictures[0].size[0], info.base_size)
    else:
        height, width = nearest_bucket(info.base_size, info.base_size, info.base_size)
    return width, height


def _check_divisible(width: int, height: int) -> None:
    """Refuse sides that patches don't cover.

    Raises:
        ApiError: They don't.
    """
    if width % STEP or height % STEP:
        _refuse("size", f"{width}x{height}", f"multiples of {STEP}")


def _refuse(param: str, came: object, expected: str) -> NoReturn:
    """Refuse a value.

    Raises:
        ApiError: Always.
    """
    raise ApiError(400, f"`{param}` is {came}; expected {expected}.", code="invalid_value", param=param)
