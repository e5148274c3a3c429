"""From the caller's picture to the canvas that the model sees, and from the result back to the picture."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from joyimage.errors import InvalidInputError
from joyimage.imaging.pixels import srgb, to_8_bit, upright
from joyimage.pipeline.inputs import check_divisible
from joyimage.spatial.box import Box, resolve_box
from joyimage.spatial.frame import FITS, STEP, Placement, Size, exact_size

# Pixels of 1024 over which a cropped border and the result run into each other, and a region's edge fades.
_SEAM_PX = 12
# A border this thin, in pixels of the canvas, is rounding: the result's edge goes on over it.
_ROUNDING_PX = 1.5
# The model shifts all colors: by 7 of 255 on the published sample of a move. More is an edit of the light.
_LARGEST_SHIFT = 12
# Share of the picture that has to be shifted alike before the shift counts as the model's: what an edit
# changes is spread over many values.
_SHIFTED_ALIKE = 0.15
# A pixel is edited when it differs by more than this many times the typical difference. Up to `_LEAST` of 255
# is what a VAE does to a picture that nobody edited: 99.9 % of the published sample's background. More than
# `_MOST` is an edit in any picture, also where all of it was edited and the typical difference is large.
_TYPICAL = 6.0
_LEAST = 16.0
_MOST = 32.0
# Width over height of a canvas against the picture's, from which on one sees that it was stretched.
_SEEN_STRETCH = 1.1


@dataclass(frozen=True, kw_only=True)
class Framing:
    """How a picture goes in, and what of the result comes out.

    Attributes:
        fit: "crop" to a trained size, as published; "pad" to one; "exact": the picture's own aspect ratio.
        restore: Whether the result is mapped back onto the picture at its own size.
        preserve: Whether pixels that the edit did not touch are the picture's own.
        region: A box on the picture (pixels or fractions) or a mask of its size: nothing changes outside.
    """

    fit: str = "crop"
    restore: bool = False
    preserve: bool = False
    region: Any = None

    @property
    def is_plain(self) -> bool:
        """Whether the result is left as the model makes it."""
        return not self.restore and not self.preserve and self.region is None and self.fit != "pad"

    def check(self, *, has_image: bool, output_type: str) -> None:
        """Refuse what doesn't go together.

        Raises:
            InvalidInputError: What is wrong.
        """
        if self.fit not in FITS:
            raise InvalidInputError(f"`fit` is {self.fit!r}; expected one of {', '.join(FITS)}.")
        for name in ("restore", "preserve"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidInputError(f"`{name}` is {getattr(self, name)!r}; expected True or False.")
        if self.is_plain and self.fit == "crop":
            return
        if not has_image:
            raise InvalidInputError("`fit`, `restore`, `preserve` and `region` need an image; there is none.")
        if output_type != "pil" and not self.is_plain:
            raise InvalidInputError(
                f"`output_type` is {output_type!r}; expected 'pil' where `fit` is 'pad' or "
                "`restore`, `preserve` or `region` is given."
            )

    def choose_size(
        self, processor: Any, pictures: list[Image.Image], height: Any, width: Any
    ) -> tuple[int, int]:
        """Return the canvas's size (height, width) for pictures.

        Raises:
            InvalidInputError: They need different ones, or the wish isn't divisible.
        """
        if self.fit != "exact":
            return processor.choose_size(pictures, height, width)
        if height is not None and width is not None:
            check_divisible(height, width, STEP)
            for picture in pictures:
                stretch = width * picture.height / (height * picture.width)
                if not 1 / _SEEN_STRETCH < stretch < _SEEN_STRETCH:
                    warnings.warn(
                        f"`height` and `width` are {height} and {width} for a picture of"
                        f" {picture.width} x {picture.height}: with fit='exact' it is stretched."
                        " Leave them out, or take fit='pad'.",
                        stacklevel=3,
                    )
            return height, width
        sizes = {exact_size(picture.size, processor.config["base_size"]) for picture in pictures}
        if len(sizes) > 1:
            raise InvalidInputError("`image` holds pictures of unlike shape; edit them in separate calls.")
        exact_width, exact_height = sizes.pop()
        return exact_height, exact_width

    def place(self, picture: Image.Image, size: tuple[int, int]) -> tuple[Image.Image, Placement]:
        """Lay a picture on a canvas of a size (height, width).

        Args:
            picture: RGB.
            size: Of the canvas.

        Returns:
            The canvas, and how the picture lies on it.

        Raises:
            InvalidInputError: The canvas shows nothing of the region.
        """
        make = {"crop": Placement.crop, "pad": Placement.pad, "exact": Placement.exact}[self.fit]
        placement = make(picture.size, (size[1], size[0]))
        if self.region is not None:
            seen = lay(region_mask(self.region, picture.size), placement).crop(placement.on_canvas)
            if seen.getbbox() is None:
                raise InvalidInputError(
                    "`region` is empty or lies where the picture is cropped, so nothing could be edited; "
                    "use fit='pad' or fit='exact', which show the model the whole picture."
                )
        return lay(picture, placement), placement

    def check_region(self, size: Size) -> None:
        """Refuse a region that isn't one of a picture of this size.

        Raises:
            InvalidInputError: What is wrong with it.
        """
        region_mask(self.region, size)

    def finish(
        self,
        result: Image.Image,
        picture: Image.Image,
        placement: Placement,
        layer: Image.Image | None = None,
    ) -> tuple[Image.Image, Image.Image | None]:
        """Turn what the model made into what the caller asked for.

        Args:
            result: Of the canvas's size.
            picture: What the caller gave, RGB.
            placement: How it lay on the canvas.
            layer: The same with its transparency, RGBA, which a restored result gets back.

        Returns:
            The picture, and the mask of where it is the result (255) or the given picture (0); None without
            `preserve` and `region`.
        """
        shown = placement.on_canvas
        source = lay(picture, placement).crop(shown)
        result = result.crop(shown)  # padding is no picture: it is cut off
        mask = None
        if self.preserve:
            # Before the result is restored: on the canvas both have been scaled alike.
            mask, result = edited_mask(result, source)
        if self.region is not None:
            region = _soft_region(region_mask(self.region, picture.size))
            if not self.restore:
                # Pixels of the canvas that are only partly inside are outside.
                inside = lay(region.point([0] + [255] * 255), placement)
                inside = inside.point([0] * 255 + [255])
                region = ImageChops.darker(lay(region, placement), inside).crop(shown)
        else:
            region = None
        if self.restore:
            part, kept = _bring_back(result, placement, Image.Resampling.LANCZOS)
            border = _border_mask(kept, picture.size)
            if mask is not None:
                touched = Image.new("L", picture.size)
                touched.paste(_bring_back(mask, placement, Image.Resampling.BILINEAR)[0], kept[:2])
                mask = ImageChops.multiply(touched, border)
            else:
                mask = border
            source = picture
            result = picture.copy()
            result.paste(part, kept[:2])
            if layer is not None:
                result, source = _lift(result, layer), layer
        if region is not None:
            mask = region if mask is None else ImageChops.multiply(mask, region)
        if mask is not None:
            result = Image.composite(result, source, mask)
        profile = source.info.get("icc_profile")
        # Pixels of the source keep their meaning; a profile of CMYK or gray has none for RGB.
        result.info = {"icc_profile": profile} if profile and profile[16:20] == b"RGB " else {}
        return result, mask if self.preserve or region is not None else None

    def finish_all(
        self, results: list[Image.Image], pictures: list[Image.Image], placements: list[Placement], given: Any
    ) -> tuple[list[Image.Image], list[Image.Image] | None]:
        """Finish all results of a call.

        Args:
            results: Outputs of one picture adjacent.
            pictures: What the caller gave, RGB.
            placements: How they lay on their canvases.
            given: What the caller gave, as it came; its transparency is read from here.

        Returns:
            Pictures, and masks where `preserve` or `region` is on.
        """
        each = len(results) // len(pictures)
        sources = given if isinstance(given, (list, tuple)) and len(given) == len(pictures) else [given]
        layers = [layer_of(source) for source in sources] * (len(pictures) // len(sources))
        finished = [
            self.finish(result, pictures[n // each], placements[n // each], layers[n // each])
            for n, result in enumerate(results)
        ]
        masks = [mask for _, mask in finished if mask is not None]
        return [picture for picture, _ in finished], masks or None


def lay(picture: Image.Image, placement: Placement) -> Image.Image:
    """Scale a picture and crop or pad it to its canvas.

    Padding repeats the border's pixels: a border of another color would be content to the model.

    Args:
        picture: RGB, or a mask.
        placement: Where it goes.

    Returns:
        The canvas.
    """
    scaled = picture.resize(placement.scaled, Image.Resampling.BILINEAR)
    left, top = placement.offset
    width, height = placement.canvas
    if left >= 0 and top >= 0:
        return scaled.crop((left, top, left + width, top + height))
    pixels = np.asarray(scaled)
    before, above = max(0, -left), max(0, -top)
    behind, below = width - before - scaled.width, height - above - scaled.height
    margins = [(above, below), (before, behind)] + [(0, 0)] * (pixels.ndim - 2)
    return Image.fromarray(np.pad(pixels, margins, mode="edge"))


def edited_mask(result: Image.Image, source: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Find what an edit touched.

    The model shifts all colors a little: that shift is taken out first. What then differs by far more than
    pixels typically do was edited, unless it is a speck; the mask reaches a little further and fades out.

    Args:
        result: After the edit.
        source: Before it, of the same size.

    Returns:
        The mask, 255 where edited, and the result without the model's shift.
    """
    radius = max(1.0, max(source.size) / 512)
    before, after = (
        np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32)
        for picture in (source, result)
    )
    difference = after - before
    shift = np.array([_common_shift(difference[..., channel]) for channel in range(3)], dtype=np.float32)
    difference = np.abs(difference - shift).max(axis=2)
    corrected = (np.asarray(result, dtype=np.float32) - shift).round().clip(0, 255).astype(np.uint8)

    unedited = difference[difference < _MOST]
    typical = float(np.median(unedited)) if unedited.size else 0.0
    touched = difference > min(_MOST, max(_LEAST, _TYPICAL * typical))
    mask = Image.fromarray((touched * 255).astype(np.uint8)).filter(ImageFilter.MinFilter(3))
    # Farther out than a VAE's latent of 8 pixels smears an edge.
    mask = mask.filter(ImageFilter.MaxFilter(2 * round(4 * radius) + 3))
    # Blurred outwards only: what was touched is taken whole.
    faded = mask.filter(ImageFilter.GaussianBlur(2 * radius))
    return ImageChops.lighter(mask, faded), Image.fromarray(corrected)


