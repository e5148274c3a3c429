"""Flat shapes, named colors and named places: the vocabulary of the drawn scenes, and their pixels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from joyimage.errors import InvalidInputError

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Rgb = tuple[int, int, int]
PixelBox = tuple[int, int, int, int]

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")

# No red: the red box of a move has to be the only thing a red detector (R > 180, G < 70, B < 70) can find.
COLORS: dict[str, Rgb] = {
    "blue": (40, 100, 225),
    "green": (45, 165, 75),
    "yellow": (250, 205, 30),
    "purple": (145, 65, 195),
    "orange": (240, 125, 25),
    "black": (45, 45, 52),
}

BACKGROUNDS: dict[str, Rgb] = {
    "white": (248, 248, 246),
    "grey": (208, 211, 216),  # codespell:ignore grey. As trained: the prompts say so.
    "cream": (250, 236, 206),
    "mint": (205, 238, 218),
    "pink": (250, 216, 224),
    "sky blue": (202, 226, 248),
}

# Cell of a 3x3 grid (column, row) and the words that name it.
PLACES: dict[str, tuple[int, int]] = {
    "top left": (0, 0),
    "top": (1, 0),
    "top right": (2, 0),
    "left": (0, 1),
    "center": (1, 1),
    "right": (2, 1),
    "bottom left": (0, 2),
    "bottom": (1, 2),
    "bottom right": (2, 2),
}

_SUPERSAMPLING = 4


def place_phrase(place: str) -> str:
    """Say where a place is: "on the left", "in the center", "at the top left"."""
    preposition = {"left": "on", "right": "on", "center": "in"}.get(place, "at")
    return f"{preposition} the {place}"


def with_article(noun: str) -> str:
    """Put "a" or "an" before a noun phrase."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def shape_coverage(shape: str, center: tuple[float, float], side: float, size: int) -> NDArray[np.float32]:
    """Draw one shape and return how much of each pixel it covers.

    Args:
        shape: One of `SHAPES`.
        center: Center (x, y) of the shape in pixels.
        side: Side of the square that the shape is inscribed in, in pixels.
        size: Side of the square image in pixels.

    Returns:
        Coverage in [0, 1], `[size, size]`.
    """
    coverage = np.zeros((size, size), np.float32)
    left, top = (max(0, int(c - side / 2) - 2) for c in center)
    right, bottom = (min(size, int(c + side / 2) + 3) for c in center)
    width, height = right - left, bottom - top
    window = Image.new("L", (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    outline = (_outline(shape) * (side / 2) + np.array(center) - (left, top)) * _SUPERSAMPLING - 0.5
    ImageDraw.Draw(window).polygon(outline.ravel().tolist(), fill=255)
    coverage[top:bottom, left:right] = np.asarray(window.reduce(_SUPERSAMPLING), np.float32) / 255
    return coverage


def paint(canvas: NDArray[np.float32], coverage: NDArray[np.float32], color: Rgb) -> None:
    """Lay a color over a float canvas, in place, with the coverage as opacity."""
    canvas += coverage[..., None] * (np.array(color, np.float32) - canvas)


def plain(color: Rgb, size: int) -> NDArray[np.float32]:
    """Return a float canvas of one color, `[size, size, 3]`."""
    return np.full((size, size, 3), color, np.float32)


def to_pixels(canvas: NDArray[np.float32]) -> Pixels:
    """Round a float canvas to 8-bit RGB."""
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def tight_box(mask: Mask) -> PixelBox:
    """Return the smallest (left, top, right, bottom) around a non-empty mask, right and bottom exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@lru_cache(maxsize=len(SHAPES))
def _outline(shape: str) -> NDArray[np.float64]:
    """Return the corners of a shape inscribed in [-1, 1]², y down, `[corners, 2]`.

    Raises:
        InvalidInputError: There is no such shape.
    """
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    if shape == "circle":
        return np.stack([np.cos(angles), np.sin(angles)], 1)
    if shape == "square":
        return np.array([(-0.92, -0.92), (0.92, -0.92), (0.92, 0.92), (-0.92, 0.92)])
    if shape == "triangle":
        return np.array([(0, -1), (1, 0.88), (-1, 0.88)])
    if shape == "star":
        points = np.pi * np.arange(10) / 5 - np.pi / 2
        radius = np.where(np.arange(10) % 2 == 0, 1.06, 0.47)
        return np.stack([radius * np.cos(points), radius * np.sin(points) + 0.06], 1)
    if shape == "heart":
        # The usual heart curve, scaled from 32 x 29 units and centered.
        x = 16 * np.sin(angles) ** 3
        y = 13 * np.cos(angles) - 5 * np.cos(2 * angles) - 2 * np.cos(3 * angles) - np.cos(4 * angles)
        return np.stack([x / 16, -(y + 2.5) / 15], 1)
    if shape == "cross":
        arm = 0.34
        quarter = np.array([(arm, -arm), (1, -arm), (1, arm)])
        turns = [quarter @ np.array([[c, s], [-s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
        return np.concatenate(turns)
    raise InvalidInputError(f"`shape` is {shape!r}; expected one of {', '.join(SHAPES)}.")
