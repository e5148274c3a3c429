"""An edit as a value: `Edit`, `Generate`, `Move`, `Rotate`, `Camera`, `Describe`.

Every parameter of an edit is one field here, with its help text and limits. The options of the command line,
the columns of a batch, the fields of an HTTP body, a job's row, the record in an image file, the client's
request and the page all follow from these fields.

A value has two states. *As given*, None means "not given". `resolve` returns the value with all defaults
filled in. `to_dict` and `from_dict` are the one format of both; the dict is flat, and fields that are None are
left out.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from joyimage.edits.base import EditValue, to_pixels
from joyimage.edits.compound_forms import Box
from joyimage.edits.fields import FieldError, setting
from joyimage.edits.forms import Choice, Flag, Integer, Number, Text
from joyimage.edits.parts import Framing, Sampling
from joyimage.spatial.box import FORMS, resolve_box
from joyimage.spatial.camera import (
    LARGEST_PITCH_DEGREES,
    LARGEST_YAW_DEGREES,
    ZOOMS,
    CameraMove,
    check_moves,
)
from joyimage.spatial.move import ObjectMove
from joyimage.spatial.prompts import STYLES
from joyimage.spatial.rotation import ObjectRotation, View

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from joyimage.types import ImageSize

_VIEWS = Choice(
    tuple(view.value for view in View),
    synonyms=(
        ("back", "rear"),
        ("back left", "rear left"),
        ("back right", "rear right"),
    ),
)


def _force() -> Any:
    return setting(Flag(), "Edit even if the model sees no such object in the image. Default: no.")


@dataclass(frozen=True, kw_only=True)
class Generate(EditValue):
    """Make an image from text alone."""

    kind: ClassVar[str] = "generate"
    needs_image: ClassVar[bool] = False

    prompt: str | None = setting(Text(), "What the image shows.", is_required=True, is_positional=True)
    sampling: Sampling = Sampling()


@dataclass(frozen=True, kw_only=True)
class Edit(EditValue):
    """Edit an image according to a prompt."""

    kind: ClassVar[str] = "edit"

    prompt: str | None = setting(
        Text(), 'What to do, for example "Recolor the heart orange."', is_required=True, is_positional=True
    )
    intent: str | None = setting(
        Choice(("auto", "literal")),
        '"auto" runs a request in free words, such as "show it from the left", as the spatial edit that it asks for; '
        '"literal" uses the prompt as it is. Default: auto.',
    )
    close_up: bool | None = setting(
        Flag(),
        "Show the model only the region and its surroundings, so that it is edited at full resolution, and "
        "paste the result back. Requires a region and restore. Default: no.",
        group="Image",
    )
    force: bool | None = _force()
    sampling: Sampling = Sampling()
    framing: Framing = Framing()

    def _own_defaults(self) -> dict[str, Any]:
        return {"close_up": False}


def _prompt_style() -> Any:
    return setting(
        Choice(STYLES),
        'Prompt template: "documented", or "benchmark" as in SpatialEdit-Bench. Default: documented.',
        aliases=("style", "wording"),
        old_flags=("--style",),
    )


@dataclass(frozen=True, kw_only=True)
class _Spatial(EditValue):
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
    force: bool | None = _force()
    prompt_style: str | None = _prompt_style()
    sampling: Sampling = Sampling()
    framing: Framing = Framing()

    def _own_defaults(self) -> dict[str, Any]:
        return {"box_form": "xyxy", "prompt_style": "documented"}

    def _in_pixels(self, image_size: ImageSize) -> Self:
        box = to_pixels("box", cast("tuple[float, ...]", self.box), image_size, self.box_form or "xyxy")
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
        "Direction in which the object's front points in the image: "
        + ", ".join(view.value for view in View)
        + ".",
        is_required=True,
        is_positional=True,
    )
    force: bool | None = _force()
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
        "Degrees around the object; positive moves the camera to its right. Trained: multiples of 45 from -135 "
        "to 180. Default: 0.",
    )
    pitch: float | None = setting(
        Number(-LARGEST_PITCH_DEGREES, LARGEST_PITCH_DEGREES, "degrees"),
        "Degrees up; positive raises the camera, which looks down. Trained: multiples of 15 from -75 to 75. "
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
class Describe(EditValue):
    """Answer a question about an image."""

    kind: ClassVar[str] = "describe"

    question: str | None = setting(
        Text(),
        "Question to answer. Default: describe one image, or say what changed between two.",
        is_positional=True,
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
