"""Plans over HTTP: from a request with several steps to one job, checked whole before any work starts."""

# Annotations are real types here: pydantic reads them.

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn

from pydantic import Field

from joyimage.edits import AnyEdit, Describe, Generate, Move, kind_of
from joyimage.errors import JoyImageError
from joyimage.pipeline.buckets import nearest_bucket
from joyimage.serving.http.admission import make_task
from joyimage.serving.http.bodies import (
    Blank,
    Body,
    EditOptions,
    OptionalInt,
    Options,
    body_schema,
    check,
    read_edit,
)
from joyimage.serving.http.budgets import Budgets
from joyimage.serving.http.errors import ApiError, to_api_error
from joyimage.serving.http.parsing import ParsedRequest, parse_value, resolve_image, text_of_image
from joyimage.serving.jobs.plan import PlanTask
from joyimage.serving.jobs.task import Task
from joyimage.serving.security.uploads import Upload
from joyimage.serving.settings import ServerSettings
from joyimage.serving.workers.protocol import ModelInfo
from joyimage.spatial.frame import Placement
from joyimage.types import ImageSize

MOST_STEPS = 20
STEP_KINDS = ("edit", "move", "rotate", "camera")
"""Kinds that make an image of an image."""


class PlanOptions(Options):
    """What a plan may hold beside its steps."""

    output_format: Annotated[Literal["png", "jpeg", "webp"] | None, Blank] = None
    output_compression: OptionalInt = Field(
        default=None, ge=0, le=100, description="Quality of JPEG and WebP. Default: 100."
    )
    quality: Annotated[Literal["low", "medium", "high", "auto", "standard", "hd"] | None, Blank] = Field(
        default=None, description="low: half the steps; medium: three quarters; all others: all of them."
    )


@dataclass(frozen=True, kw_only=True)
class PlanBody:
    """A plan's content without its image.

    Attributes:
        steps: The edits as given, in order.
        masks: Files of the masks by the number of their step, from 0; not yet looked at.
        options: What only HTTP has.
    """

    steps: tuple[AnyEdit, ...]
    masks: Mapping[int, bytes]
    options: Any

    @property
    def content(self) -> list[Any]:
        """What makes it the same request as another."""
        return [[edit.to_dict() for edit in self.steps], self.options.model_dump(mode="json")]


async def read_plan(
    parsed: ParsedRequest, settings: ServerSettings, budgets: Budgets, client: str
) -> PlanBody:
    """Read a plan's fields.

    Args:
        parsed: The request.
        settings: Limits.
        budgets: Threads for work on bytes.
        client: Name of the client.

    Raises:
        ApiError: The first field that is not accepted; of a step, it is named like `steps[2].object`.
    """
    fields = dict(parsed.fields)
    given = fields.pop("steps", None)
    if parsed.is_form and isinstance(given, str):
        given = await budgets.parsing.run(client, parse_value, given, "steps")
    options = check(PlanOptions, fields)
    if parsed.mask is not None:
        _reject("mask", "given beside the steps", "inside the step that it belongs to, as a data URL")
    if not isinstance(given, list) or not given:
        _reject(
            "steps",
            _shown(given),
            "a list of edits, such as {'kind': 'rotate', 'object': 'car', 'view': 'back'}",
        )
    if len(given) > MOST_STEPS:
        _reject("steps", f"{len(given)} edits", f"at most {MOST_STEPS}")
    if len(parsed.images) > 1:
        _reject(
            "image", f"{len(parsed.images)} images", "one: each step works on what the one before it made"
        )
    steps: list[AnyEdit] = []
    masks: dict[int, bytes] = {}
    for number, step in enumerate(given):
        try:
            edit, mask = _read_step(step)
            if mask is not None:
                masks[number] = await resolve_image(mask, settings, budgets, client, "mask")
        except JoyImageError as error:
            rejection = of_step(number, error)
            raise rejection from None
        steps.append(edit)
    return PlanBody(steps=tuple(steps), masks=masks, options=options)


def make_plan(
    body: PlanBody,
    images: Sequence[Upload],
    masks: Mapping[int, Upload],
    *,
    settings: ServerSettings,
    info: ModelInfo,
) -> PlanTask:
    """Decide everything that a plan leaves open, and reject it whole where one of its steps cannot work.

    Args:
        body: The plan's fields.
        images: The image that the first step works on.
        masks: Masks by the number of their step, from 0.
        settings: Limits.
        info: What is known of the model.

    Raises:
        ApiError: What is wrong, and in which step.
    """
    if not images:
        raise ApiError(400, "`image` is missing; expected an image.", code="missing_image", param="image")
    options = EditOptions(**body.options.model_dump())
    size = ImageSize(*images[0].size)
    sizes: list[ImageSize] = []
    tasks: list[Task] = []
    for number, edit in enumerate(body.steps):
        sizes.append(size)
        mask = masks.get(number)
        if mask is not None and number:  # what it gets may have another size: the mask is scaled to it
            mask = Upload(data=mask.data, size=size.pil)
        try:
            task = make_task(
                Body(edit=edit, options=options),
                [Upload(data=b"", size=size.pil)],
                mask,
                settings=settings,
                info=info,
                has_previews=True,
            )
            size = _size_after(task, size, info)
        except JoyImageError as error:
            rejection = of_step(number, error)
            raise rejection from None
        tasks.append(task)
    return PlanTask(steps=tuple(tasks), sizes=tuple(sizes))


