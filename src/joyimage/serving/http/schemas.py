"""What requests may hold, and the task that each becomes.

Field names are OpenAI's where OpenAI has the field. Everything else is an extension with a default, so that a
client that knows nothing of it gets what the checkpoint does best.
"""

# Annotations are real types here: pydantic reads them.

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

LARGEST_SEED = 2**53 - 1  # what JSON numbers hold everywhere

OutputFormat = Literal["png", "jpeg", "webp"]


def _without_blank(value: Any) -> Any:
    """Read an empty form field as one that isn't there."""
    return None if isinstance(value, str) and not value.strip() else value


def _split(value: Any) -> Any:
    """Read "1,2,3,4" and "[1,2,3,4]", as forms send them."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.lstrip().startswith("[") else [float(x) for x in value.split(",")]
    except ValueError:
        return value


Blank = BeforeValidator(_without_blank)
OptionalInt = Annotated[int | None, Blank]
OptionalStr = Annotated[str | None, Blank]


class ImageReference(BaseModel):
    """A picture inside JSON.

    Attributes:
        image_url: "data:image/png;base64,...", or an http address where the server fetches these.
    """

    model_config = ConfigDict(extra="forbid")

    image_url: str = Field(description="A data URL, or an http(s) URL where the server is set to fetch them.")


class Making(BaseModel):
    """What every request that makes pictures may hold."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: OptionalStr = Field(default=None, description="A name that GET /v1/models lists.")
    n: OptionalInt = Field(default=None, ge=1, le=10, description="Number of pictures; 1 if not given.")
    size: OptionalStr = Field(
        default=None,
        description="'auto' or 'WIDTHxHEIGHT'; the nearest trained size is taken.",
        json_schema_extra={"pattern": r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$"},
    )
    response_format: Annotated[Literal["b64_json", "url"] | None, Blank] = None
    output_format: Annotated[OutputFormat | None, Blank] = None
    output_compression: OptionalInt = Field(
        default=None, ge=0, le=100, description="Quality of JPEG and WebP; 100 if not given."
    )
    quality: Annotated[Literal["low", "medium", "high", "auto", "standard", "hd"] | None, Blank] = Field(
        default=None, description="low: half the steps; medium: three quarters; all others: all of them."
    )
    background: Annotated[Literal["auto", "opaque"] | None, Blank] = Field(
        default=None, description="Pictures are always opaque."
    )
    moderation: Annotated[Literal["auto", "low"] | None, Blank] = Field(
        default=None, description="Accepted as OpenAI's clients send it; nothing is moderated here."
    )
    stream: Annotated[bool | None, Blank] = None
    partial_images: OptionalInt = Field(default=None, ge=0, le=3)
    user: str | None = Field(default=None, max_length=512, description="Accepted; nothing depends on it.")
    safety_identifier: str | None = Field(default=None, max_length=512, description="As `user`.")

    steps: OptionalInt = Field(default=None, ge=1, description="The checkpoint's own if not given.")
    guidance: Annotated[float | None, Blank] = Field(
        default=None, ge=0, le=100, description="The checkpoint's own if not given; off at 1 and below."
    )
    seed: OptionalInt = Field(
        default=None, ge=0, le=LARGEST_SEED, description="The same seed gives the same picture."
    )
    negative_prompt: str | None = Field(default=None, description="What to stay away from.")
    lora: OptionalStr = Field(default=None, description="An adapter that the server offers.")


class Framed(Making):
    """What every request about a given picture may hold."""

    image: str | list[str] | None = Field(
        default=None, description="In JSON: a data URL or base64, or a list of these; in a form: files."
    )
    images: list[ImageReference] | None = Field(default=None, description="In JSON, as OpenAI has them.")
    fit: Literal["crop", "pad", "exact"] = "crop"
    restore: bool = Field(default=False, description="Map the result back onto the picture's own size.")
    preserve: bool = Field(default=False, description="Keep the pixels that the edit didn't touch.")
    masks: bool = Field(
        default=False,
        description="Answer with the masks of `preserve` or `mask` too: where the picture is the edit's.",
    )


class EditBody(Framed):
    """`POST /v1/images/edits`."""

    prompt: str = Field(min_length=1, description="What to do.")
    mask: str | ImageReference | None = Field(
        default=None, description="A picture of the first image's size; where it is transparent may change."
    )
    input_fidelity: Annotated[Literal["high", "low"] | None, Blank] = Field(
        default=None, description="Accepted; the picture is always kept as closely as the model can."
    )


class GenerationBody(Making):
    """`POST /v1/images/generations`."""

    prompt: str = Field(min_length=1, description="What it shows.")
    style: Annotated[Literal["vivid", "natural"] | None, Blank] = Field(
        default=None, description="Accepted; say it in the prompt."
    )


class MoveBody(Framed):
    """`POST /v1/spatial/move`."""

    object: str = Field(min_length=1, description='What to move, such as "blue car".')
    box: Annotated[list[float], BeforeValidator(_split)] = Field(
        min_length=4,
        max_length=4,
        description="Where it shall end: pixels of the picture, or fractions where no number exceeds 1.",
    )
    box_form: Literal["xyxy", "xywh"] = "xyxy"
    wording: Literal["documented", "benchmark"] = "documented"


class RotateBody(Framed):
    """`POST /v1/spatial/rotate`."""

    object: str = Field(min_length=1, description='What to turn, such as "car".')
    view: str = Field(
        description="right, front right, front, front left, left, rear left, rear or rear right."
    )
    wording: Literal["documented", "benchmark"] = "documented"


class CameraBody(Framed):
    """`POST /v1/spatial/camera`."""

    yaw: float = Field(default=0, ge=-360, le=360, description="Degrees; positive carries it to its right.")
    pitch: float = Field(default=0, ge=-180, le=180, description="Degrees; positive raises it.")
    zoom: Literal["in", "out", "unchanged"] = "unchanged"
    wording: Literal["documented", "benchmark"] = "documented"


class DescribeBody(BaseModel):
    """`POST /v1/describe`."""

    model_config = ConfigDict(extra="forbid")

    model: OptionalStr = None
    image: str | list[str] | None = None
    images: list[ImageReference] | None = None
    question: str | None = Field(default=None, min_length=1, description="A description if not given.")
    max_new_tokens: int = Field(default=256, ge=1, le=1024)


class ParseBody(BaseModel):
    """`POST /v1/spatial/parse`."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    image: str | None = Field(default=None, description="With it, the red box of a move is read off.")


BODIES: dict[str, type[BaseModel]] = {
    "edit": EditBody,
    "generate": GenerationBody,
    "move": MoveBody,
    "rotate": RotateBody,
    "camera": CameraBody,
    "describe": DescribeBody,
}
"""What each kind of job holds."""


class Task(BaseModel):
    """One job, everything decided: what is stored, and what a replica is given.

    Attributes:
        kind: One of `BODIES`.
        prompt: What to do; of a spatial edit, empty.
        negative_prompt: What to stay away from.
        num_outputs: Pictures to make.
        width: Wished width; None to follow the picture.
        height: Wished height.
        steps: Number of steps.
        guidance: Guidance scale.
        seed: Of the first output; the others' follow.
        lora: Name of an adapter.
        framing: fit, restore, preserve, of a job with a picture.
        spatial: Arguments of move, rotate or camera.
        question: Of describe.
        max_new_tokens: Of describe.
        output_format: "png", "jpeg" or "webp".
        output_compression: Quality of JPEG and WebP.
        num_images: Pictures that came in.
        has_mask: Whether a mask came too.
        previews: Whether steps are shown.
        canvas: Width and height of an output before it is mapped back, where that is known beforehand.
    """

    kind: str
    prompt: str = ""
    negative_prompt: str | None = None
    num_outputs: int = 1
    width: int | None = None
    height: int | None = None
    steps: int = 1
    guidance: float = 1.0
    seed: int = 0
    lora: str | None = None
    framing: dict[str, Any] = Field(default_factory=dict)
    spatial: dict[str, Any] = Field(default_factory=dict)
    question: str | None = None
    max_new_tokens: int = 256
    output_format: OutputFormat = "png"
    output_compression: int = 100
    num_images: int = 0
    has_mask: bool = False
    previews: bool = True
    canvas: tuple[int, int] | None = None
