"""Measure what a spatial edit did from the images before and after it, without a judge model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageFilter

from joyimage.errors import InvalidInputError
from joyimage.spatial.move import line_width
from joyimage.spatial.red_box import is_red

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from joyimage.spatial.box import Box

# A pixel changed when a channel differs by more than this of 255: a VAE's round trip of an untouched image stays
# below it nearly everywhere once the finest detail is smoothed away.
CHANGED = 32
# Share of the box that has to change before its object counts as arrived. An object fills its own tight box by half
# or more, and a background that looks like it hides part of that.
ARRIVED = 0.25
# Share of the ring along the box that may still be red.
RED_LEFT = 0.02
# Changed area outside the box over that inside. Below this no object left its old place: of 150 drawn moves the least
# is 0.86, and where the tiny model is asked for an object that isn't there, 0.4 is the median.
VACATED = 0.25
# Changed area outside the box over the area of the box. Above this more was changed than one object leaves behind: a
# square that shrinks to 0.8 times its size leaves 1.56.
LEFT_AREA = 2.0
# Share of the rest that may change; the object's old place is part of the rest.
UNTOUCHED = 0.25
# Overlap of the colors that left with those that arrived, 0 to 1. Of 150 drawn moves the least is .70; where another
# object vanished than the one that arrived, .10 is the most.
SAME_LOOK = 0.4
# Share of what arrived that must have the color in the object's name, and below which it has another color.
NAMED_COLOR = (0.5, 0.1)

Verdict = Literal["done", "failed", "not judged"]


@dataclass(frozen=True, kw_only=True)
class SpatialChecks:
    """What changed between two images of one size, as far as pixels tell.

    Attributes:
        changed: Share of the image that changed, 0 to 1.
        red_left: Share of the ring along the box that is red and wasn't before; None without a box.
        box_changed: Share of the box inside its line that changed; None without a box.
        outside_changed: Share of the rest that changed, the object's old place included; None without a box.
        vacated: Changed area outside the box over changed area inside it, about 1 where an object that keeps its size
            left its old place; None without a box, or where nothing in it changed.
        left_area: Changed area outside the box over the area of the box; None without a box.
        same_look: Overlap of the colors of what left its place with those of what arrived in the box, 0 to 1; None
            without a box, or where nothing left or arrived.
        named_color: Color in the object's name, such as "green"; None where there is none.
        named_color_share: Share of what arrived that has that color; None where there is none.
    """

    changed: float
    red_left: float | None = None
    box_changed: float | None = None
    outside_changed: float | None = None
    vacated: float | None = None
    left_area: float | None = None
    same_look: float | None = None
    named_color: str | None = None
    named_color_share: float | None = None

    @property
    def problems(self) -> list[str]:
        """Return what looks wrong, one phrase each; an empty list where nothing that was measured does."""
        if self.changed == 0:
            return ["nothing changed"]
        found: list[str] = []
        if self.red_left is not None and self.red_left > RED_LEFT:
            found.append(f"{self.red_left:.0%} of the red box is still there")
        if self.box_changed is not None and self.box_changed < ARRIVED:
            found.append(f"only {self.box_changed:.0%} of the box changed: the object may not have arrived")
        elif self.vacated is not None and self.vacated < VACATED:
            found.append(
                "hardly anything outside the box changed: the object may still be in its old place, or there was none "
                "of this name"
            )
        elif self.same_look is not None and self.same_look < SAME_LOOK:
            found.append("what is in the box does not have the colors of what left its place")
        if self.left_area is not None and self.left_area > LEFT_AREA:
            found.append(
                f"{self.left_area:.1f} times the area of the box changed outside of it: more than the object may have "
                "changed"
            )
        if self.named_color_share is not None and self.named_color_share < NAMED_COLOR[1]:
            found.append(f"what arrived in the box is not {self.named_color}: another object may have moved")
        if self.outside_changed is not None and self.outside_changed > UNTOUCHED:
            found.append(f"{self.outside_changed:.0%} of the image outside the box changed")
        return found

    @property
    def verdict(self) -> Verdict:
        """Return "failed" where something looks wrong, and "done" only where pixels show that it was done.

        They show it for a move of an object that is named by its color: something of that color left its place and
        arrived in the box. All else is "not judged".
        """
        if self.problems:
            return "failed"
        has_color = self.named_color_share is not None and self.named_color_share >= NAMED_COLOR[0]
        return "done" if has_color and self.same_look is not None else "not judged"

    @property
    def summary(self) -> str:
        """Return all that was measured, and what was not judged, as one sentence."""
        if self.problems:
            return "; ".join(self.problems) + "."
        measured = f"{max(self.changed, 0.01):.0%} of the image changed"
        if self.box_changed is None:
            return f"{measured}; whether it is the right change is not judged."
        if self.verdict == "done":
            return f"{measured}: something {self.named_color} left its place and is now in the box."
        if self.same_look is None:
            return f"{measured}, the box among it; whether the object moved there is not judged."
        moved = "something left its place and is now in the box"
        return f"{measured}: {moved}; whether it is the right object is not judged."

    def to_dict(self) -> dict[str, Any]:
        """Return every field with `verdict` and `summary`, as records and answers hold them."""
        return {**asdict(self), "verdict": self.verdict, "summary": self.summary}


def check_edit(
    before: Image.Image, after: Image.Image, box: Box | None = None, object: str | None = None
) -> SpatialChecks:
    """Compare two images of one size.

    Args:
        before: The input, without a red box.
        after: The result.
        box: For a move, where the object should be, in pixels.
        object: For a move, the object's name; a color in it is looked for in the box.

    Returns:
        What changed.

    Raises:
        InvalidInputError: The sizes differ.
    """
    if before.size != after.size:
        raise InvalidInputError(f"`after` has {after.size} pixels; expected {before.size}, as `before` has.")
    changed = changed_pixels(before, after)
    if box is None:
        return SpatialChecks(changed=float(changed.mean()))
    ring = _ring(changed.shape, box, line_width(before.size))
    inside = np.zeros_like(changed)
    inside[box[1] : box[3], box[0] : box[2]] = True
    inside &= ~ring  # a red box that is still there is not an object
    old, new = np.asarray(before.convert("RGB")), np.asarray(after.convert("RGB"))
    new_red = is_red(new) & ~is_red(old)
    outside = ~inside & ~ring
    left, arrived = old[changed & outside], new[changed & inside]  # [N, 3]
    color = next((word for word in (object or "").lower().split() if word in COLORS), None)
    return SpatialChecks(
        changed=float(changed.mean()),
        red_left=float(new_red[ring].mean()),
        box_changed=float(changed[inside].mean()) if inside.any() else 0.0,
        outside_changed=float(changed[outside].mean()) if outside.any() else 0.0,
        vacated=float(changed[outside].sum() / changed[inside].sum()) if changed[inside].any() else None,
        left_area=float(changed[outside].sum() / ((box[2] - box[0]) * (box[3] - box[1]))),
        same_look=_color_overlap(left, arrived) if len(left) and len(arrived) else None,
        named_color=color,
        named_color_share=float(has_color(arrived, color).mean()) if color and len(arrived) else None,
    )


# Hues in degrees, from and to; "brown" and "pink" overlap with orange and red, and are told from them by people only.
COLORS: dict[str, tuple[float, float] | None] = {
    "red": (340, 16),
    "orange": (14, 42),
    "brown": (5, 42),
    "yellow": (43, 75),
    "green": (70, 170),
    "cyan": (165, 200),
    "blue": (185, 262),
    "purple": (255, 325),
    "pink": (300, 20),
    "black": None,
    "white": None,
    "gray": None,
    "grey": None,  # codespell:ignore grey
}
"""Color words in names of objects."""


def has_color(pixels: NDArray[Any], color: str) -> NDArray[np.bool_]:
    """Return which pixels `[N, 3]` (8-bit RGB) match a color of `COLORS`, `[N]`."""
    values = pixels.astype(np.float64) / 255
    largest, smallest = values.max(axis=1), values.min(axis=1)
    spread = largest - smallest
    hues = COLORS[color]
    if hues is None:
        low, high = {"black": (0.0, 0.35), "white": (0.75, 1.0)}.get(color, (0.2, 0.85))
        return (spread < 0.2) & (largest >= low) & (largest <= high)
    red, green, blue = values[:, 0], values[:, 1], values[:, 2]
    safe = np.where(spread == 0, 1, spread)
    sixth = np.where(
        largest == red,
        (green - blue) / safe,
        np.where(largest == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue = sixth * 60 % 360
    first, last = hues
    is_between = (hue >= first) & (hue <= last) if first <= last else (hue >= first) | (hue <= last)
    return is_between & (spread > 0.12)


def _color_overlap(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return how much the color distributions of two sets of pixels `[N, 3]` overlap, 0 to 1."""
    shares: list[NDArray[np.float64]] = []
    for pixels in (first, second):
        # Coarse cells, blurred over their neighbors, so that shades of one color count as the same.
        found, _ = np.histogramdd(pixels, bins=(8, 8, 8), range=((0, 256),) * 3)
        cells: NDArray[np.float64] = np.pad(found, 1)
        for axis in range(3):
            cells = np.add.reduce(
                [np.take(cells, range(shift, cells.shape[axis] - 2 + shift), axis) for shift in range(3)]
            )
        shares.append(cells / cells.sum())
    return float(np.minimum(shares[0], shares[1]).sum())


def changed_pixels(before: Image.Image, after: Image.Image) -> NDArray[np.bool_]:
    """Return where two images of one size differ, `[H, W]`, after smoothing noise and the finest detail."""
    radius = max(before.size) / 512
    smooth = [
        np.asarray(image.convert("RGB").filter(ImageFilter.GaussianBlur(radius)), dtype=np.int16)
        for image in (before, after)
    ]
    return np.abs(smooth[0] - smooth[1]).max(axis=2) > CHANGED


def _ring(shape: tuple[int, ...], box: Box, width: int) -> NDArray[Any]:
    """Return where the line of a box is, extended by half its width on both sides, `[H, W]`.

    Source: the ring of the red residue in SpatialEdit's measures, arXiv 2604.04911.
    """
    left, top, right, bottom = box
    margin = round(width / 2)
    ring = np.zeros(shape, dtype=bool)
    ring[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin] = True
    inset = width + margin
    ring[top + inset : max(top + inset, bottom - inset), left + inset : max(left + inset, right - inset)] = (
        False
    )
    return ring
