"""Read a request's body, form or JSON, into its fields and the images that came with it."""

from __future__ import annotations

import json
import re
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import FormParser, MultiPartException, MultiPartParser

from joyimage.serving.http.errors import ApiError, storage_full
from joyimage.serving.security.errors import TooLargeError
from joyimage.serving.security.fetching import fetch_image
from joyimage.serving.security.uploads import decode_base64

if TYPE_CHECKING:
    from starlette.requests import Request

    from joyimage.serving.http.budgets import Budgets
    from joyimage.serving.settings import ServerSettings

_IMAGE_FIELDS = ("image", "images", "url")
_MOST_FIELDS = 64
_LONGEST_FIELD = 4 * 2**20
_INDEX = re.compile(r"\[\d{0,3}\]$")
# Each value of a JSON body becomes objects in memory and time; images and prompts are few long texts.
_MOST_VALUES = 20_000


@dataclass(frozen=True, kw_only=True)
class ParsedRequest:
    """A request's content.

    Attributes:
        fields: Everything but the images.
        images: Image files, not yet looked at.
        mask: File of the mask, not yet looked at.
        is_form: Whether all fields are text.
    """

    fields: dict[str, Any]
    images: list[bytes]
    mask: bytes | None
    is_form: bool


async def parse_request(
    request: Request, settings: ServerSettings, budgets: Budgets, client: str
) -> ParsedRequest:
    """Read a body.

    Args:
        request: With a form or JSON.
        settings: Limits.
        budgets: Threads for work on bytes.
        client: Name of the client.

    Returns:
        The request's content.

    Raises:
        ApiError: The body cannot be read.
    """
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in {"", "identity"}:
        raise ApiError(
            415, f"The body is compressed ({encoding[:100]}); send it as it is.", code="invalid_type"
        )
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in {"multipart/form-data", "application/x-www-form-urlencoded"}:
        try:
            form = await _read_form(request, settings, is_multipart=kind == "multipart/form-data")
            try:
                fields, values = await _sort_form(form, settings)
            finally:
                await form.close()
        except MultiPartException as error:
            raise ApiError(400, f"The form cannot be read: {error.message}", code="invalid_form") from None
        except OSError as error:  # large parts wait in temporary files
            rejection = storage_full("The form cannot be stored", error)
            raise rejection from None
        is_form = True
    elif kind in {"", "application/json"} or kind.endswith("+json"):
        body = await request.body()
        fields, values = await budgets.parsing.run(client, _parse_json, body)
        is_form = False
    else:
        raise ApiError(
            415,
            f"The body is {kind[:100]!r}; expected multipart/form-data or application/json.",
            code="invalid_type",
        )
    _check_number(values, settings)
    images: list[bytes] = []
    mask: bytes | None = None
    for name, value in values:
        data = (
            value if isinstance(value, bytes) else await resolve_image(value, settings, budgets, client, name)
        )
        if name == "mask":
            mask = data
        else:
            images.append(data)
    return ParsedRequest(fields=fields, images=images, mask=mask, is_form=is_form)


def _check_number(values: list[tuple[str, bytes | str]], settings: ServerSettings) -> None:
    """Reject too many images or masks.

    Raises:
        ApiError: There are.
    """
    num_masks = sum(name == "mask" for name, _ in values)
    if num_masks > 1:
        rejection = _given_twice("mask")
        raise rejection
    if len(values) - num_masks > settings.max_images:
        raise ApiError(
            400,
            f"`image` holds {len(values)} images; at most {settings.max_images} are accepted.",
            code="too_many_images",
            param="image",
        )


class _WholeForm(MultiPartParser):
    """Reads a multipart form, and knows whether its end has come."""

    is_whole = False

    def on_end(self) -> None:
        """Take note of the closing boundary."""
        self.is_whole = True


async def _read_form(request: Request, settings: ServerSettings, *, is_multipart: bool) -> FormData:
    """Return a form's parts.

    Raises:
        MultiPartException: It is not a form, has too many or too large parts, or has been cut off.
    """
    async with aclosing(request.stream()) as stream:
        if not is_multipart:
            return await FormParser(
                request.headers, stream, max_fields=_MOST_FIELDS, max_part_size=_LONGEST_FIELD
            ).parse()
        parser = _WholeForm(
            request.headers,
            stream,
            max_files=settings.max_images + 1,
            max_fields=_MOST_FIELDS,
            max_part_size=_LONGEST_FIELD,
        )
        form = await parser.parse()
    if not parser.is_whole:
        # The parser leaves out a part that was cut off: an edit would run without one of its fields.
        await form.close()
        raise MultiPartException("Its closing boundary is missing.")
    return form


