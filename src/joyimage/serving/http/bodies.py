"""Request bodies: the fields of an edit, as `joyimage.edits` defines them, beside what only HTTP has.

Field names are OpenAI's where OpenAI has the field; names of older versions, of vLLM-Omni and of SGLang are
aliases. A client that knows none of the extensions gets what the checkpoint does best.
"""

# Annotations are real types here: pydantic reads them.

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from joyimage.edits import KINDS, AnyEdit, FieldError, kind_of
from joyimage.edits.forms import Text
from joyimage.errors import InvalidInputError
from joyimage.serving.http.errors import ApiError, describe_invalid

_MOST_FIELDS = 64
_LONGEST_NAME = 100
_IMAGE_FIELDS = ("image", "images", "url")


def _without_blank(value: Any) -> Any:
    """Read an empty form field as one that is not there."""
    return None if isinstance(value, str) and not value.strip() else value


def _without_truth(value: Any) -> Any:
    """Reject true and false, which count as 1 and 0 in Python.

    Raises:
        ValueError: The value is one of them; pydantic makes a message of it.
    """
    if isinstance(value, bool):
        raise ValueError("expected a whole number")
    return value


Blank = BeforeValidator(_without_blank)
OptionalInt = Annotated[int | None, Blank, BeforeValidator(_without_truth)]
OptionalStr = Annotated[str | None, Blank]
_IGNORED = "Accepted for OpenAI's clients; has no effect."


class Options(BaseModel):
    """What every request may hold beside an edit."""

    model_config = ConfigDict(extra="forbid")

    model: OptionalStr = Field(default=None, description="A name that GET /v1/models lists.")


class OutputOptions(Options):
    """What every request that makes images may hold beside an edit."""

    response_format: Annotated[Literal["b64_json", "url"] | None, Blank] = None
    output_format: Annotated[Literal["png", "jpeg", "webp"] | None, Blank] = None
    output_compression: OptionalInt = Field(
        default=None, ge=0, le=100, description="Quality of JPEG and WebP. Default: 100."
    )
    quality: Annotated[Literal["low", "medium", "high", "auto", "standard", "hd"] | None, Blank] = Field(
        default=None, description="low: half the steps; medium: three quarters; all others: all of them."
    )
    background: Annotated[Literal["auto", "opaque", "transparent"] | None, Blank] = Field(
        default=None,
        description="Accepted for OpenAI's clients; images are always opaque.",
    )
    moderation: Annotated[Literal["auto", "low"] | None, Blank] = Field(default=None, description=_IGNORED)
    stream: Annotated[bool | None, Blank] = None
    partial_images: OptionalInt = Field(default=None, ge=0, le=3)
    user: str | None = Field(default=None, max_length=512, description=_IGNORED)
    safety_identifier: str | None = Field(default=None, max_length=512, description=_IGNORED)


class GenerateOptions(OutputOptions):
    """What `POST /v1/images/generations` may hold beside an edit."""

    style: Annotated[Literal["vivid", "natural"] | None, Blank] = Field(default=None, description=_IGNORED)


class ImageOptions(OutputOptions):
    """What every request about an input image may hold beside an edit."""

    masks: bool = Field(
        default=False,
        description="Answer with the masks of `preserve`, `region` or `mask` too (255: the edit's).",
    )


class EditOptions(ImageOptions):
    """What `POST /v1/images/edits` may hold beside an edit."""

    input_fidelity: Annotated[Literal["high", "low"] | None, Blank] = Field(
        default=None,
        description="Accepted for OpenAI's clients; the model always keeps the image as closely as it can.",
    )


