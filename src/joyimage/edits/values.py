"""An edit as a value: `Edit`, `Generate`, `Move`, `Rotate`, `Camera`, `Describe`.

Every parameter of an edit is one field here, with its help text and limits. The options of the command line,
the columns of a batch, the fields of an HTTP body, a job's row, the record in an image file, the client's
request and the page all follow from these fields.

A value has two states. *As given*, None means "not given". `resolve` returns the value with all defaults
filled in. `to_dict` and `from_dict` are the one format of both; the dict is flat, and fields that are None are
left out.
"""

from __future__ import annotations

import dataclasses
import secrets
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from joyimage.edits.fields import FieldError, Setting, own_settings, read_fields, setting
from joyimage.edits.forms import Box, Choice, Flag, Integer, Number, Region, Size, Text, Texts
from joyimage.errors import InvalidInputError
from joyimage.spatial.box import FORMS, resolve_box
from joyimage.spatial.camera import (
    LARGEST_PITCH_DEGREES,
    LARGEST_YAW_DEGREES,
    ZOOMS,
    CameraMove,
    check_moves,
)
from joyimage.spatial.frame import FITS, exact_size
from joyimage.spatial.move import ObjectMove
from joyimage.spatial.prompts import STYLES
from joyimage.spatial.rotation import ObjectRotation, View

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from joyimage.types import ImageSize

LARGEST_SEED = 2**53 - 1
"""JSON numbers are exact up to here in every language."""

_ANY_BASE_SIZE = 1024