def plan_schema() -> dict[str, Any]:
    """Return the JSON Schema of a plan's body in JSON form."""
    kinds = [{**body_schema(kind), "title": kind} for kind in STEP_KINDS]
    image = kinds[0]["properties"]["image"]
    for kind, schema in zip(STEP_KINDS, kinds, strict=True):
        settings = kind_of(kind).settings()
        kept = {*settings, "mask"} - {"num_images"}
        properties = {name: one for name, one in schema["properties"].items() if name in kept}
        schema["properties"] = {"kind": {"const": kind}, **properties}
        schema["required"] = ["kind", *schema["required"]]
    steps = {
        "type": "array",
        "minItems": 1,
        "maxItems": MOST_STEPS,
        "items": {"oneOf": kinds},
        "description": "Edits, in order: the output of one is the input of the next. In a form: as JSON.",
    }
    properties = {"image": image, "steps": steps, **PlanOptions.model_json_schema()["properties"]}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": ["image", "steps"],
    }


def of_step(number: int, error: JoyImageError) -> ApiError:
    """Return the error of a step's field, named by its place in the plan.

    Args:
        number: Place of the step in the plan, from 0.
        error: What the step alone would be rejected with.
    """
    found = to_api_error(error)
    place = f"steps[{number}]"
    if found.param is None:
        return ApiError(found.status, f"`{place}`: {found.message}", code=found.code, param=place)
    named = f"{place}.{found.param}"
    message, count = re.subn(rf"`{re.escape(found.param)}`", f"`{named}`", found.message, count=1)
    message = message if count else f"`{named}`: {message}"
    return ApiError(found.status, message, code=found.code, param=named)


def _read_step(step: Any) -> tuple[AnyEdit, str | None]:
    """Return a step's edit, and the text of its mask.

    Raises:
        ApiError: The step is not an object, of a kind that has no place in a plan, or makes several images.
        FieldError: A field is not accepted.
    """
    if not isinstance(step, dict):
        raise ApiError(
            400, f"{_shown(step)} is not an edit; expected an object of fields.", code="invalid_value"
        )
    fields = {name: value for name, value in step.items() if name not in {"kind", "mask"}}
    kind = step.get("kind", "edit")
    if kind not in STEP_KINDS:
        _reject("kind", _shown(kind), f"one of {', '.join(STEP_KINDS)}")
    if "image" in fields or "images" in fields:
        name = "image" if "image" in fields else "images"
        _reject(
            name, "given", "no image in a step: the first works on the plan's `image`, each other on a result"
        )
    edit = read_edit(kind, fields, is_form=False)
    if edit.given().get("num_images", 1) > 1:
        _reject(
            "num_images",
            edit.given()["num_images"],
            "1 in a plan; use `num_candidates` to keep the best of several",
        )
    mask = step.get("mask")
    return edit, None if mask is None else text_of_image(mask, "mask")


def _size_after(task: Task, size: ImageSize, info: ModelInfo) -> ImageSize:
    """Return the size of what a step makes of an image."""
    edit = task.edit
    if isinstance(edit, (Describe, Generate)) or edit.framing.restore:
        return size
    target = task.target_size
    if target is None:
        return nearest_bucket(size, info.base_size)
    fit = edit.framing.fit or "crop"
    if isinstance(edit, Move) and fit == "crop":
        left, top, right, bottom = (round(side) for side in edit.box or ())
        if Placement.crop(size.pil, target.pil).cuts((left, top, right, bottom)):
            fit = "pad"  # as `plan_move` does
    if fit != "pad":
        return target
    left, top, right, bottom = Placement.pad(size.pil, target.pil).in_target
    return ImageSize(right - left, bottom - top)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if value is not None else "missing"
    return text if len(text) <= 100 else f"{text[:100]}..."


def _reject(param: str, value: object, expected: str) -> NoReturn:
    """Reject a value.

    Raises:
        ApiError: Always.
    """
    raise ApiError(400, f"`{param}` is {value}; expected {expected}.", code="invalid_value", param=param)