class ParseBody(BaseModel):
    """`POST /v1/spatial/parse`."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    image: str | None = Field(default=None, description="Image in which the red box of a move is found.")


OPTIONS: dict[str, type[Options]] = {
    "edit": EditOptions,
    "generate": GenerateOptions,
    "move": ImageOptions,
    "rotate": ImageOptions,
    "camera": ImageOptions,
    "describe": Options,
}
"""What each kind of job may hold beside an edit."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """A request's content without its images.

    Attributes:
        edit: The edit as given.
        options: What only HTTP has.
    """

    edit: AnyEdit
    options: Any

    @property
    def content(self) -> list[Any]:
        """What makes it the same request as another."""
        return [self.edit.to_dict(), self.options.model_dump(mode="json")]


def read_body(kind: str, fields: dict[str, Any], *, is_form: bool) -> Body:
    """Read a request's fields.

    Args:
        kind: Kind of the job.
        fields: Everything but the images.
        is_form: Whether all values are text.

    Raises:
        ApiError: The first field that is not accepted.
        FieldError: The first field of the edit that is not accepted.
    """
    check_names(fields)
    options_class = OPTIONS[kind]
    options = {name: value for name, value in fields.items() if name in options_class.model_fields}
    others = {name: value for name, value in fields.items() if name not in options}
    if others.get("size") == "auto":  # OpenAI's word for a size that is not given
        del others["size"]
    return Body(edit=read_edit(kind, others, is_form=is_form), options=check(options_class, options))


def check(body_class: type[Any], fields: dict[str, Any]) -> Any:
    """Check fields against a pydantic model.

    Raises:
        ApiError: The first field that is not accepted.
    """
    check_names(fields)
    try:
        return body_class.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        raise ApiError(400, _sentence(first, param), code="invalid_value", param=param) from None


def check_names(fields: dict[str, Any]) -> None:
    """Reject fields by their number and the length of their names, before anything is made of them.

    Raises:
        ApiError: There are too many, or a name is too long.
    """
    if len(fields) > _MOST_FIELDS:
        raise ApiError(
            400,
            f"The request has {len(fields)} fields; at most {_MOST_FIELDS} are accepted.",
            code="invalid_value",
        )
    if any(len(name) > _LONGEST_NAME for name in fields):
        raise ApiError(400, f"A field's name has more than {_LONGEST_NAME} characters.", code="invalid_value")


def body_schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema of a kind's body in JSON form."""
    edit = KINDS[kind]
    settings = edit.settings()
    properties = {
        name: {**one.form.schema, "description": one.help + _also(one.aliases)}
        for name, one in settings.items()
    }
    if "size" in properties:
        properties["size"]["pattern"] = "^(auto|[1-9][0-9]{0,4}[xX][1-9][0-9]{0,4})$"
    if "region" in properties:
        properties["region"] |= settings["region"].form.schema["anyOf"][0]
        del properties["region"]["anyOf"]
    options = OPTIONS[kind].model_json_schema()
    properties |= options["properties"]
    required = [name for name, one in settings.items() if one.is_required]
    if edit.needs_image:
        properties |= _image_schema(has_mask=kind == "edit")
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required}


def _image_schema(*, has_mask: bool) -> dict[str, Any]:
    text = {"type": "string"}
    reference = {
        "type": "object",
        "properties": {
            "image_url": {**text, "description": "A data URL, or an http(s) URL where it is fetched."}
        },
        "required": ["image_url"],
        "additionalProperties": False,
    }
    found: dict[str, Any] = {
        "image": {
            "anyOf": [text, {"type": "array", "items": text}],
            "description": "In JSON: a data URL or base64, or a list; in a form: files. Also: `url`.",
        },
        "images": {"type": "array", "items": reference, "description": "In JSON, as OpenAI has them."},
    }
    if has_mask:
        found["mask"] = {
            "anyOf": [text, reference],
            "description": "A PNG of the first image's size; pixels where it is transparent may change.",
        }
    return found


def _also(aliases: tuple[str, ...]) -> str:
    return f" Also: {', '.join(f'`{one}`' for one in aliases)}." if aliases else ""


def read_edit(kind: str, fields: dict[str, Any], *, is_form: bool) -> AnyEdit:
    """Read the fields of an edit.

    Args:
        kind: Kind of the edit.
        fields: The fields of the edit.
        is_form: Whether all values are text.

    Raises:
        FieldError: The first field that is not accepted.
    """
    edit = _read_fields(kind, fields, is_form=is_form)
    if isinstance(edit.given().get("region"), str):
        raise FieldError("region", edit.given()["region"], "four numbers; send a mask as `mask`")
    return edit


def _read_fields(kind: str, fields: dict[str, Any], *, is_form: bool) -> AnyEdit:
    edit_class = kind_of(kind)
    if is_form:
        return edit_class.from_text(fields)
    # Clients that build JSON from forms send numbers as text.
    settings = edit_class.settings()
    named = {alias: one for name, one in settings.items() for alias in (name, *one.aliases)}
    as_text = {
        name: value
        for name, value in fields.items()
        if isinstance(value, str) and name in named and not isinstance(named[name].form, Text)
    }
    plain = {name: value for name, value in fields.items() if name not in as_text}
    edit, other = edit_class.from_dict(plain), edit_class.from_text(as_text)
    for name in edit.given().keys() & other.given().keys():
        if edit.given()[name] != other.given()[name]:
            own = {name, *settings[name].aliases}
            first, second = (next(iter(own & part.keys())) for part in (plain, as_text))
            raise InvalidInputError(
                f"`{first}` and `{second}` mean the same and have two values; give one of them."
            )
    return edit.filled_from(other)


def _sentence(error: Any, param: str | None) -> str:
    if error["type"] == "missing":
        return f"`{param}` is missing."
    if error["type"] == "extra_forbidden":
        return f"`{param}` is not a field here."
    return describe_invalid(error, param)