_VIEWS = Choice(
    tuple(view.value for view in View),
    synonyms=(
        ("back", "rear"),
        ("back left", "rear left"),
        ("back right", "rear right"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Default settings of a checkpoint.

    Attributes:
        num_inference_steps: Number of denoising steps.
        guidance_scale: Classifier-free guidance scale.
    """

    num_inference_steps: int = 40
    guidance_scale: float = 4.0


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """Checks its fields when it is built."""

    def __post_init__(self) -> None:
        """Check every field that is given, and store its canonical value.

        Raises:
            FieldError: A field has a value that is not accepted.
        """
        for name, one in own_settings(type(self)).items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, one.check(name, value))


@dataclass(frozen=True, kw_only=True)
class Sampling(_Checked):
    """How an image is sampled; fields of every edit that makes images."""

    num_inference_steps: int | None = setting(
        Integer(1, 1000),
        "Number of denoising steps: more take longer and refine more. Default: the checkpoint's own (published: "
        "40, tiny: 4).",
        aliases=("steps",),
        flag="--steps",
    )
    guidance_scale: float | None = setting(
        Number(0, 100),
        "Classifier-free guidance scale: higher follows the prompt more closely; 1 or less turns guidance "
        "off and halves the time. Default: the checkpoint's own (published: 4.0, tiny: 1.0).",
        aliases=("guidance", "true_cfg_scale"),
        flag="--guidance",
    )
    negative_prompt: str | None = setting(
        Text(may_be_blank=True),
        "What to avoid in the image. Needs guidance above 1.",
        aliases=("negative",),
        flag="--negative",
    )
    seed: int | None = setting(
        Integer(0, LARGEST_SEED),
        "Random seed; the same seed gives the same image. Default: random, and printed.",
        group="Output",
    )
    num_images: int | None = setting(
        Integer(1, 1000),
        "Number of images to make, with consecutive seeds. Default: 1.",
        aliases=("n", "num", "num_outputs", "num_images_per_prompt"),
        flag="--num",
        group="Output",
    )
    size: ImageSize | None = setting(
        Size(),
        "Requested size WIDTHxHEIGHT in pixels; the nearest of the sizes that the model was trained at is "
        "used. Default: the one nearest to the image.",
        group="Output",
    )
    loras: tuple[str, ...] | None = setting(
        Texts(),
        "LoRA adapter, with an optional scale: PATH[:SCALE]. With a server, the name of one that it offers.",
        aliases=("lora",),
        flag="--lora",
        group="Model",
    )


@dataclass(frozen=True, kw_only=True)
class Framing(_Checked):
    """How an input image is resized for the model, and which of its pixels are kept."""

    fit: str | None = setting(
        Choice(FITS),
        '"crop" to a trained size, "pad" to one and cut the padding off the result, or "exact": keep the '
        "aspect ratio, sides rounded to 16 pixels. Default: crop.",
        group="Image",
    )
    restore: bool | None = setting(
        Flag(),
        "Map the result back onto the input at its own size. Default: no.",
        group="Image",
    )
    preserve: bool | None = setting(
        Flag(),
        "Keep the input's own pixels where the edit changed nothing. Default: no.",
        group="Image",
    )
    region: tuple[float, ...] | str | None = setting(
        Region(),
        "Change nothing outside LEFT,TOP,RIGHT,BOTTOM (pixels, or fractions of the sides), or outside the "
        "white of a mask file.",
        group="Image",
    )


_SAMPLING_DEFAULTS: dict[str, Any] = {"num_images": 1}
_FRAMING_DEFAULTS: dict[str, Any] = {"fit": "crop", "restore": False, "preserve": False}


@dataclass(frozen=True, kw_only=True)
class _Value(_Checked):
    """Base of all edits.

    Attributes:
        kind: Name of the kind, as in `to_dict`.
        needs_image: Whether there is an input image.
    """

    kind: ClassVar[str]
    needs_image: ClassVar[bool] = True

    @classmethod
    def settings(cls) -> dict[str, Setting]:
        """Return every field by its name in `to_dict`, those of `sampling` and `framing` included."""
        found = own_settings(cls)
        for part in _parts(cls).values():
            found.update(own_settings(part))
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a value from its dict; aliases of field names are accepted.

        Args:
            data: As `to_dict` returns it; `kind` may be left out, and None means "not given".

        Raises:
            FieldError: A field is unknown, given twice, or has a value that is not accepted.
        """
        given = {name: value for name, value in data.items() if name not in {"kind", "command"}}
        return cls._from_values(read_fields(cls.settings(), given, "check"))

    @classmethod
    def from_text(cls, data: Mapping[str, str]) -> Self:
        """Read a value whose fields are all text, as in a form or a CSV row; blank means "not given".

        Raises:
            FieldError: A field is unknown, given twice, or has a value that is not accepted.
        """
        given = {
            name: text for name, text in data.items() if text.strip() and name not in {"kind", "command"}
        }
        return cls._from_values(read_fields(cls.settings(), given, "parse"))

    @classmethod
    def _from_values(cls, values: Mapping[str, Any]) -> Self:
        own = {name: values[name] for name in own_settings(cls) if name in values}
        parts = {
            part_name: part(**{name: values[name] for name in own_settings(part) if name in values})
            for part_name, part in _parts(cls).items()
        }
        return cls(**own, **parts)

    def given(self) -> dict[str, Any]:
        """Return the fields that are not None, flat, with Python values."""
        found = {name: getattr(self, name) for name in own_settings(type(self))}
        for part_name, part in _parts(type(self)).items():
            found |= {name: getattr(getattr(self, part_name), name) for name in own_settings(part)}
        return {name: value for name, value in found.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return the value as a flat dict of JSON values, with its `kind`, without fields that are None."""
        settings = self.settings()
        return {
            "kind": self.kind,
            **{name: settings[name].form.to_json(value) for name, value in self.given().items()},
        }

    def to_text(self) -> dict[str, str]:
        """Return the fields that are not None as text, such as a form or a command line needs."""
        settings = self.settings()
        return {name: settings[name].form.to_text(value) for name, value in self.given().items()}

    def filled_from(self, other: _Value) -> Self:
        """Return this value with the fields that are not given taken from another value.

        A field that is given is never changed.
        """
        known = self.settings()
        values = {name: value for name, value in other.given().items() if name in known} | self.given()
        return self._from_values(values)

    def replace(self, **values: Any) -> Self:
        """Return this value with some fields set; None means "not given".

        Raises:
            FieldError: A field is unknown or has a value that is not accepted.
        """
        merged = self.given() | {name: value for name, value in values.items() if value is not None}
        for name, value in values.items():
            if value is None:
                merged.pop(name, None)
        return self._from_values(read_fields(self.settings(), merged, "check"))

    def check_complete(self) -> None:
        """Reject a value that lacks a required field, or whose seed is too large for its number of images.

        Raises:
            FieldError: A required field is not given, or the seed is too large for the number of images.
        """
        given = self.given()
        num_images = given.get("num_images", 1)
        largest = LARGEST_SEED + 1 - num_images
        if given.get("seed", 0) > largest:
            raise FieldError("seed", given["seed"], f"at most {largest} for {num_images} consecutive seeds")
        for name, one in self.settings().items():
            if one.is_required and name not in given:
                raise FieldError(name, None, one.form.expected)

    def resolve(self, defaults: Defaults, image_size: ImageSize | None = None) -> Self:
        """Return the value with all defaults filled in.

        Args:
            defaults: The checkpoint's settings, for fields that are not given.
            image_size: Size of the input image; with it, boxes are brought to pixels (left, top, right,
                bottom) and checked against the image.

        Returns:
            A value in which only fields without a default are None: `negative_prompt`, `size`, `loras` and
            `region`.

        Raises:
            FieldError: A required field is missing.
            InvalidInputError: A box does not lie in the image, or `fit` is "exact" for an image that is too narrow.
        """
        self.check_complete()
        decided: dict[str, Any] = {}
        if "sampling" in _parts(type(self)):
            decided |= {
                "num_inference_steps": defaults.num_inference_steps,
                "guidance_scale": defaults.guidance_scale,
                "seed": secrets.randbelow(2**31),
                **_SAMPLING_DEFAULTS,
            }
        if "framing" in _parts(type(self)):
            decided |= _FRAMING_DEFAULTS
        decided |= self._own_defaults()
        resolved = self._from_values(decided | self.given())
        return resolved if image_size is None else resolved._in_pixels(image_size)

    def advice(self, image_size: ImageSize | None = None) -> list[str]:
        """Return one sentence for each value that is accepted but was not trained, such as an unusual yaw."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self._check_spatial(image_size)
        return list(dict.fromkeys(str(one.message) for one in caught))

    def _own_defaults(self) -> dict[str, Any]:
        return {}

    def _in_pixels(self, image_size: ImageSize) -> Self:
        given = self.given()
        if given.get("fit") == "exact" and "size" not in given:
            exact_size(image_size.pil, _ANY_BASE_SIZE)  # rejects aspect ratios that no model takes
        region: Any = given.get("region")
        if not isinstance(region, tuple):
            return self
        return self.replace(region=_to_pixels("region", cast("tuple[float, ...]", region), image_size))

    def _check_spatial(self, image_size: ImageSize | None) -> None:
        """Let `joyimage.spatial` check the edit and warn about it; there is nothing to check by default."""


@dataclass(frozen=True, kw_only=True)
class Generate(_Value):
    """Make an image from text alone."""

    kind: ClassVar[str] = "generate"
    needs_image: ClassVar[bool] = False

    prompt: str | None = setting(Text(), "What the image shows.", is_required=True, is_positional=True)
    sampling: Sampling = Sampling()


@dataclass(frozen=True, kw_only=True)
class Edit(_Value):
    """Edit an image according to a prompt."""

    kind: ClassVar[str] = "edit"

    prompt: str | None = setting(
        Text(), 'What to do, for example "Recolor the heart orange."', is_required=True, is_positional=True
    )
    sampling: Sampling = Sampling()
    framing: Framing = Framing()


def _prompt_style() -> Any:
    return setting(
        Choice(STYLES),
        'Prompt template: "documented", or "benchmark" as in SpatialEdit-Bench. Default: documented.',
        aliases=("style", "wording"),
        old_flags=("--style",),
    )


@dataclass(frozen=True, kw_only=True)
class _Spatial(_Value):
    """Base of the three spatial edits, whose prompt is built from their other fields."""

    @property
    def prompt(self) -> str:
        """The prompt that the model is given.

        Raises:
            FieldError: A required field is missing.
            InvalidInputError: The object's name cannot be used in a prompt.
        """
        self.check_complete()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._template().prompt_in(self.given().get("prompt_style", "documented"))

    def _template(self) -> CameraMove | ObjectMove | ObjectRotation:
        raise NotImplementedError

    def _check_spatial(self, image_size: ImageSize | None) -> None:
        del image_size  # only a move depends on the image size
        self._template()

    def _own_defaults(self) -> dict[str, Any]:
        return {"prompt_style": "documented"}


@dataclass(frozen=True, kw_only=True)
class Move(_Spatial):
    """Move an object into a box; the box also sets its size."""

    kind: ClassVar[str] = "move"

    object: str | None = setting(
        Text(), 'What to move, for example "green heart".', is_required=True, is_positional=True
    )
    box: tuple[float, ...] | None = setting(
        Box(),
        "Where the object goes: LEFT,TOP,RIGHT,BOTTOM in pixels of the input, or in fractions of its sides.",
        is_required=True,
        is_positional=True,
    )
    box_form: str | None = setting(
        Choice(FORMS),
        'How BOX is written: "xyxy" for LEFT,TOP,RIGHT,BOTTOM, or "xywh" for LEFT,TOP,WIDTH,HEIGHT. Default: xyxy.',
    )
    prompt_style: str | None = _prompt_style()
    sampling: Sampling = Sampling()
    framing: Framing = Framing()

    def _own_defaults(self) -> dict[str, Any]:
        return {"box_form": "xyxy", "prompt_style": "documented"}

    def _in_pixels(self, image_size: ImageSize) -> Self:
        box = _to_pixels("box", cast("tuple[float, ...]", self.box), image_size, self.box_form or "xyxy")
        return super()._in_pixels(image_size).replace(box=box, box_form="xyxy")

    def _template(self) -> ObjectMove:
        return ObjectMove(self.object or "", (0, 0, 1, 1))  # the prompt does not depend on the box

    def _check_spatial(self, image_size: ImageSize | None) -> None:
        self._template()
        if image_size is not None:
            resolve_box(self.box or (), image_size.pil, self.box_form or "xyxy")


@dataclass(frozen=True, kw_only=True)
class Rotate(_Spatial):
    """Rotate an object to one of eight views; camera and background stay."""

    kind: ClassVar[str] = "rotate"

    object: str | None = setting(
        Text(), 'What to rotate, for example "car".', is_required=True, is_positional=True
    )
    view: str | None = setting(
        _VIEWS,
        "Where the object's front points in the image: " + ", ".join(view.value for view in View) + ".",
        is_required=True,
        is_positional=True,
    )
    prompt_style: str | None = _prompt_style()
    sampling: Sampling = Sampling()
    framing: Framing = Framing()

    def _template(self) -> ObjectRotation:
        return ObjectRotation(self.object or "", self.view or "front")


@dataclass(frozen=True, kw_only=True)
class Camera(_Spatial):
    """Move the camera on its orbit around the object in focus, or toward and away from it."""

    kind: ClassVar[str] = "camera"

    yaw: float | None = setting(
        Number(-LARGEST_YAW_DEGREES, LARGEST_YAW_DEGREES, "degrees"),
        "Degrees around the object; positive moves the camera to its right. Trained: steps of 45 from -135 "
        "to 180. Default: 0.",
    )
    pitch: float | None = setting(
        Number(-LARGEST_PITCH_DEGREES, LARGEST_PITCH_DEGREES, "degrees"),
        "Degrees up; positive raises the camera to look down. Trained: steps of 15 from -75 to 75. "
        "Default: 0.",
    )
    zoom: str | None = setting(Choice(ZOOMS), '"in", "out" or "unchanged". Default: unchanged.')
    prompt_style: str | None = _prompt_style()
    sampling: Sampling = Sampling()
    framing: Framing = Framing()

    def check_complete(self) -> None:
        """Reject a camera move that changes nothing.

        Raises:
            FieldError: The seed is too large for the number of images.
            InvalidInputError: `yaw` and `pitch` are 0 and `zoom` is unchanged.
        """
        super().check_complete()
        check_moves(self.yaw or 0, self.pitch or 0, self.zoom or "unchanged")

    def _own_defaults(self) -> dict[str, Any]:
        return {"yaw": 0, "pitch": 0, "zoom": "unchanged", "prompt_style": "documented"}

    def _template(self) -> CameraMove:
        return CameraMove(self.yaw or 0, self.pitch or 0, self.zoom or "unchanged")


@dataclass(frozen=True, kw_only=True)
class Describe(_Value):
    """Answer a question about an image."""

    kind: ClassVar[str] = "describe"

    question: str | None = setting(
        Text(), "What to ask. Default: a description of the image.", is_positional=True
    )
    max_new_tokens: int | None = setting(
        Integer(1, 4096), "Maximum number of tokens in the answer. Default: 256."
    )

    def _own_defaults(self) -> dict[str, Any]:
        return {"max_new_tokens": 256}


AnyEdit = Edit | Generate | Move | Rotate | Camera | Describe
"""An edit of any kind."""

KINDS: dict[str, type[AnyEdit]] = {one.kind: one for one in (Edit, Generate, Move, Rotate, Camera, Describe)}
"""All kinds by name."""

SPATIAL_KINDS = ("move", "rotate", "camera")


def kind_of(name: Any) -> type[AnyEdit]:
    """Return the class of a kind.

    Raises:
        FieldError: The kind is unknown.
    """
    if not isinstance(name, str) or name not in KINDS:
        raise FieldError("kind", name, "one of " + ", ".join(KINDS))
    return KINDS[name]


def from_dict(data: Mapping[str, Any]) -> AnyEdit:
    """Read any edit from the dict that its `to_dict` returns.

    Raises:
        FieldError: `kind` or another field is not accepted.
    """
    return kind_of(data.get("kind")).from_dict(data)


def _parts(cls: type[Any]) -> dict[str, type[Sampling] | type[Framing]]:
    names = {one.name for one in dataclasses.fields(cls)}
    parts: dict[str, type[Sampling] | type[Framing]] = {"sampling": Sampling, "framing": Framing}
    return {name: part for name, part in parts.items() if name in names}


def _to_pixels(
    name: str, box: tuple[float, ...], image_size: ImageSize, form: str = "xyxy"
) -> tuple[int, int, int, int]:
    """Convert a box to pixels.

    Raises:
        InvalidInputError: The box has no area or does not lie in the image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `advice` reports it
        try:
            return resolve_box(box, image_size.pil, form)
        except ValueError as error:
            raise InvalidInputError(str(error).replace("`box`", f"`{name}`")) from None