def layer_of(image: Any) -> Image.Image | None:
    """Return a PIL picture with its transparency, upright RGBA; None where it has none."""
    if not isinstance(image, Image.Image):
        return None
    if image.mode not in {"RGBA", "LA", "PA", "La", "RGBa"} and "transparency" not in image.info:
        return None
    return srgb(to_8_bit(upright(image)))[0].convert("RGBA")


def _common_shift(difference: np.ndarray) -> float:
    """Return the value that most of a channel differs by; 0 where no small shift is common enough."""
    reach = 2
    edges = np.arange(-_LARGEST_SHIFT - reach - 0.5, _LARGEST_SHIFT + reach + 1)
    counts, _ = np.histogram(difference, bins=edges)
    # Column k: pixels within `reach` of a shift of k - _LARGEST_SHIFT.
    alike = np.convolve(counts, np.ones(2 * reach + 1), mode="valid")
    if alike.max() < _SHIFTED_ALIKE * difference.size:
        return 0.0
    center = int(np.argmax(alike)) - _LARGEST_SHIFT
    return float(difference[np.abs(difference - center) <= reach + 0.5].mean())


def _bring_back(
    shown: Image.Image, placement: Placement, resampling: Image.Resampling
) -> tuple[Image.Image, Box]:
    """Scale what the canvas shows of a picture to the picture's own pixels.

    Returns:
        The part, and where it lies on the picture: the pixels that the canvas shows whole, or up to the
        picture's edge where only rounding was cropped.
    """
    width, height = placement.original
    whole = placement.to_canvas((0, 0, width, height))
    edges = placement.on_canvas
    x0, y0, x1, y1 = (
        end if abs(full - seen) < _ROUNDING_PX else own
        for end, full, seen, own in zip((0, 0, width, height), whole, edges, placement.kept, strict=True)
    )
    margin = 2  # room for the rounding: the border's pixels go on
    pixels = np.asarray(shown)
    widened = np.pad(pixels, [(margin, margin)] * 2 + [(0, 0)] * (pixels.ndim - 2), mode="edge")
    left, top, right, bottom = placement.to_canvas((x0, y0, x1, y1))
    box = (
        left - edges[0] + margin,
        top - edges[1] + margin,
        right - edges[0] + margin,
        bottom - edges[1] + margin,
    )
    part = Image.fromarray(widened).resize((x1 - x0, y1 - y0), resampling, box=box)
    return part, (x0, y0, x1, y1)


