"""What a spatial edit did, read off the pictures before and after; no judge model is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFilter

from joyimage.errors import InvalidInputError
from joyimage.spatial.move import line_width
from joyimage.spatial.red_box import is_red

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from joyimage.spatial.box import Box

# A pixel changed when a channel differs by more than this of 255: a VAE's round trip of an untouched picture
# stays below it nearly everywhere once the finest detail is smoothed away.
CHANGED = 32
# Share of the box that has to change before its object counts as arrived. An object fills its own tight box
# by half or more, and a background that looks like it hides part of that.
ARRIVED = 0.25
# Share of the ring along the box that may still be red.
RED_LEFT = 0.02
# Changed area outside the box over that inside, below which no object left its old place. Of 60 drawn moves
# the least is 0.8; where the tiny model is asked for an object that isn't there, 0.4 is the median.
VACATED = 0.25
# Share of the rest that may change; the object's old place is part of the rest.
UNTOUCHED = 0.25


@dataclass(frozen=True, kw_only=True)
class SpatialChecks:
    """What changed between two pictures of one size.

    Attributes:
        changed: Share of the picture that changed, 0 to 1.
        red_left: Share of the ring along the box that is red and wasn't before; None without a box.
        box_changed: Share of the box inside its line that changed; None without a box.
        outside_changed: Share of the rest that changed, the object's old place included; None without a box.
        vacated: Changed area outside the box over changed area inside it, about 1 where an object that keeps
            its size left its old place; None without a box, or where nothing in it changed.
    """

    changed: float
    red_left: float | None = None
    box_changed: float | None = None
    outside_changed: float | None = None
    vacated: float | None = None

    @property
    def problems(self) -> list[str]:
        """Return what looks wrong, in words; an empty list where nothing does."""
        found = []
        if self.red_left is not None and self.red_left > RED_LEFT:
            found.append(f"{self.red_left:.0%} of the red box is still there")
        if self.box_changed is not None and self.box_changed < ARRIVED:
            found.append(f"only {self.box_changed:.0%} of the box changed: the object may not have arrived")
        elif self.vacated is not None and self.vacated < VACATED:
            found.append(
                "hardly anything outside the box changed: the object may still be in its old place, or there"
                " was none of this name"
            )
        if self.outside_changed is not None and self.outside_changed > UNTOUCHED:
            found.append(f"{self.outside_changed:.0%} of the picture outside the box changed")
        if self.red_left is None and self.changed == 0:
            found.append("nothing changed")
        return found

    @property
    def summary(self) -> str:
        """Return all findings as one sentence."""
        return (
            "; ".join(self.problems) or f"no problem found, {self.changed:.0%} of the picture changed"
        ) + "."


def check_edit(before: Image.Image, after: Image.Image, box: Box | None = None) -> SpatialChecks:
    """Compare two pictures of one size.

    Args:
        before: Without a red box.
        after: The result.
        box: Of a move, where the object should be, in pixels.

    Returns:
        Shares of what changed.

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
    inside &= ~ring  # a box that stayed is no object
    new_red = is_red(np.asarray(after.convert("RGB"))) & ~is_red(np.asarray(before.convert("RGB")))
    outside = ~inside & ~ring
    return SpatialChecks(
        changed=float(changed.mean()),
        red_left=float(new_red[ring].mean()),
        box_changed=float(changed[inside].mean()) if inside.any() else 0.0,
        outside_changed=float(changed[outside].mean()) if outside.any() else 0.0,
        vacated=float(changed[outside].sum() / changed[inside].sum()) if changed[inside].any() else None,
    )


def changed_pixels(before: Image.Image, after: Image.Image) -> NDArray[np.bool_]:
    """Tell where two pictures of one size differ, `[H, W]`, noise and the finest detail smoothed away."""
    radius = max(before.size) / 512
    smooth = [
        np.asarray(picture.convert("RGB").filter(ImageFilter.GaussianBlur(radius)), dtype=np.int16)
        for picture in (before, after)
    ]
    return np.abs(smooth[0] - smooth[1]).max(axis=2) > CHANGED


def _ring(shape: tuple[int, ...], box: Box, width: int) -> NDArray[Any]:
    """Return where the line of a box is, and half its width to either side, `[H, W]`.

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
