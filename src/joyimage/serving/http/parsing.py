"""Read a request's body, form or JSON, into a checked model and the pictures that came with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from joyimage.serving.http.errors import ApiError, storage_full
from joyimage.serving.security.fetching import fetch_picture
from joyimage.serving.security.uploads import decode_base64

if TYPE_CHECKING:
    from starlette.requests import Request

    from joyimage.serving.settings import ServerSettings

Body = TypeVar("Body", bound=BaseModel)

_PICTURE_FIELDS = ("image", "images")
_SHORT_NAMES = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "true_cfg_scale": "guidance",
    "num_images": "n",
    "loras": "lora",
    "prompt_style": "wording",
}
"""Field names of `joyimage.edits` by those of the bodies; clients send either."""
_MOST_FIELDS = 64
_LONGEST_FIELD = 4 * 2**20


@dataclass(frozen=True, kw_only=True)
class Received:
    """A request's content.

    Attributes:
        fields: Everything but the pictures.
        pictures: Files, not yet looked at.
        mask: The same.
    """

    fields: dict[str, Any]
    pictures: list[bytes]
    mask: bytes | None


async def receive(request: Request, settings: ServerSettings) -> Received:
    """Read a body.

    Args:
        request: With a form or JSON.
        settings: Hold the limits.

    Returns:
        Its content.

    Raises:
        ApiError: It can't be read, or is too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in {"multipart/form-data", "application/x-www-form-urlencoded"}:
        try:
            async with request.form(
                max_files=settings.max_images + 1, max_fields=_MOST_FIELDS, max_part_size=_LONGEST_FIELD
            ) as form:
                return await _from_form(form, settings)
        except HTTPException as error:
            raise ApiError(400, f"The form can't be read: {error.detail}", code="invalid_form") from None
        except OSError as error:  # large parts wait in temporary files
            refusal = storage_full("The form can't be stored", error)
            raise refusal from None
    if kind not in {"", "application/json"} and not kind.endswith("+json"):
        raise ApiError(
            415,
            f"The body is {kind[:100]!r}; expected multipart/form-data or application/json.",
            code="invalid_type",
        )
    try:
        content = json.loads(await request.body(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ApiError(400, "The body is no valid JSON.", code="invalid_json") from None
    if not isinstance(content, dict):
        raise ApiError(400, "The body is no JSON object.", code="invalid_json")
    return await _from_json(content, settings)


def check(body_class: type[Body], fields: dict[str, Any]) -> Body:
    """Check fields against a model.

    Raises:
        ApiError: The first thing that is wrong.
    """
    known = body_class.model_fields
    named = {_SHORT_NAMES.get(name, name): value for name, value in fields.items()}
    fields = named if len(named) == len(fields) and known.keys() >= named.keys() else fields
    try:
        return body_class.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        raise ApiError(400, _sentence(first, param), code="invalid_value", param=param) from None


async def _from_form(form: FormData, settings: ServerSettings) -> Received:
    """Sort a form's parts.

    Raises:
        ApiError: A part doesn't belong here.
    """
    fields: dict[str, Any] = {}
    pictures: list[bytes] = []
    mask: bytes | None = None
    for name, value in form.multi_items():
        plain = name.removesuffix("[]")
        if isinstance(value, UploadFile):
            if plain not in {*_PICTURE_FIELDS, "mask"}:
                raise ApiError(400, f"`{plain[:100]}` is a file; expected text.", param=plain[:100])
            _check_length(value.size or 0, settings, plain)
            data = await value.read()
        elif plain in {*_PICTURE_FIELDS, "mask"}:
            if not value.strip():
                continue
            data = await _resolve(value, settings, plain)
        else:
            fields[name] = value
            continue
        if plain == "mask":
            mask = data
        else:
            pictures.append(data)
            _check_number(pictures, settings)
    return Received(fields=fields, pictures=pictures, mask=mask)


async def _from_json(content: dict[str, Any], settings: ServerSettings) -> Received:
    """Take the pictures out of a JSON object.

    Raises:
        ApiError: A picture is none.
    """
    fields = {name: value for name, value in content.items() if name not in {*_PICTURE_FIELDS, "mask"}}
    given: list[Any] = []
    for name in _PICTURE_FIELDS:
        value = content.get(name)
        if value is not None:
            given += value if isinstance(value, list) else [value]
    _check_number(given, settings)
    pictures = [await _resolve(_address(one, "image"), settings, "image") for one in given]
    mask = content.get("mask")
    return Received(
        fields=fields,
        pictures=pictures,
        mask=None if mask is None else await _resolve(_address(mask, "mask"), settings, "mask"),
    )


def _address(value: Any, param: str) -> str:
    """Return the text of a picture given as text or as {"image_url": text}.

    Raises:
        ApiError: It is something else.
    """
    if isinstance(value, dict) and set(value) == {"image_url"}:
        value = value["image_url"]
    if not isinstance(value, str):
        raise ApiError(400, f"`{param}` is no text and has no `image_url`; expected a data URL.", param=param)
    return value


async def _resolve(text: str, settings: ServerSettings, param: str) -> bytes:
    """Return the file that a data URL, base64 or an address stands for.

    Raises:
        ApiError: There is none.
    """
    if text.lower().startswith(("http://", "https://")):
        if not settings.image_urls:
            raise ApiError(
                400,
                f"`{param}` is an address, and this server fetches none; send the picture itself.",
                code="image_urls_disabled",
                param=param,
            )
        return await run_in_threadpool(fetch_picture, text, settings, param)
    _check_length(len(text) * 3 // 4, settings, param)
    return decode_base64(text, param)


def _check_length(num_bytes: int, settings: ServerSettings, param: str) -> None:
    """Refuse a picture that is too long a file.

    Raises:
        ApiError: It is.
    """
    if num_bytes > settings.max_image_bytes:
        raise ApiError(
            413,
            f"`{param}` has {num_bytes:,} bytes; at most {settings.max_image_bytes:,} are taken.",
            code="image_too_large",
            param=param,
        )


def _check_number(pictures: list[Any], settings: ServerSettings) -> None:
    """Refuse too many pictures.

    Raises:
        ApiError: There are.
    """
    if len(pictures) > settings.max_images:
        raise ApiError(
            400,
            f"`image` holds {len(pictures)} pictures; at most {settings.max_images} are taken.",
            code="too_many_images",
            param="image",
        )


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _sentence(error: Any, param: str | None) -> str:
    if error["type"] == "missing":
        return f"`{param}` is missing."
    if error["type"] == "extra_forbidden":
        return f"`{param}` is unknown here."
    return f"`{param}` can't be taken: {error['msg']}."