def _border_mask(kept: Box, size: Size) -> Image.Image:
    """Return a mask of a size: 255 on a part of the picture, falling to 0 towards what was cropped."""
    seam = max(2, round(_SEAM_PX * max(size) / 1024))
    across, down = (
        _ramp(kept[axis + 2] - kept[axis], seam * (kept[axis] > 0), seam * (kept[axis + 2] < size[axis]))
        for axis in (0, 1)
    )
    mask = Image.new("L", size)
    ramps = 255 * np.minimum(down[:, None], across)
    mask.paste(Image.fromarray(ramps.round().astype(np.uint8)), kept[:2])
    return mask


def _ramp(length: int, start: int, stop: int) -> np.ndarray:
    """Return weights that rise over the first pixels and fall over the last."""
    weights = np.ones(length)
    place = np.arange(length)
    if start:
        weights = np.minimum(weights, (place + 1) / (start + 1))
    if stop:
        weights = np.minimum(weights, (length - place) / (stop + 1))
    return weights


def _lift(picture: Image.Image, layer: Image.Image) -> Image.Image:
    """Give a picture on white the transparency of a layer, so that on white it looks the same again."""
    opacity = np.asarray(layer.getchannel("A"), dtype=np.float32)[..., None] / 255
    shown = np.asarray(picture, dtype=np.float32)
    color = 255 - (255 - shown) / np.maximum(opacity, 1 / 255)
    lifted = Image.fromarray(color.round().clip(0, 255).astype(np.uint8))
    lifted.putalpha(layer.getchannel("A"))
    return lifted


