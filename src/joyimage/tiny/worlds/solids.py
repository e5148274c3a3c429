"""Shaded solids: convex parts, projected, ordered back to front and filled. Numpy and Pillow only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from joyimage.tiny.worlds.drawing import Rgb

Points = NDArray[np.float64]

SUPERSAMPLING = 3
_LIGHT = np.array((0.45, -0.35, 0.82))
_AMBIENT, _DIFFUSE = 0.62, 0.42


@dataclass(frozen=True)
class Part:
    """One convex solid.

    Attributes:
        points: Corners in the world, `[corners, 3]`, z up.
        faces: Corner indices of every face, counter-clockwise seen from outside.
        colors: Color of every face before shading.
    """

    points: Points
    faces: tuple[tuple[int, ...], ...]
    colors: tuple[Rgb, ...]

    def moved(self, matrix: Points, offset: Sequence[float] = (0.0, 0.0, 0.0)) -> Part:
        """Return the part under a linear map (rows are points: `p @ matrix.T`) and a shift."""
        return Part(self.points @ matrix.T + np.asarray(offset), self.faces, self.colors)


class Projection(Protocol):
    """A camera: where points are projected, and where it is."""

    def project(self, points: Points) -> Points:
        """Return pixel positions (x right, y down) of world points, `[points, 2]`."""
        ...

    def toward(self, point: Points) -> Points:
        """Return a vector that points from a world point to the camera."""
        ...


@dataclass(frozen=True)
class ParallelCamera:
    """A camera at infinity that looks along +y and down by `elevation_degrees`: x stays x.

    Attributes:
        elevation_degrees: Angle above the floor.
        scale_px: Pixels per unit.
        origin_px: Where the world's origin lands.
    """

    elevation_degrees: float
    scale_px: float
    origin_px: tuple[float, float]

    def project(self, points: Points) -> Points:
        """Return pixel positions of world points."""
        elevation = np.radians(self.elevation_degrees)
        up = points[:, 2] * np.cos(elevation) + points[:, 1] * np.sin(elevation)
        return np.stack([points[:, 0], -up], 1) * self.scale_px + np.array(self.origin_px)

    def toward(self, point: Points) -> Points:  # noqa: ARG002 - part of the protocol
        """Return the direction to the camera, the same everywhere."""
        elevation = np.radians(self.elevation_degrees)
        return np.array((0.0, -np.cos(elevation), np.sin(elevation)))


@dataclass(frozen=True)
class OrbitCamera:
    """A pinhole camera on a sphere around a focus, aimed at it.

    Attributes:
        azimuth_degrees: Angle from the x axis, counter-clockwise seen from above.
        elevation_degrees: Angle above the floor.
        distance: Distance from the focus.
        focus: What the camera looks at.
        focal_px: Focal length in pixels.
        center_px: Where the focus lands.

    Source: C = F + d (cos e cos a, cos e sin a, sin e), z up; positive yaw adds to a, positive pitch to e.
    """

    azimuth_degrees: float
    elevation_degrees: float
    distance: float
    focus: tuple[float, float, float]
    focal_px: float
    center_px: float

    @property
    def position(self) -> Points:
        """Return where the camera is."""
        return np.array(self.focus) + self.distance * self._backward

    @property
    def _backward(self) -> Points:
        a, e = np.radians(self.azimuth_degrees), np.radians(self.elevation_degrees)
        return np.array((np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)))

    def project(self, points: Points) -> Points:
        """Return pixel positions of world points."""
        a = np.radians(self.azimuth_degrees)
        backward = self._backward
        right = np.array((-np.sin(a), np.cos(a), 0.0))
        up = np.cross(backward, right)
        relative = points - self.position
        depth = -(relative @ backward)
        plane = np.stack([relative @ right, -(relative @ up)], 1) / depth[:, None]
        return plane * self.focal_px + self.center_px

    def toward(self, point: Points) -> Points:
        """Return the vector from a point to the camera."""
        return self.position - point


def box(
    low: Sequence[float], high: Sequence[float], color: Rgb, *, top_inset: Sequence[float] = (0, 0, 0, 0)
) -> Part:
    """Build a box from two corners; `top_inset` pulls the top's -x, +x, -y, +y sides inward (a frustum)."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    back, front, right, left = top_inset
    bottom = [(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)]
    top = [
        (x0 + back, y0 + right, z1),
        (x1 - front, y0 + right, z1),
        (x1 - front, y1 - left, z1),
        (x0 + back, y1 - left, z1),
    ]
    return _prism(bottom, top, color)


def column(
    outline: Sequence[tuple[float, float]], low: float, high: float, color: Rgb, *, taper: float = 1.0
) -> Part:
    """Raise a convex counter-clockwise outline from one height to another; `taper` scales the top."""
    middle = np.mean(np.array(outline), 0)
    top = [(*(middle + taper * (np.array(corner) - middle)), high) for corner in outline]
    return _prism([(x, y, low) for x, y in outline], top, color)


