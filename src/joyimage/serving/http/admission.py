"""From a request's body and images to a task in which everything is decided."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from joyimage.acceleration.presets import TURBO
from joyimage.advice import collect_advice
from joyimage.edits import Describe, Edit, Generate, Move
from joyimage.pipeline.buckets import nearest_bucket
from joyimage.serving.http.errors import ApiError
from joyimage.serving.jobs.task import Task
from joyimage.serving.workers.adapters import parse_adapter
from joyimage.spatial.frame import STEP, exact_size
from joyimage.types import ImageSize
from joyimage.understanding.intent import parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from joyimage.edits import AnyEdit, Camera, Rotate
    from joyimage.serving.http.bodies import Body
    from joyimage.serving.security.uploads import Upload
    from joyimage.serving.settings import ServerSettings
    from joyimage.serving.workers.protocol import ModelInfo

_SHARE_OF_STEPS = {"low": 0.5, "medium": 0.75}
_KINDS_WITH_MASK = ("edit",)
_FRAMING = ("fit", "restore", "preserve", "region", "feather", "close_up")


def make_task(
    body: Body,
    images: Sequence[Upload],
    mask: Upload | None,
    *,
    settings: ServerSettings,
    info: ModelInfo,
    has_previews: bool,
) -> Task:
    """Decide everything that a request leaves open, and reject what cannot work.

    Args:
        body: The request's fields.
        images: Input images.
        mask: Mask of the first image.
        settings: Limits.
        info: What is known of the model.
        has_previews: Whether previews of steps are made.

    Returns:
        The task.

    Raises:
        ApiError: What is wrong.
        InvalidInputError: A field of the edit is not accepted.
    """
    # A mask belongs to an edit by prompt; a spatial edit has none.
    edit = body.edit if mask is not None else _understand(body.edit, len(images), info)
    options = body.options
    check_model(options.model, settings)
    _check_number(edit, len(images), settings, info)
    if mask is not None and body.edit.kind not in _KINDS_WITH_MASK:
        raise ApiError(
            400,
            f"`mask` has no effect on a job of kind {body.edit.kind}; leave it out.",
            code="invalid_value",
            param="mask",
        )
    _check_limits(edit, settings)
    size = ImageSize(*images[0].size) if images else None
    notes = _notes_on(images)
    if isinstance(edit, Describe):
        resolved = edit.resolve(info.defaults(), size)
        return Task(edit=resolved, given=edit.to_dict(), num_inputs=len(images), warnings=notes)
    _check_framing(body, mask, images, info)
    defaults = info.defaults(parse_adapter(text, info.loras)[0] for text in edit.given().get("loras", ()))
    is_turbo = defaults.speed == TURBO
    _check_speed(edit, info, has_turbo=is_turbo)
    # A turbo adapter is trained for its own number of steps; a quality does not change that.
    share = 1.0 if is_turbo else _SHARE_OF_STEPS.get(options.quality or "auto", 1.0)
    steps = max(1, round(defaults.num_inference_steps * share))
    try:
        resolved = edit.resolve(replace(defaults, num_inference_steps=steps), size)
        with collect_advice():
            _ = resolved.prompt  # checks the object of a spatial edit
    except OverflowError as error:
        raise ApiError(400, str(error), code="invalid_value") from None
    target = _find_target(resolved, size, info)
    if target is not None and target.num_pixels > settings.max_output_pixels:
        _reject("size", target, f"at most {settings.max_output_pixels:,} pixels")
    return Task(
        edit=resolved,
        given=body.edit.to_dict(),
        output_format=options.output_format or "png",
        output_compression=100 if options.output_compression is None else options.output_compression,
        num_inputs=len(images),
        has_mask=mask is not None,
        has_previews=has_previews,
        target_size=target,
        warnings=(*notes, *resolved.advice(size)),
    )


def _notes_on(images: Sequence[Upload]) -> tuple[str, ...]:
    """Return what was noticed of the images when they were read."""
    names = ["`image`"] if len(images) == 1 else [f"`image[{number}]`" for number in range(len(images))]
    return tuple(f"{name}: {note}." for name, one in zip(names, images, strict=True) for note in one.notes)


def _understand(edit: AnyEdit, num_images: int, info: ModelInfo) -> AnyEdit:
    """Return the spatial edit that a prompt asks for in free words, or the edit itself.

    A move has no box here. It is rejected where the client asks for `intent`, and else runs by its prompt, as OpenAI's
    clients expect.

    Raises:
        ApiError: The prompt asks for a move.
    """
    if not isinstance(edit, Edit) or edit.intent == "literal" or edit.close_up:
        return edit
    found = None if num_images != 1 or info.takes_several else parse(edit.prompt or "")
    if found is None or (isinstance(found, Move) and edit.intent is None):
        return edit
    if isinstance(found, Move):
        raise ApiError(
            400,
            f"`prompt` asks to move the {found.object}, which needs a `box`: use POST /v1/spatial/move, or send "
            "`intent` as literal.",
            code="missing_box",
            param="prompt",
        )
    return found.filled_from(edit)


def batch_key(task: Task, settings: ServerSettings) -> str | None:
    """Return what tasks have in common that can run together; None where a task runs alone."""
    if not isinstance(task.edit, (Edit, Generate)) or task.target_size is None or task.has_mask:
        return None
    if isinstance(task.edit, Edit) and task.edit.close_up:
        return None  # its size follows from the region
    if task.edit.sampling.chooses:
        return None
    if 2 * task.num_images * task.target_size.num_pixels > settings.batch_pixels:
        return None
    alike = task.to_dict()
    own = {"prompt", "negative_prompt", "seed", "force"}
    alike["edit"] = {name: value for name, value in alike["edit"].items() if name not in own}
    for name in ("given", "output_format", "output_compression"):
        del alike[name]
    text = json.dumps([alike, task.edit.sampling.negative_prompt is None], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def check_model(name: str | None, settings: ServerSettings) -> None:
    """Reject the name of a model that isn't served.

    Raises:
        ApiError: There is no such model here.
    """
    if name is not None and name not in {settings.served_name, *settings.model_aliases}:
        raise ApiError(
            404,
            f"There is no model {name!r} here; `model` may be {settings.served_name!r} or left out.",
            code="model_not_found",
            param="model",
        )


def _check_number(edit: AnyEdit, number: int, settings: ServerSettings, info: ModelInfo) -> None:
    """Reject the wrong number of images.

    Raises:
        ApiError: It is wrong.
    """
    if not edit.needs_image:
        if number:
            raise ApiError(
                400,
                "`image` can't be used to make an image from text; send it to /v1/images/edits, or leave it out.",
                code="invalid_value",
                param="image",
            )
        return
    if number == 0:
        raise ApiError(400, "`image` is missing; expected an image.", code="missing_image", param="image")
    if number > settings.max_images:
        _reject("image", f"{number} images", f"at most {settings.max_images}")
    takes_several = isinstance(edit, Describe) or (isinstance(edit, Edit) and info.takes_several)
    if number > 1 and not takes_several:
        raise ApiError(
            400,
            f"`image` holds {number} images; this model takes one. A server with an Edit-Plus checkpoint "
            "takes several.",
            code="too_many_images",
            param="image",
        )


def _check_limits(edit: AnyEdit, settings: ServerSettings) -> None:
    """Reject what is beyond the server's limits.

    Raises:
        ApiError: A field is.
    """
    given = edit.given()
    for name in ("prompt", "negative_prompt", "object", "question"):
        text = given.get(name)
        if text is not None and len(text) > settings.max_prompt_chars:
            _reject(name, f"{len(text)} characters long", f"at most {settings.max_prompt_chars}")
    if given.get("num_inference_steps", 0) > settings.max_steps:
        _reject("steps", given["num_inference_steps"], f"at most {settings.max_steps}")
    if given.get("num_images", 0) > settings.max_outputs:
        _reject("n", given["num_images"], f"at most {settings.max_outputs}")
    if not isinstance(edit, Describe) and edit.sampling.most_candidates > settings.max_outputs:
        _reject(
            "num_candidates",
            edit.sampling.most_candidates,
            f"at most {settings.max_outputs} with all attempts",
        )
    if given.get("max_new_tokens", 0) > settings.max_new_tokens:
        _reject("max_new_tokens", given["max_new_tokens"], f"at most {settings.max_new_tokens}")
    for text in given.get("loras", ()):
        name = parse_adapter(text, tuple(settings.loras))[0]
        if name not in settings.loras:
            offered = ", ".join(settings.loras) or "none"
            raise ApiError(404, f"There is no adapter {name[:100]!r} here; offered: {offered}.", param="lora")


def _check_speed(edit: AnyEdit, info: ModelInfo, *, has_turbo: bool) -> None:
    """Reject a speed preset that the model does not have.

    Raises:
        ApiError: It does not.
    """
    speed = edit.given().get("speed")
    if speed is not None and speed not in info.speeds and not (has_turbo and speed == TURBO):
        needs = " It needs a turbo adapter." if speed == TURBO else ""
        raise ApiError(
            400,
            f"`speed` is {speed!r}; this model has {', '.join(info.speeds)}.{needs}",
            code="invalid_value",
            param="speed",
        )


def _check_framing(body: Body, mask: Upload | None, images: Sequence[Upload], info: ModelInfo) -> None:
    """Reject fields that would have no effect, and a mask that does not belong to the image.

    Raises:
        ApiError: One of them.
    """
    if isinstance(body.edit, Generate):
        return
    given = body.edit.given()
    if body.options.masks and not (given.get("preserve") or "region" in given or mask is not None):
        raise ApiError(
            400,
            "`masks` is true, but there are masks only with `preserve`, `region` or `mask`; give one of these.",
            code="invalid_value",
            param="masks",
        )
    if isinstance(body.edit, Edit) and info.takes_several:
        plain = {"fit": "crop", "restore": False, "preserve": False, "close_up": False}
        for name in _FRAMING:
            if given.get(name, plain.get(name)) != plain.get(name):
                raise ApiError(400, f"`{name}` can't be used with this model; leave it out.", param=name)
        if mask is not None:
            raise ApiError(400, "`mask` can't be used with this model; leave it out.", param="mask")
    for name in ("feather", "close_up"):
        if given.get(name) and mask is None and "region" not in given:
            raise ApiError(
                400,
                f"`{name}` is given without a region; give `region` or `mask` too.",
                code="invalid_value",
                param=name,
            )
    if given.get("close_up") and not given.get("restore"):
        raise ApiError(
            400, "`close_up` needs `restore`; give it too.", code="invalid_value", param="close_up"
        )
    if mask is None:
        return
    if "region" in given:
        raise ApiError(
            400,
            "`region` and `mask` are given; expected one of the two.",
            code="invalid_value",
            param="region",
        )
    if mask.size != images[0].size:
        _reject("mask", "{} x {} pixels".format(*mask.size), "{} x {}, as the image".format(*images[0].size))


def _find_target(
    edit: Edit | Generate | Move | Rotate | Camera, image_size: ImageSize | None, info: ModelInfo
) -> ImageSize | None:
    """Return the size that the model works at; None where it decides.

    Raises:
        ApiError: The requested size is not possible.
    """
    size = edit.sampling.size
    takes_any = info.takes_several and isinstance(edit, (Edit, Generate))
    if takes_any or (not isinstance(edit, Generate) and edit.framing.fit == "exact"):
        if size is None:
            if takes_any or image_size is None:
                return None
            return ImageSize(*exact_size(image_size.pil, info.base_size))
        if size.width % STEP or size.height % STEP:
            _reject("size", size, f"multiples of {STEP}")
        return size
    followed = size or image_size or ImageSize(info.base_size, info.base_size)
    return nearest_bucket(followed, info.base_size)


def _reject(param: str, value: object, expected: str) -> NoReturn:
    """Reject a value.

    Raises:
        ApiError: Always.
    """
    raise ApiError(400, f"`{param}` is {value}; expected {expected}.", code="invalid_value", param=param)