def _soft_region(mask: Image.Image) -> Image.Image:
    """Soften the edge of a hard mask inwards, so that nothing outside changes; a mask with grays stays."""
    if sum(mask.histogram()[1:255]):
        return mask
    inside = np.asarray(mask) > 0
    inner = np.asarray(mask.filter(ImageFilter.MinFilter(3))) > 0
    outline = max(1, int((inside & ~inner).sum()))
    # Twice the area over the outline's length is a strip's width: a thin region keeps its middle.
    thickness = 2 * int(inside.sum()) / outline
    reach = min(_SEAM_PX * max(mask.size) / 1024, thickness / 4)
    blurred = mask.filter(ImageFilter.BoxBlur(reach))
    # Half of it at a straight edge, all of it `reach` inside.
    return ImageChops.darker(mask, blurred.point([max(0, 2 * value - 255) for value in range(256)]))


def region_mask(region: Any, size: Size) -> Image.Image:
    """Return a region as a mask of a picture's size, 255 inside.

    Raises:
        InvalidInputError: It is neither a box nor a mask of that size.
    """
    if isinstance(region, (Image.Image, np.ndarray)):
        mask = region if isinstance(region, Image.Image) else Image.fromarray(_to_bytes(region))
        if mask.size != size:
            raise InvalidInputError(
                f"`region` is a mask of {mask.size} pixels; expected {size}, as the picture has."
            )
        return mask.convert("L")
    if not isinstance(region, Sequence):
        raise InvalidInputError(
            f"`region` is of type {type(region).__name__}; expected a box of four numbers or a mask."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a small box warns about moves
        try:
            box = resolve_box(region, size)
        except ValueError as error:
            raise InvalidInputError(str(error).replace("`box`", "`region`")) from None
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def _to_bytes(mask: np.ndarray) -> np.ndarray:
    if mask.ndim != 2:
        raise InvalidInputError(f"`region` is an array of shape {list(mask.shape)}; expected [H, W].")
    return mask if mask.dtype == np.uint8 else ((np.asarray(mask) > 0.5) * 255).astype(np.uint8)
