"""Solids on a marked turntable, seen by an orbit camera."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import ImageDraw

from joyimage.tiny.worlds import drawing, solids

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from joyimage.tiny.worlds.drawing import Mask, Pixels, Rgb
    from joyimage.tiny.worlds.solids import Part

SOLIDS = ("cube", "pyramid", "cylinder")

TABLE_BACKGROUNDS: tuple[Rgb, ...] = ((244, 245, 248), (250, 238, 214), (212, 238, 222), (210, 228, 248))

ELEVATION_DEGREES = 30
DISTANCE = 4.0
ZOOM_IN, ZOOM_OUT = 0.8, 1.25


@dataclass(frozen=True)
class Pose:
    """Where the orbit camera stands, in whole degrees and in units of the usual distance."""

    azimuth: int
    elevation: int = ELEVATION_DEGREES
    distance: float = 1.0

    def moved(self, yaw: int, pitch: int, zoom: str) -> Pose:
        """Return the pose after a camera move; `zoom` is "in", "out" or "unchanged"."""
        factor = {"in": ZOOM_IN, "out": ZOOM_OUT, "unchanged": 1.0}[zoom]
        return Pose((self.azimuth + yaw) % 360, self.elevation + pitch, self.distance * factor)


@dataclass(frozen=True)
class Solid:
    """A solid on the turntable, by the name of its form and color and its place on the disc."""

    form: str
    color: str
    place: tuple[float, float]


@dataclass(frozen=True)
class Turntable:
    """A disc with four differently colored marks on its rim and one or two solids on it.

    Attributes:
        solids: What stands on the disc.
        background: Index into `TABLE_BACKGROUNDS`.
    """

    solids: tuple[Solid, ...]
    background: int

    def render(self, pose: Pose, size: int) -> tuple[Pixels, Mask]:
        """Draw the world from a pose.

        Returns:
            The image and the mask of the turntable with everything on it.
        """
        focus = (0.0, 0.0, 0.2)
        focal = 1.42 * size
        camera = solids.OrbitCamera(
            pose.azimuth, pose.elevation, DISTANCE * pose.distance, focus, focal, size / 2
        )
        background = TABLE_BACKGROUNDS[self.background]
        image = solids.canvas(background, size)
        draw = ImageDraw.Draw(image)
        solids.draw_parts(draw, [_DISC], camera)
        for outline, color in _MARKS:
            solids.draw_floor_polygon(draw, outline, camera, color)
        solids.draw_parts(draw, [_solid_part(solid) for solid in self.solids], camera)

        pixels = np.asarray(image.reduce(solids.SUPERSAMPLING))
        cover = solids.canvas(0, size)
        cover_draw = ImageDraw.Draw(cover)
        for part in (_DISC, *(_solid_part(solid) for solid in self.solids)):
            flat = camera.project(part.points) * solids.SUPERSAMPLING - 0.5
            for face in part.faces:
                cover_draw.polygon(flat[list(face)].ravel().tolist(), fill=255)
        return pixels, np.asarray(cover.reduce(solids.SUPERSAMPLING)) > 127


def _solid_part(solid: Solid) -> Part:
    x, y = solid.place
    color = drawing.COLORS[solid.color]
    if solid.form == "cube":
        return solids.box((x - 0.26, y - 0.26, 0), (x + 0.26, y + 0.26, 0.52), color)
    if solid.form == "pyramid":
        inset = 0.29
        return solids.box((x - 0.3, y - 0.3, 0), (x + 0.3, y + 0.3, 0.72), color, top_inset=(inset,) * 4)
    angles = 2 * np.pi * np.arange(16) / 16
    rim = [(x + 0.25 * np.cos(angle), y + 0.25 * np.sin(angle)) for angle in angles]
    return solids.column(rim, 0, 0.66, color)


def _rim_sector(middle_degrees: float, half_width_degrees: float = 17) -> NDArray[np.float64]:
    angles = np.radians(middle_degrees + np.linspace(-half_width_degrees, half_width_degrees, 7))
    arc = np.stack([np.cos(angles), np.sin(angles)], 1)
    return np.concatenate([0.97 * arc, 0.66 * arc[::-1]])


_DISC = solids.column(
    [(np.cos(angle), np.sin(angle)) for angle in 2 * np.pi * np.arange(40) / 40], -0.1, 0.0, (186, 180, 172)
)
_MARKS: tuple[tuple[NDArray[np.float64], Rgb], ...] = tuple(
    (_rim_sector(90 * quarter), drawing.COLORS[color])
    for quarter, color in enumerate(("blue", "yellow", "purple", "black"))
)
