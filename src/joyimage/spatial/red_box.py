"""Find red boxes in an image, drawn as the model was trained to see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from joyimage.spatial.box import Box

# How far a side may deviate from the bounding box of its component.
_SIDE_PX = 3
_SMALLEST_PX = 6
# Minimum share of each side that is red, and maximum share of the inside that is.
_SIDE_COVERED = 0.9
_INSIDE_RED = 0.02


def is_red(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which pixels `[H, W, 3]` (8-bit) have the red of a drawn box, `[H, W]`.

    Source: thresholds chosen on the samples of SpatialEdit, arXiv 2604.04911.
    """
    return (pixels[..., 0] > 180) & (pixels[..., 1] < 70) & (pixels[..., 2] < 70)


def find_red_boxes(image: Image.Image) -> list[Box]:
    """Find unfilled red rectangles and return them in order of area, largest first.

    Args:
        image: Image in any mode.

    Returns:
        Outer edges of each rectangle, (left, top, right, bottom) in pixels, right and bottom exclusive.
    """
    import numpy as np  # slow to import, and not needed to read an edit

    red = is_red(np.asarray(image.convert("RGB")))
    boxes = [box for box in find_components(red) if _is_frame(red, box)]
    return sorted(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]), reverse=True)


def _is_frame(red: NDArray[np.bool_], box: Box) -> bool:
    import numpy as np  # slow to import, and not needed to read an edit

    left, top, right, bottom = box
    if min(right - left, bottom - top) < _SMALLEST_PX:
        return False
    part = red[top:bottom, left:right]
    sides = (
        part[:_SIDE_PX].any(axis=0),
        part[-_SIDE_PX:].any(axis=0),
        part[:, :_SIDE_PX].any(axis=1),
        part[:, -_SIDE_PX:].any(axis=1),
    )
    if min(side.mean() for side in sides) < _SIDE_COVERED:
        return False
    # The line is as wide as the red run at the middle of the left side; everything beyond it is the inside.
    middle = part[part.shape[0] // 2]
    width = int(np.argmin(middle)) if not middle.all() else part.shape[1]
    margin = width + 1
    inside = part[margin:-margin, margin:-margin]
    return inside.size > 0 and inside.mean() <= _INSIDE_RED


def find_components(mask: NDArray[np.bool_]) -> list[Box]:
    """Return the bounding boxes of the 8-connected components of a mask.

    Args:
        mask: `[H, W]`.
    """
    import numpy as np  # slow to import, and not needed to read an edit

    parents: list[int] = []
    boxes: list[list[int]] = []

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    previous: list[tuple[int, int, int]] = []  # start, stop and component of the runs in the row above
    for row in np.flatnonzero(mask.any(axis=1)).tolist():
        edges = np.flatnonzero(np.diff(np.concatenate(([0], mask[row].astype(np.int8), [0]))))
        runs: list[tuple[int, int, int]] = []
        above = [run for run in previous if boxes[root(run[2])][3] == row]
        for start, stop in edges.reshape(-1, 2).tolist():
            touching = {
                root(c) for other_start, other_stop, c in above if other_start <= stop and other_stop >= start
            }
            if touching:
                own = min(touching)
            else:
                own = len(parents)
                parents.append(own)
                boxes.append([start, row, stop, row + 1])
            for other in touching - {own}:
                parents[other] = own
                boxes[own] = _join(boxes[own], boxes[other])
            boxes[own] = _join(boxes[own], [start, row, stop, row + 1])
            runs.append((start, stop, own))
        previous = runs
    return [
        (int(box[0]), int(box[1]), int(box[2]), int(box[3]))
        for index, box in enumerate(boxes)
        if parents[index] == index
    ]


def _join(first: list[int], second: list[int]) -> list[int]:
    return [
        min(first[0], second[0]),
        min(first[1], second[1]),
        max(first[2], second[2]),
        max(first[3], second[3]),
    ]
