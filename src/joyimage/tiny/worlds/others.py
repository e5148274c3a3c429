"""Images that are not drawn scenes: noise, gradients, textures, crowds of polygons, and text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Callable

    from joyimage.tiny.worlds.drawing import Pixels

_LETTERS = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789"


def draw_other(rng: np.random.Generator, size: int) -> Pixels:
    """Draw an image that is not a drawn scene, `[size, size, 3]` 8-bit RGB."""
    image = _KINDS[int(rng.integers(len(_KINDS)))](rng, size)
    if rng.random() < 0.5:
        image = 0.7 * image + 0.3 * _clouds(rng, size)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return noise with the spectrum of photographs, in colors that vary together."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    falloff = np.maximum(frequency, 1 / size) ** -rng.uniform(0.8, 1.8)
    fields = np.fft.ifft2(np.fft.fft2(rng.normal(size=(3, size, size))) * falloff).real
    fields /= fields.std((1, 2), keepdims=True)
    mixed = np.einsum("ij,jyx->yxi", rng.normal(0, 0.4, (3, 3)) + 0.6, fields)
    return 128 + rng.uniform(-60, 60, 3) + mixed * rng.uniform(15, 60)


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    return rng.uniform(0, 255, (size, size, 3)) * rng.uniform(0.2, 1) + rng.uniform(0, 100, 3)


def _gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    rows, columns = np.mgrid[0:size, 0:size] / size
    angle = rng.uniform(0, 2 * np.pi)
    along = (rows * np.sin(angle) + columns * np.cos(angle))[..., None]
    return rng.uniform(0, 255, 3) + along * rng.uniform(-255, 255, 3)


def _waves(rng: np.random.Generator, size: int) -> np.ndarray:
    rows, columns = np.mgrid[0:size, 0:size]
    image = np.full((size, size, 3), 128.0)
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.normal(0, 0.25, 2)
        image += np.sin(rows * y + columns * x + rng.uniform(0, 6))[..., None] * rng.uniform(-70, 70, 3)
    return image


def _crowd(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw many overlapping polygons and ellipses in colors of all kinds."""
    image = Image.new("RGB", (size, size), _color(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(8, 50))):
        x, y = rng.uniform(-10, size, 2)
        width, height = rng.uniform(3, size / 2, 2)
        if rng.random() < 0.5:
            draw.ellipse((x, y, x + width, y + height), fill=_color(rng))
        else:
            corners = rng.uniform(0, 1, (int(rng.integers(3, 7)), 2)) * (width, height) + (x, y)
            draw.polygon([tuple(corner) for corner in corners.tolist()], fill=_color(rng))
    return np.asarray(image, np.float64)


def _text(rng: np.random.Generator, size: int) -> np.ndarray:
    image = Image.new("RGB", (size, size), _color(rng))
    draw = ImageDraw.Draw(image)
    for row in range(int(rng.integers(2, 9))):
        letters = [_LETTERS[int(rng.integers(len(_LETTERS)))] for _ in range(int(rng.integers(5, 25)))]
        draw.text((float(rng.uniform(0, 20)), 11.0 * row), "".join(letters), fill=_color(rng))
    return np.asarray(image, np.float64)


def _color(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
    return red, green, blue


_KINDS: tuple[Callable[[np.random.Generator, int], np.ndarray], ...] = (
    _clouds,
    _clouds,
    _crowd,
    _crowd,
    _waves,
    _gradient,
    _noise,
    _text,
)