def wheel(center: Sequence[float], radius: float, thickness: float, color: Rgb, corners: int = 12) -> Part:
    """Build an upright disc in the x-z plane, extruded along y around its center."""
    x, y, z = center
    angles = 2 * np.pi * np.arange(corners) / corners
    rim = [(x + radius * np.cos(angle), z + radius * np.sin(angle)) for angle in angles]
    near = [(u, y + thickness / 2, v) for u, v in rim]
    far = [(u, y - thickness / 2, v) for u, v in rim]
    return _prism(near, far, color)


def painted(part: Part, colors: dict[int, Rgb]) -> Part:
    """Return the part with some faces in other colors; a prism's faces are bottom, top, then its sides."""
    return Part(part.points, part.faces, tuple(colors.get(i, color) for i, color in enumerate(part.colors)))


def draw_parts(
    draw: ImageDraw.ImageDraw, parts: Sequence[Part], camera: Projection, heading: Points | None = None
) -> None:
    """Fill the visible faces of parts, the farthest part first.

    Args:
        draw: Where to draw; its image is `SUPERSAMPLING` times larger than the camera's pixels.
        parts: Convex parts whose bounding boxes, in their own frame, do not overlap.
        camera: The view.
        heading: Rotation from the parts' frame to the world; None for none.
    """
    rotation = np.eye(3) if heading is None else heading
    for part in _back_to_front(parts, rotation, camera):
        world = part.points @ rotation.T
        flat = camera.project(world) * SUPERSAMPLING - 0.5
        for face, color in zip(part.faces, part.colors, strict=True):
            corners = world[list(face)]
            normal = np.cross(corners[1] - corners[0], corners[2] - corners[1])
            if normal @ camera.toward(corners[0]) <= 0:
                continue
            light = _AMBIENT + _DIFFUSE * max(0.0, float(normal @ _LIGHT / np.linalg.norm(normal)))
            shade = tuple(int(min(255, round(channel * light))) for channel in color)
            draw.polygon(flat[list(face)].ravel().tolist(), fill=shade)


def draw_floor_polygon(
    draw: ImageDraw.ImageDraw, outline: Points, camera: Projection, fill: Rgb | int, height: float = 0.0
) -> None:
    """Fill a polygon that lies flat at one height, `[corners, 2]`."""
    points = np.column_stack([outline, np.full(len(outline), height)])
    draw.polygon((camera.project(points) * SUPERSAMPLING - 0.5).ravel().tolist(), fill=fill)


def canvas(color: Rgb | int, size: int) -> Image.Image:
    """Return a supersampled canvas: RGB for a color, grayscale for a number."""
    mode = "L" if isinstance(color, int) else "RGB"
    return Image.new(mode, (size * SUPERSAMPLING, size * SUPERSAMPLING), color)


def turn(degrees: float) -> Points:
    """Return the rotation about the vertical axis, counter-clockwise seen from above."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([(c, -s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0)])


def _prism(
    bottom: Sequence[tuple[float, float, float]], top: Sequence[tuple[float, ...]], color: Rgb
) -> Part:
    count = len(bottom)
    sides = tuple((i, (i + 1) % count, (i + 1) % count + count, i + count) for i in range(count))
    faces = (tuple(reversed(range(count))), tuple(range(count, 2 * count)), *sides)
    return Part(np.array([*bottom, *top], np.float64), faces, (color,) * len(faces))


def _back_to_front(parts: Sequence[Part], rotation: Points, camera: Projection) -> list[Part]:
    """Order parts so that none is drawn before one that it can hide.

    Of two boxes that a plane separates, only the one on the camera's side can hide the other.

    Returns:
        The parts in drawing order.
    """
    lows = [part.points.min(0) for part in parts]
    highs = [part.points.max(0) for part in parts]

    def can_hide(a: int, b: int) -> bool:
        for axis in range(3):
            for sign, gap_low, gap_high in (
                (1, highs[a][axis], lows[b][axis]),
                (-1, highs[b][axis], lows[a][axis]),
            ):
                if gap_high >= gap_low - 1e-9:
                    plane = np.zeros(3)
                    plane[axis] = (gap_low + gap_high) / 2
                    if sign * (rotation.T @ camera.toward(rotation @ plane))[axis] >= 0:
                        return False
        return True

    left = list(range(len(parts)))
    hides = {a: {b for b in left if b != a and can_hide(a, b)} for a in left}
    ordered: list[Part] = []
    while left:
        # A cycle cannot be drawn right by any order; the part that hides the fewest goes first.
        first = min(left, key=lambda a: len(hides[a] & set(left)))
        ordered.append(parts[first])
        left.remove(first)
    return ordered
