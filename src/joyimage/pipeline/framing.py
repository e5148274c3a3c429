"""From the caller's picture to the canvas that the model sees, and from the result back to the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps

from joyimage.pipeline.inputs import check_divisible
from joyimage.spatial.box import resolve_box
from joyimage.spatial.frame import FITS, STEP, Placement, Size, exact_size

# Pixels over which a cropped border and the result run into each other, and a region's edge is softened.
_SEAM_PX = 12
# A pixel is edited when it differs by more than this many times the typical difference, and by this much at
# least (of 255): below is what a VAE does to a picture that nobody edited.
_TYPICAL = 6.0
_LEAST = 16.0


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
            ValueError: What is wrong.
        """
        if self.fit not in FITS:
            raise ValueError(f"`fit` is {self.fit!r}; expected one of {', '.join(FITS)}.")
        for name in ("restore", "preserve"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; expected True or False.")
        if self.is_plain and self.fit == "crop":
            return
        if not has_image:
            raise ValueError("`fit`, `restore`, `preserve` and `region` need an image; there is none.")
        if output_type != "pil" and not self.is_plain:
            raise ValueError(
                f"`output_type` is {output_type!r}; expected 'pil' where `fit` is 'pad' or "
                "`restore`, `preserve` or `region` is given."
            )

    def choose_size(
        self, processor: Any, pictures: list[Image.Image], height: Any, width: Any
    ) -> tuple[int, int]:
        """Return the canvas's size (height, width) for pictures.

        Raises:
            ValueError: They need different ones, or the wish isn't divisible.
        """
        if self.fit != "exact":
            return processor.choose_size(pictures, height, width)
        if height is not None and width is not None:
            check_divisible(height, width, STEP)
            return height, width
        sizes = {exact_size(picture.size, processor.config["base_size"]) for picture in pictures}
        if len(sizes) > 1:
            raise ValueError("`image` holds pictures of unlike shape; edit them in separate calls.")
        exact_width, exact_height = sizes.pop()
        return exact_height, exact_width

    def place(self, picture: Image.Image, size: tuple[int, int]) -> tuple[Image.Image, Placement]:
        """Lay a picture on a canvas of a size (height, width).

        Args:
            picture: RGB.
            size: Of the canvas.

        Returns:
            The canvas, and how the picture lies on it.
        """
        make = {"crop": Placement.crop, "pad": Placement.pad, "exact": Placement.exact}[self.fit]
        placement = make(picture.size, (size[1], size[0]))
        return lay(picture, placement), placement

    def check_region(self, size: Size) -> None:
        """Refuse a region that isn't one of a picture of this size.

        Raises:
            ValueError: What is wrong with it.
        """
        _region_mask(self.region, size)

    def finish(
        self,
        result: Image.Image,
        picture: Image.Image,
        placement: Placement,
        alpha: Image.Image | None = None,
    ) -> tuple[Image.Image, Image.Image | None]:
        """Turn what the model made into what the caller asked for.

        Args:
            result: Of the canvas's size.
            picture: What the caller gave, RGB.
            placement: How it lay on the canvas.
            alpha: Its transparency, put back where the result is restored.

        Returns:
            The picture, and the mask of what `preserve` and `region` took from the result (255), or None.
        """
        source = picture
        if self.restore:
            result = restore(result, picture, placement)
        else:
            # Padding is no picture: it is cut off.
            source = lay(picture, placement).crop(placement.on_canvas)
            result = result.crop(placement.on_canvas)
        mask = None
        if self.preserve:
            mask, result = edited_mask(result, source)
        if self.region is not None:
            region = _region_mask(self.region, picture.size)
            if not self.restore:
                region = lay(region, placement).crop(placement.on_canvas)
            region = region.filter(ImageFilter.GaussianBlur(_SEAM_PX * max(source.size) / 1024 / 2))
            mask = region if mask is None else ImageChops.multiply(mask, region)
        if mask is not None:
            result = Image.composite(result, source, mask)
        if self.restore and alpha is not None:
            result.putalpha(alpha)
        return result, mask

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
        alphas = [alpha_of(source) for source in sources] * (len(pictures) // len(sources))
        finished = [
            self.finish(result, pictures[n // each], placements[n // each], alphas[n // each])
            for n, result in enumerate(results)
        ]
        masks = [mask for _, mask in finished if mask is not None]
        return [picture for picture, _ in finished], masks or None


def lay(picture: Image.Image, placement: Placement) -> Image.Image:
    """Scale a picture and crop or pad it to its canvas.

    Padding repeats the border's pixels: a border of another colour would be content to the model.

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


def restore(result: Image.Image, picture: Image.Image, placement: Placement) -> Image.Image:
    """Map a result back onto the picture at its own size.

    Args:
        result: Of the canvas's size.
        picture: What was given; its cropped borders are taken from here, and run into the result softly.
        placement: How it lay on the canvas.

    Returns:
        RGB of the picture's size.
    """
    kept = placement.kept
    size = kept[2] - kept[0], kept[3] - kept[1]
    part = result.resize(size, Image.Resampling.BICUBIC, box=placement.to_canvas(kept))
    width, height = picture.size
    seam = max(2, round(_SEAM_PX * max(picture.size) / 1024))
    across = _ramp(size[0], seam if kept[0] > 0 else 0, seam if kept[2] < width else 0)
    down = _ramp(size[1], seam if kept[1] > 0 else 0, seam if kept[3] < height else 0)
    mask = Image.fromarray((255 * np.minimum(down[:, None], across)).round().astype(np.uint8))
    restored = picture.copy()
    restored.paste(part, kept[:2], mask)
    return restored


def edited_mask(result: Image.Image, source: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Find what an edit touched.

    The VAE shifts colours a little all over: the typical shift is taken out first. What then differs by far
    more than pixels typically do was edited; the mask reaches a little further and fades out.

    Args:
        result: After the edit.
        source: Before it, of the same size.

    Returns:
        The mask, 255 where edited, and the result without the typical shift.
    """
    before, after = (np.asarray(picture, dtype=np.float32) for picture in (source, result))
    shift = np.median(after - before, axis=(0, 1))
    after = (after - shift).clip(0, 255)
    corrected = Image.fromarray(after.round().astype(np.uint8))
    radius = max(1.0, max(source.size) / 512)
    smooth = [
        np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32)
        for picture in (source, corrected)
    ]
    difference = np.abs(smooth[1] - smooth[0]).max(axis=2)
    touched = difference > max(_LEAST, _TYPICAL * float(np.median(difference)))
    reach = 2 * round(2 * radius) + 1
    mask = Image.fromarray((touched * 255).astype(np.uint8)).filter(ImageFilter.MaxFilter(min(reach, 31)))
    # Blurred outwards only: what was touched is taken whole.
    return ImageChops.lighter(mask, mask.filter(ImageFilter.GaussianBlur(2 * radius))), corrected


def alpha_of(image: Any) -> Image.Image | None:
    """Return the transparency of a PIL picture, upright; None where it has none."""
    if not isinstance(image, Image.Image):
        return None
    if image.mode not in {"RGBA", "LA", "PA"} and "transparency" not in image.info:
        return None
    return ImageOps.exif_transpose(image).convert("RGBA").getchannel("A")


def _ramp(length: int, start: int, stop: int) -> np.ndarray:
    """Return weights that rise over the first pixels and fall over the last."""
    weights = np.ones(length)
    place = np.arange(length)
    if start:
        weights = np.minimum(weights, (place + 1) / (start + 1))
    if stop:
        weights = np.minimum(weights, (length - place) / (stop + 1))
    return weights


def _region_mask(region: Any, size: Size) -> Image.Image:
    """Return a region as a mask of a picture's size, 255 inside.

    Raises:
        ValueError: It is neither a box nor a mask of that size.
    """
    if isinstance(region, (Image.Image, np.ndarray)):
        mask = region if isinstance(region, Image.Image) else Image.fromarray(_to_bytes(region))
        if mask.size != size:
            raise ValueError(
                f"`region` is a mask of {mask.size} pixels; expected {size}, as the picture has."
            )
        return mask.convert("L")
    if not isinstance(region, Sequence):
        raise ValueError(
            f"`region` is of type {type(region).__name__}; expected a box of four numbers or a mask."
        )
    box = resolve_box(region, size)
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def _to_bytes(mask: np.ndarray) -> np.ndarray:
    if mask.ndim != 2:
        raise ValueError(f"`region` is an array of shape {list(mask.shape)}; expected [H, W].")
    return mask if mask.dtype == np.uint8 else ((np.asarray(mask) > 0.5) * 255).astype(np.uint8)