async def _sort_form(
    form: FormData, settings: ServerSettings
) -> tuple[dict[str, Any], list[tuple[str, bytes | str]]]:
    """Return a form's fields, and its images as files or text.

    Raises:
        ApiError: A part does not belong here.
    """
    fields: dict[str, Any] = {}
    values: list[tuple[str, bytes | str]] = []
    for name, value in form.multi_items():
        plain = _INDEX.sub("", name)
        if isinstance(value, UploadFile):
            if plain not in {*_IMAGE_FIELDS, "mask"}:
                raise ApiError(
                    400,
                    f"`{plain[:100]}` is a file; expected text. The files of images go into `image` and `mask`.",
                    param=plain[:100],
                )
            _check_length(value.size or 0, settings, plain)
            values.append((plain, await value.read()))
        elif plain not in {*_IMAGE_FIELDS, "mask"}:
            if name in fields:
                rejection = _given_twice(name)
                raise rejection
            fields[name] = value
        elif value.strip():
            values.append((plain, value))
    return fields, values


def _parse_json(body: bytes) -> tuple[dict[str, Any], list[tuple[str, bytes | str]]]:
    """Return a JSON object's fields, and its images as text.

    Raises:
        ApiError: The body is not a JSON object, or has too many values.
    """
    content = _load(body, "The body")
    if not isinstance(content, dict):
        raise ApiError(400, "The body is not a JSON object.", code="invalid_json")
    fields = {name: value for name, value in content.items() if name not in {*_IMAGE_FIELDS, "mask"}}
    values: list[tuple[str, bytes | str]] = []
    for name in (*_IMAGE_FIELDS, "mask"):
        value = content.get(name)
        given = [] if value is None else value if isinstance(value, list) and name != "mask" else [value]
        values += [("mask" if name == "mask" else "image", text_of_image(one, name)) for one in given]
    return fields, values


def parse_value(text: str, param: str) -> Any:
    """Return the value of a form's field that holds JSON.

    Raises:
        ApiError: It is not JSON, or has too many values.
    """
    try:
        return _load(text, f"`{param}`")
    except ApiError as error:
        error.param = error.param or param
        raise


def _load(text: str | bytes, name: str) -> Any:
    """Return the value of JSON.

    Raises:
        ApiError: It is not JSON, or has too many values.
    """
    count: Any = text.count  # of text or bytes, as the signs below
    signs = ",[{:" if isinstance(text, str) else (b",", b"[", b"{", b":")
    if sum(count(sign) for sign in signs) > _MOST_VALUES:
        raise ApiError(
            413, f"{name} has more than {_MOST_VALUES:,} values; send fewer.", code="body_too_large"
        )
    try:
        return json.loads(text, parse_constant=_reject_constant, object_pairs_hook=_to_fields)
    except (ValueError, RecursionError):
        raise ApiError(400, f"{name} is not valid JSON.", code="invalid_json") from None


def _to_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of a JSON object.

    Raises:
        ApiError: A field is there twice; which one is meant is not known.
    """
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            rejection = _given_twice(name)
            raise rejection
        fields[name] = value
    return fields


def _given_twice(name: str) -> ApiError:
    shown = name[:100]
    return ApiError(400, f"`{shown}` is given twice; give it once.", code="invalid_value", param=shown)


def text_of_image(value: Any, param: str) -> str:
    """Return the text of an image given as text, as {"image_url": text}, or as a part of a chat message.

    Raises:
        ApiError: The value is something else.
    """
    for _ in range(2):  # {"type": "image_url", "image_url": {"url": text}}
        if isinstance(value, dict):
            value = value.get("image_url", value.get("url"))
    if not isinstance(value, str):
        raise ApiError(
            400,
            f"`{param}` is not accepted; expected a data URL, base64, or an object with `image_url`. Files "
            "go into a form.",
            code="invalid_image",
            param=param,
        )
    return value


async def resolve_image(
    text: str, settings: ServerSettings, budgets: Budgets, client: str, param: str
) -> bytes:
    """Return the file that a data URL, base64 or an address stands for.

    Raises:
        ApiError: Addresses are not fetched here.
    """
    if text.lower().startswith(("http://", "https://")):
        if not settings.image_urls:
            raise ApiError(
                400,
                f"`{param}` is an address, which this server does not fetch; send the image itself.",
                code="image_urls_disabled",
                param=param,
            )
        return await budgets.fetching.run(client, fetch_image, text, settings, param)
    _check_length(len(text) * 3 // 4, settings, param)
    return await budgets.parsing.run(client, decode_base64, text, param)


def _check_length(num_bytes: int, settings: ServerSettings, param: str) -> None:
    """Reject an image file that is too large.

    Raises:
        TooLargeError: The file is too large.
    """
    if num_bytes > settings.max_image_bytes:
        raise TooLargeError(
            f"`{param}` has {num_bytes:,} bytes; at most {settings.max_image_bytes:,} are accepted.",
            code="image_too_large",
            param=param,
        )


def _reject_constant(name: str) -> None:
    raise ValueError(name)
