"""Exact scores of an edited scene: no judge model, only the truth that the scene was drawn from.

"Done": the requested change happened. "Strict": done, and nothing else changed. All thresholds are below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from joyimage.errors import InvalidInputError
from joyimage.evaluation.metrics import intersection_over_union, psnr, sharpness
from joyimage.evaluation.suites import Score
from joyimage.tiny.worlds import drawing
from joyimage.tiny.worlds.drawing import COLORS, SHAPES, Mask, PixelBox, Pixels, Rgb
from joyimage.tiny.worlds.scenes import CAMERA_MOVES, EditCase, SceneObject

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The usual bound for "found in the right place" (PASCAL VOC); two 25 px squares fall below it when shifted by
# 4.6 px along both axes. Different shapes overlap by more, so the shape is told apart on its own.
IOU_PLACED = 0.5
# What only changes its color keeps its outline: 25 px squares fall below at 1.9 px along both axes.
IOU_SAME_OUTLINE = 0.75
# Share of an object's old place that is background again. An object that stays leaves 0.
VACATED = 0.9
# Euclidean distance in 8-bit RGB below which a pixel counts as background again, about ΔE 10 on these light
# backgrounds; every object color is at least 160 away from all of them.
BACKGROUND_DISTANCE = 30.0
# Share of the subject's pixels that may keep its old color anywhere in the image.
LEFT_OVER = 0.1
# Share of the red box's ring that may still be reddish, and the opacity of red that makes a pixel reddish.
RED_LEFT = 0.02
RED_OPACITY = 0.25
# Bystanders: 20 dB inside the box is an error of 25 of 255 in every channel, or a shift by one pixel (0.5 px
# gives 25 dB, 1 px 19.7 dB, 1.5 px 17 dB).
BYSTANDER_PSNR = 20.0
# Background: 28 dB is an error of 10 of 255 everywhere, or one stray patch of 6x6 px in a strong color.
BACKGROUND_PSNR = 28.0
# Rotation and camera, whole image against the rendered target.
SPATIAL_PSNR = 24.0
# The asked view has to be the nearest one, and nearer than half of its mean distance from the others: a
# image of no view at all is nearest to some view, too.
VIEW_SHARE = 0.5
# Pixels around outlines that are left out where a background is judged; outlines are soft.
BAND_PX = 2


def score(case: EditCase, image: Image.Image | Pixels) -> Score:
    """Compare an edited image with the truth of its case.

    Args:
        case: The edit that was requested.
        image: The edited image, in the size of the case.

    Returns:
        The score.

    Raises:
        InvalidInputError: The image has another size than the case.
    """
    pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if pixels.shape != case.target.shape:
        got = " x ".join(str(length) for length in pixels.shape)
        raise InvalidInputError(
            f"`image` is {got}; expected {case.size} x {case.size} x 3, the size of the case."
        )
    if case.task == "rotate":
        return _score_rotation(case, pixels)
    if case.task == "camera":
        return _score_camera(case, pixels)
    return _score_flat(case, pixels)


def color_masks(pixels: Pixels, background: Rgb, opacity: float = 0.5) -> dict[str, Mask]:
    """Return which pixels show which named color, or red.

    A pixel of a soft outline lies on the line between the background and the object's color, and can be
    nearer to a third color than to either; so each pixel goes to the nearest of these lines, and counts from
    `opacity` of the way on.

    Args:
        pixels: 8-bit RGB, `[height, width, 3]`.
        background: Color behind the objects.
        opacity: How far from the background (0) to the color (1) a pixel must be.

    Returns:
        A mask for every name in `COLORS` and for "red".
    """
    palette = {**COLORS, "red": (255, 0, 0)}
    relative = pixels.astype(np.float64) - background
    lines = np.array(list(palette.values()), np.float64) - background
    along = np.clip(relative @ lines.T / (lines**2).sum(1), 0, 1)  # [height, width, colors]
    away = np.linalg.norm(relative[:, :, None] - along[..., None] * lines, axis=-1)
    nearest = away.argmin(-1)
    return {name: (nearest == i) & (along[..., i] > opacity) for i, name in enumerate(palette)}


def nearest_shape(mask: Mask, expected: SceneObject) -> str:
    """Name the shape that fits a mask best, scaled by up to 15 % and shifted by up to 4/96 of the image."""
    if not mask.any():
        return "nothing"
    rows, columns = np.nonzero(mask)
    limit = 4 * expected.size / 96
    best_fit, best_shape = 0.0, "nothing"
    for shape in SHAPES:
        model = drawing.shape_coverage(shape, expected.center, expected.side, expected.size) > 0.5
        model_rows, model_columns = np.nonzero(model)
        # Centers of mass line up, as far as the limit allows.
        x = expected.center[0] + float(np.clip(columns.mean() - model_columns.mean(), -limit, limit))
        y = expected.center[1] + float(np.clip(rows.mean() - model_rows.mean(), -limit, limit))
        for scale in (0.85, 1.0, 1.15):
            fitted = drawing.shape_coverage(shape, (x, y), expected.side * scale, expected.size) > 0.5
            fit = intersection_over_union(mask, fitted)
            if fit > best_fit:
                best_fit, best_shape = fit, shape
    return best_shape


def _score_flat(case: EditCase, pixels: Pixels) -> Score:
    assert case.background is not None
    masks = color_masks(pixels, case.background)
    wanted = (
        case.after
        if case.task == "text-to-image"
        else tuple(item for item in (case.result,) if item is not None)
    )
    ious = [intersection_over_union(masks[item.color], item.mask) for item in wanted]
    faults = [*_misplaced(case, masks, wanted, ious), *_left_behind(case, pixels, masks)]

    red_gone = None
    if case.box is not None:
        red_gone = _red_share(pixels, case.box, case.background) <= RED_LEFT
        if not red_gone:
            faults.append("red box left")
    if case.task == "text-to-image":
        ground = _outside([item.mask for item in case.after], case.size)
        if np.linalg.norm(np.median(pixels[ground], axis=0) - case.background) > BACKGROUND_DISTANCE:
            faults.append("background in another color")

    done = not faults
    faults.extend(
        f"{item.name} touched"
        for item in case.bystanders
        if psnr(pixels, case.target, _around(item.box, case.size)) < BYSTANDER_PSNR
    )
    ground = _outside([item.mask for item in (*case.before, *case.after)], case.size)
    background_psnr = psnr(pixels, case.target, ground)
    if background_psnr < BACKGROUND_PSNR:
        faults.append("background touched")
    return Score(
        done=done,
        strict=not faults,
        psnr=psnr(pixels, case.target),
        background_psnr=background_psnr,
        iou=min(ious) if ious else None,
        red_gone=red_gone,
        faults=tuple(faults),
    )


def _misplaced(
    case: EditCase, masks: dict[str, Mask], wanted: tuple[SceneObject, ...], ious: list[float]
) -> list[str]:
    """Return the faults of objects that should be there: not in their place, or of another shape."""
    faults: list[str] = []
    for item, iou in zip(wanted, ious, strict=True):
        if iou < (IOU_SAME_OUTLINE if case.task == "recolor" else IOU_PLACED):
            faults.append(f"{item.name} not in its place")
        elif nearest_shape(masks[item.color], item) != item.shape:
            faults.append(f"{item.name} not recognized by its shape")
    return faults


def _left_behind(case: EditCase, pixels: Pixels, masks: dict[str, Mask]) -> list[str]:
    """Return the faults of an object that should be gone from where it was."""
    subject = case.subject
    if subject is None:
        return []
    assert case.background is not None
    faults: list[str] = []
    old_place = subject.mask
    if case.result is None or case.task == "move":
        away = np.linalg.norm(pixels[old_place].astype(np.float64) - case.background, axis=-1)
        if np.mean(away < BACKGROUND_DISTANCE) < VACATED:
            faults.append("old place not empty")
    if case.task != "move":
        left_over = np.count_nonzero(masks[subject.color]) / np.count_nonzero(old_place)
        if left_over > LEFT_OVER:
            faults.append(f"{subject.color} left over")
    return faults


def _score_rotation(case: EditCase, pixels: Pixels) -> Score:
    assert case.vehicle is not None
    assert case.views is not None
    asked = case.views[1]
    nearest, near_enough, union = _nearest_render(
        pixels, [case.vehicle.render(view, case.size) for view in range(8)], asked
    )
    steps = abs(nearest - asked)
    return _spatial_score(
        case, pixels, nearest == asked, near_enough, union, view_error_degrees=45 * min(steps, 8 - steps)
    )


def _score_camera(case: EditCase, pixels: Pixels) -> Score:
    assert case.turntable is not None
    assert case.poses is not None
    before, after = case.poses
    poses = [before, *(before.moved(*move) for move in CAMERA_MOVES)]
    if after not in poses:
        poses.append(after)
    asked = poses.index(after)
    nearest, near_enough, union = _nearest_render(
        pixels, [case.turntable.render(pose, case.size) for pose in poses], asked
    )
    return _spatial_score(case, pixels, nearest == asked, near_enough, union)


def _spatial_score(
    case: EditCase,
    pixels: Pixels,
    view_right: bool,
    near_enough: bool,
    union: Mask,
    view_error_degrees: int | None = None,
) -> Score:
    whole = psnr(pixels, case.target)
    faults = [
        fault
        for fault, is_true in (
            ("another view", not view_right),
            ("no clear view", view_right and not near_enough),
            ("image unlike the target", whole <= SPATIAL_PSNR),
        )
        if is_true
    ]
    return Score(
        done=view_right and near_enough,
        strict=not faults,
        psnr=whole,
        background_psnr=psnr(pixels, case.target, _outside([union], case.size)),
        view_right=view_right,
        view_error_degrees=view_error_degrees,
        sharpness=sharpness(pixels, case.target),
        faults=tuple(faults),
    )


def _nearest_render(pixels: Pixels, renders: list[tuple[Pixels, Mask]], asked: int) -> tuple[int, bool, Mask]:
    """Find the nearest render by mean absolute difference inside the union of all masks.

    Returns:
        Its index, whether `asked` is near by `VIEW_SHARE`, and the union.
    """
    union = np.logical_or.reduce([mask for _, mask in renders])
    views = np.stack([image[union].astype(np.float64) for image, _ in renders])  # [views, pixels, 3]
    distances = np.abs(views - pixels[union]).mean((1, 2))
    between = np.abs(views - views[asked]).mean((1, 2)).sum() / (len(renders) - 1)
    return int(distances.argmin()), bool(distances[asked] < VIEW_SHARE * between), union


def _red_share(pixels: Pixels, box: PixelBox, background: Rgb) -> float:
    """Return the share of reddish pixels within 1.5 line widths of the box's outer edge."""
    size = pixels.shape[0]
    reach = round(1.5 * max(2, round(0.004 * size)))
    left, top, right, bottom = box
    ring = np.zeros((size, size), np.bool_)
    ring[max(0, top - reach) : bottom + reach, max(0, left - reach) : right + reach] = True
    ring[top + reach : bottom - reach, left + reach : right - reach] = False
    return float(color_masks(pixels, background, RED_OPACITY)["red"][ring].mean())


def _around(box: PixelBox, size: int) -> Mask:
    left, top, right, bottom = box
    mask = np.zeros((size, size), np.bool_)
    mask[max(0, top - BAND_PX) : bottom + BAND_PX, max(0, left - BAND_PX) : right + BAND_PX] = True
    return mask


def _outside(masks: list[Mask], size: int) -> NDArray[np.bool_]:
    """Return the pixels that are more than `BAND_PX` away from every mask."""
    grown = np.logical_or.reduce([np.zeros((size, size), np.bool_), *masks])
    for _ in range(BAND_PX):
        padded = np.pad(grown, 1)
        grown = (
            padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
        )
    return ~grown
