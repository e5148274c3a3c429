"""What is in a drawn image, as a value: drawn from it, written beside it as JSON, and scored against."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from joyimage.errors import InvalidInputError
from joyimage.tiny.worlds.drawing import BACKGROUNDS
from joyimage.tiny.worlds.scenes import SceneObject, render_objects
from joyimage.tiny.worlds.turntable import Pose, Solid, Turntable
from joyimage.tiny.worlds.vehicle import Vehicle

if TYPE_CHECKING:
    from joyimage.tiny.worlds.drawing import Pixels


@dataclass(frozen=True, kw_only=True)
class FlatScene:
    """Flat objects on a plain background.

    Attributes:
        objects: The objects, all of different shapes and colors.
        background: One of `BACKGROUNDS`.
        size: Side of the image in pixels.
    """

    objects: tuple[SceneObject, ...]
    background: str
    size: int

    def render(self) -> Pixels:
        """Draw the scene, `[size, size, 3]` 8-bit RGB."""
        return render_objects(self.objects, BACKGROUNDS[self.background], self.size)


@dataclass(frozen=True, kw_only=True)
class VehicleScene:
    """One object with a front.

    Attributes:
        vehicle: The object.
        view: Heading of the object, 45° times the number (0 right, 2 front, 4 left, 6 rear).
        size: Side of the image in pixels.
    """

    vehicle: Vehicle
    view: int
    size: int

    def render(self) -> Pixels:
        """Draw the scene, `[size, size, 3]` 8-bit RGB."""
        return self.vehicle.render(self.view, self.size)[0]


@dataclass(frozen=True, kw_only=True)
class TurntableScene:
    """Solids on a turntable, seen by an orbit camera.

    Attributes:
        turntable: The disc and what stands on it.
        pose: Where the camera is.
        size: Side of the image in pixels.
    """

    turntable: Turntable
    pose: Pose
    size: int

    def render(self) -> Pixels:
        """Draw the scene, `[size, size, 3]` 8-bit RGB."""
        return self.turntable.render(self.pose, self.size)[0]


Scene = FlatScene | VehicleScene | TurntableScene

_KINDS = {"flat": FlatScene, "vehicle": VehicleScene, "turntable": TurntableScene}


def scene_to_dict(scene: Scene) -> dict[str, Any]:
    """Return a scene as JSON data; `scene_from_dict` reads it."""
    (kind,) = (name for name, scene_type in _KINDS.items() if isinstance(scene, scene_type))
    return {"kind": kind, **asdict(scene)}


def scene_from_dict(data: dict[str, Any]) -> Scene:
    """Read what `scene_to_dict` returned.

    Args:
        data: JSON data.

    Returns:
        The scene.

    Raises:
        InvalidInputError: The kind is unknown, or a field is missing or unknown.
    """
    fields = dict(data)
    kind = fields.pop("kind", None)
    try:
        if kind == "flat":
            return FlatScene(**{**fields, "objects": tuple(_object(item) for item in fields["objects"])})
        if kind == "vehicle":
            vehicle = fields["vehicle"]
            return VehicleScene(
                **{**fields, "vehicle": Vehicle(**{**vehicle, "offset": tuple(vehicle["offset"])})}
            )
        if kind == "turntable":
            table = fields["turntable"]
            solids = tuple(Solid(**{**solid, "place": tuple(solid["place"])}) for solid in table["solids"])
            turntable = Turntable(**{**table, "solids": solids})
            return TurntableScene(**{**fields, "turntable": turntable, "pose": Pose(**fields["pose"])})
    except (KeyError, TypeError) as error:
        raise InvalidInputError(
            f"The description of a scene of kind {kind!r} is not valid: {error}."
        ) from None
    raise InvalidInputError(f"`kind` is {kind!r}; expected one of {', '.join(_KINDS)}.")


def _object(item: dict[str, Any]) -> SceneObject:
    return SceneObject(**{**item, "center": tuple(item["center"])})
