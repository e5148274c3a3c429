"""Objects with a front, on a floor before a wall."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import ImageDraw

from joyimage.tiny.worlds import drawing, solids

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from joyimage.tiny.worlds.drawing import Mask, Pixels, Rgb
    from joyimage.tiny.worlds.solids import Part

VEHICLES = ("car", "chair", "boat")
VEHICLE_COLORS = ("blue", "green", "yellow", "purple")
FLOORS: tuple[tuple[Rgb, Rgb], ...] = (  # wall, floor
    ((238, 240, 244), (202, 206, 214)),
    ((250, 240, 222), (222, 206, 180)),
    ((226, 240, 232), (186, 212, 198)),
    ((250, 232, 236), (224, 198, 206)),
)
_GLASS, _TIRE, _LAMP, _DARK = (190, 224, 245), (52, 52, 58), (255, 248, 214), (84, 84, 92)
_WOOD = (150, 112, 78)


@dataclass(frozen=True)
class Vehicle:
    """An object with a front, on a floor before a wall, seen from a fixed raised camera.

    Attributes:
        kind: One of `VEHICLES`.
        color: One of `VEHICLE_COLORS`.
        floor: Index into `FLOORS`.
        scale: Size of the object; 1 fills about 60 % of the image's width.
        offset: Place of the object relative to the usual one, in 96ths of the image (right, down).
    """

    kind: str
    color: str
    floor: int
    scale: float
    offset: tuple[int, int]

    def render(self, view: int, size: int) -> tuple[Pixels, Mask]:
        """Draw the object under a heading of 45° times `view` (0 right, 2 front, 4 left, 6 rear).

        Returns:
            The image and the object's mask, shadow excluded.
        """
        sprite, opacity, shadow = _sprite(self.kind, self.color, view, self.scale, size)
        rows = round(self.offset[1] * size / 96)
        columns = round(self.offset[0] * size / 96)
        sprite, opacity, shadow = (
            np.roll(layer, (rows, columns), (0, 1)) for layer in (sprite, opacity, shadow)
        )
        wall, floor = FLOORS[self.floor]
        image = drawing.plain(floor, size)
        image[: round(size * 0.36)] = wall
        image *= 1 - 0.22 * shadow[..., None]
        image += opacity[..., None] * (sprite - image)
        return drawing.to_pixels(image), opacity > 0.5


@lru_cache(maxsize=1024)
def _sprite(
    kind: str, color: str, view: int, scale: float, size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Render one object once: its colors, its opacity and its shadow's."""
    camera = solids.ParallelCamera(27, scale * size * 0.28, (size * 0.5, size * 0.66))
    heading = solids.turn(-45 * view)
    parts = {"car": _car, "chair": _chair, "boat": _boat}[kind](drawing.COLORS[color])

    layers = []
    # Color and opacity follow from the same drawing over black and over white.
    for ground in ((0, 0, 0), (255, 255, 255)):
        layer = solids.canvas(ground, size)
        solids.draw_parts(ImageDraw.Draw(layer), parts, camera, heading)
        layers.append(np.asarray(layer.reduce(solids.SUPERSAMPLING), np.float32))
    over_black, over_white = layers
    opacity = 1 - (over_white - over_black).mean(2) / 255
    colors = over_black / np.maximum(opacity, 1 / 255)[..., None]

    shadow = solids.canvas(0, size)
    half_length, half_width = {"car": (1.12, 0.62), "chair": (0.6, 0.6), "boat": (1.2, 0.52)}[kind]
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    # A superellipse: the footprint of something boxy with round corners.
    rim = np.stack([np.cos(angles), np.sin(angles)], 1)
    rim = np.sign(rim) * np.abs(rim) ** 0.6 * (half_length, half_width)
    solids.draw_floor_polygon(ImageDraw.Draw(shadow), rim @ heading[:2, :2].T, camera, 255)
    return colors, opacity, np.asarray(shadow.reduce(solids.SUPERSAMPLING), np.float32) / np.float32(255)


def _car(color: Rgb) -> list[Part]:
    body = solids.box((-1.05, -0.48, 0.18), (1.05, 0.48, 0.58), color)
    cabin = solids.box((-0.85, -0.46, 0.58), (0.4, 0.46, 1.0), color, top_inset=(0.18, 0.32, 0.08, 0.08))
    cabin = solids.painted(cabin, {2: _GLASS, 3: _GLASS, 4: _GLASS, 5: _GLASS})
    wheels = [solids.wheel((x, y, 0.24), 0.25, 0.1, _TIRE) for x in (-0.62, 0.62) for y in (-0.54, 0.54)]
    lamps = [solids.box((1.05, y - 0.12, 0.32), (1.09, y + 0.12, 0.5), _LAMP) for y in (-0.3, 0.3)]
    bumper = solids.box((-1.1, -0.44, 0.22), (-1.05, 0.44, 0.36), _DARK)
    return [body, cabin, *wheels, *lamps, bumper]


def _chair(color: Rgb) -> list[Part]:
    legs = [
        solids.box((x - 0.07, y - 0.07, 0), (x + 0.07, y + 0.07, 0.55), _WOOD)
        for x in (-0.42, 0.42)
        for y in (-0.42, 0.42)
    ]
    seat = solids.box((-0.52, -0.52, 0.55), (0.55, 0.52, 0.7), color)
    back = solids.box((-0.52, -0.52, 0.7), (-0.36, 0.52, 1.6), color)
    cushion = solids.box((-0.36, -0.4, 0.7), (0.48, 0.4, 0.78), (246, 240, 226))
    return [*legs, seat, cushion, back]


def _boat(color: Rgb) -> list[Part]:
    # The hull widens upward: the tapered column stands on its head.
    outline = [(-1.05, -0.48), (0.45, -0.48), (1.25, 0.0), (0.45, 0.48), (-1.05, 0.48)]
    hull = solids.column([(x * 0.85, y * 0.8) for x, y in outline], 0.0, 0.45, color, taper=1 / 0.85)
    hull = solids.painted(hull, {1: (198, 146, 92)})
    house = solids.box((-0.75, -0.26, 0.45), (0.1, 0.26, 0.95), (246, 246, 250), top_inset=(0, 0.12, 0, 0))
    house = solids.painted(house, {3: _GLASS})
    funnel = solids.column([(-0.5, -0.1), (-0.3, -0.1), (-0.3, 0.1), (-0.5, 0.1)], 0.95, 1.3, color)
    return [hull, house, funnel]
