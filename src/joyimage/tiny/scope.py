"""What the embedded model can be asked for: drawn scenes at about its own size, in the words of its training."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from joyimage.imaging.pixels import flatten
from joyimage.spatial.red_box import find_components
from joyimage.tiny.worlds.drawing import BACKGROUNDS, COLORS, PLACES, SHAPES
from joyimage.tiny.worlds.vehicle import VEHICLES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

SIDE = 96
"""Side in pixels of the scenes that the model was trained on."""

_LARGEST_SIDE = 4 * SIDE
# Of a 96 x 96 sample with 16 levels per channel. Drawn scenes, solids with shading included, have at most 130 colors;
# the photographs that were tried have 160 to 860. Edits of scenes have up to 250, but some 30 of them cover nine
# tenths, where photographs need 44 to 350.
_MOST_COLORS = 150
_COVERED, _MOST_COVERING = 0.9, 34
# Of a 96 x 96 sample: at most four objects and a red box, and specks of a few pixels where JPEG blurred an edge, 20 at
# most. A page of text has more than a hundred.
_MOST_OBJECTS, _MOST_PARTS, _MOST_SPECKS = 4, 6, 40
_LARGEST_SPECK_PX = 16
_OFF_BACKGROUND = 40  # of 255, in any channel
_TEMPLATE_WORDS = (
    "a add an and at background bottom camera center change color draw erase finally front in into "
    "keep left move of on only out paint pitch put rear recolor red remove replace "
    "right rotate rotation scene show side static the to top turn unchanged view viewpoint with yaw zoom box d 3d"
)


def vocabulary() -> frozenset[str]:
    """Return every word that training prompts hold, in lower case."""
    names = (*SHAPES, *COLORS, *BACKGROUNDS, *PLACES, *VEHICLES)
    return frozenset(word for text in (*names, _TEMPLATE_WORDS) for word in _words(text))


def unknown_words(prompt: str) -> list[str]:
    """Return the words of a prompt that training never showed, in their order."""
    known = vocabulary()
    return [word for word in dict.fromkeys(_words(prompt)) if word not in known]


def is_drawn(image: Image.Image) -> bool:
    """Tell whether as few colors cover an image as a drawn scene; photographs need many more."""
    counts = np.sort(np.bincount(_color_codes(_sample(image)).ravel()))[::-1]
    num_covering = int(np.searchsorted(counts.cumsum(), _COVERED * SIDE * SIDE)) + 1
    return int(np.count_nonzero(counts)) <= _MOST_COLORS or num_covering <= _MOST_COVERING


def unreadable(image: Image.Image, question: str | None = None) -> str | None:
    """Return why the embedded model cannot be asked about an image, as the end of a sentence; None where it can.

    Args:
        image: The image.
        question: What is asked; None for a description.
    """
    if not is_drawn(image):
        return "the image has the colors of a photograph"
    if (problem := _crowded(image)) is not None:
        return problem
    if question is not None and any(letter.isalpha() and not letter.isascii() for letter in question):
        return "the question is not in English"
    return None


def _crowded(image: Image.Image) -> str | None:
    pixels = _sample(image)
    codes = _color_codes(pixels)
    background = pixels[codes == np.bincount(codes.ravel()).argmax()].mean(0)  # [3]
    boxes = find_components(np.abs(pixels - background).max(-1) > _OFF_BACKGROUND)
    sizes = [(right - left) * (bottom - top) for left, top, right, bottom in boxes]
    num_large = sum(size > _LARGEST_SPECK_PX for size in sizes)
    if num_large <= _MOST_PARTS and len(sizes) - num_large <= _MOST_SPECKS:
        return None
    num_parts = num_large if num_large > _MOST_PARTS else len(sizes)
    return f"the image has {num_parts} separate parts, and a drawn scene has at most {_MOST_OBJECTS} objects"


def _sample(image: Image.Image) -> NDArray[np.int16]:
    """Return pixels of an image, `[96, 96, 3]`."""
    return np.asarray(flatten(image).resize((SIDE, SIDE), Image.Resampling.NEAREST), np.int16)


def _color_codes(pixels: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return the color of each pixel with 16 levels per channel as one number, `[H, W]`."""
    return (pixels >> 4) @ np.array((256, 16, 1), np.int16)


def out_of_scope(prompt: str, images: Iterable[Image.Image]) -> list[str]:
    """Return what the embedded model cannot handle, one phrase each; an empty list if nothing was found."""
    found = []
    for image in images:
        if max(image.size) > _LARGEST_SIDE:
            found.append(
                f"the image has {image.width}x{image.height} pixels, and the model works at {SIDE}x{SIDE}"
            )
        if (problem := unreadable(image)) is not None:
            found.append(problem)
    words = unknown_words(prompt)
    if words:
        found.append("it never learned the word" + ("s " if len(words) > 1 else " ") + ", ".join(words[:5]))
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())
