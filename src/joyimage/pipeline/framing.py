"""From the caller's image to the size that the model sees, and from the result back to the caller's image."""

from __future__ import annotations

import numbers
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image, ImageChops

from joyimage.advice import advise
from joyimage.errors import InvalidInputError
from joyimage.pipeline.checks import check_divisible
from joyimage.pipeline.edit_mask import edited_mask
from joyimage.pipeline.images import apply_placement
from joyimage.pipeline.region import close_up_window, region_mask, soften_region
from joyimage.pipeline.restore import add_transparency, border_mask, layer_of, map_back
from joyimage.spatial.frame import FITS, STEP, Placement, exact_size
from joyimage.types import ImageSize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from joyimage.pipeline.images import JoyImageEditImageProcessor
    from joyimage.spatial.box import Box

# Ratio between the aspect ratios of target and image from which a stretched image is noticeable.
_VISIBLE_STRETCH = 1.1

# Tables of a mask's values, for Pillow's `point`.
_WHERE_ANY = [0] + [255] * 255  # white where the mask is not black
_WHERE_ALL = [0] * 255 + [255]  # white where the mask is white


@dataclass(frozen=True, kw_only=True)
class FramedImage:
    """An image of the caller, brought to the target size.

    Attributes:
        source: The caller's image, upright RGB at its own size.
        layer: The caller's image with its transparency, RGBA; None where it has none, or without `restore`.
        placement: Scale and offset between `source` and `image`.
        image: RGB image at the target size.
        whole: The caller's image of which `source` is a part, with its transparency where it has one; None where
            `source` is all of it.
        window: Where `source` lies on `whole`.
        region: Mask of the caller's image, 255 where it may change; None without a region.
    """

    source: Image.Image
    layer: Image.Image | None = None
    placement: Placement
    image: Image.Image
    whole: Image.Image | None = None
    window: Box = (0, 0, 0, 0)
    region: Image.Image | None = None


@dataclass(frozen=True, kw_only=True)
class Framing:
    """How an image is brought to the target size, and what of the result is returned.

    Attributes:
        fit: "crop" to a bucket, as published; "pad" to a bucket; "exact": the image's own aspect ratio.
        restore: Whether the result is mapped back onto the image at its own size.
        preserve: Whether pixels that the edit did not change are the image's own.
        region: A box on the image (pixels or fractions) or a mask of its size: nothing changes outside.
        feather: Pixels over which the edge of the region is blended inward; None: 12 per 1024 of the longer side.
        close_up: Whether the model sees only the region and what is around it, at full resolution.
    """

    fit: str = "crop"
    restore: bool = False
    preserve: bool = False
    region: Any = None
    feather: float | None = None
    close_up: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the result is returned as the model makes it."""
        return not self.restore and not self.preserve and self.region is None and self.fit != "pad"

    def check(self, *, has_image: bool, output_type: str) -> None:
        """Reject settings that exclude each other.

        Args:
            has_image: Whether the call has an image.
            output_type: The call's `output_type`.

        Raises:
            InvalidInputError: A setting is out of range, or excluded by another one.
        """
        if self.fit not in FITS:
            raise InvalidInputError(f"`fit` is {self.fit!r}; expected one of {', '.join(FITS)}.")
        for name in ("restore", "preserve", "close_up"):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise InvalidInputError(f"`{name}` is {getattr(self, name)!r}; expected True or False.")
        self._check_close_up()
        if self.is_plain and self.fit == "crop":
            return
        if not has_image:
            raise InvalidInputError("`fit`, `restore`, `preserve` and `region` need an image; there is none.")
        if output_type != "pil" and not self.is_plain:
            raise InvalidInputError(
                f"`output_type` is {output_type!r}; expected 'pil' where `fit` is 'pad' or "
                "`restore`, `preserve` or `region` is given."
            )

    def _check_close_up(self) -> None:
        """Reject settings of a region where there is none.

        Raises:
            InvalidInputError: One of them.
        """
        if self.feather is not None and (
            not isinstance(self.feather, numbers.Real) or not self.feather >= 0  # NaN as well
        ):
            raise InvalidInputError(f"`feather` is {self.feather!r}; expected 0 or more pixels.")
        if self.region is None and (self.feather is not None or self.close_up):
            name = "close_up" if self.close_up else "feather"
            raise InvalidInputError(
                f"`{name}` needs a region; there is none. Give `region`, or leave it out."
            )
        if self.close_up and not self.restore:
            raise InvalidInputError("`close_up` is pasted back into the image; expected `restore` with it.")

    def choose_size(
        self,
        processor: JoyImageEditImageProcessor,
        images: Sequence[Image.Image],
        requested: ImageSize | None,
    ) -> ImageSize:
        """Return the target size for images.

        Args:
            processor: The pipeline's image processor, which knows the buckets.
            images: Upright RGB images.
            requested: Size that the caller asks for; None follows the images.

        Raises:
            InvalidInputError: The images need different sizes, or the requested size is not divisible by 16.
        """
        if self.close_up:
            masks = [region_mask(self.region, ImageSize.of(image)) for image in images]
            windows = [close_up_window(mask, None) for mask in masks]
            seen = [image.crop(window) for image, window in zip(images, windows, strict=True)]
            return processor.choose_size(seen, requested)
        if self.fit != "exact":
            return processor.choose_size(images, requested)
        if requested is not None:
            check_divisible(requested, STEP)
            for image in images:
                stretch = requested.width * image.height / (requested.height * image.width)
                if not 1 / _VISIBLE_STRETCH < stretch < _VISIBLE_STRETCH:
                    advise(
                        f"`height` and `width` are {requested.height} and {requested.width} for an image of"
                        f" {ImageSize.of(image)}: `fit` 'exact' stretches it."
                        " Leave out the size, or use `fit` 'pad'.",
                    )
            return requested
        sizes = {ImageSize(*exact_size(image.size, processor.base_size)) for image in images}
        if len(sizes) > 1:
            raise InvalidInputError("`image` holds images of different shapes; edit them in separate calls.")
        return sizes.pop()

    def place(self, image: Image.Image, size: ImageSize, given: Any = None) -> FramedImage:
        """Bring an image to the target size.

        Args:
            image: Upright RGB image.
            size: Target size.
            given: The image as the caller gave it, whose transparency a restored result gets back.

        Raises:
            InvalidInputError: The region is neither a box on the image nor a mask of its size, or no part of it is
                visible at the target size.
        """
        if self.close_up:
            return self._place_window(image, size, given)
        make = {"crop": Placement.crop, "pad": Placement.pad, "exact": Placement.exact}[self.fit]
        placement = make(image.size, size.pil)
        region = None if self.region is None else region_mask(self.region, ImageSize.of(image))
        if region and apply_placement(region, placement).crop(placement.in_target).getbbox() is None:
            raise InvalidInputError(
                "`region` is empty or lies where the image is cropped, so nothing could be edited; "
                "use fit='pad' or fit='exact', which show the model the whole image."
            )
        return FramedImage(
            source=image,
            layer=layer_of(given) if self.restore else None,
            placement=placement,
            image=apply_placement(image, placement),
            region=region,
        )

    def place_all(self, images: Sequence[Image.Image], size: ImageSize, given: Any) -> list[FramedImage]:
        """Bring all images of a call to the target size.

        Args:
            images: Upright RGB images.
            size: Target size.
            given: The call's `image` argument, from which transparency is read.

        Raises:
            InvalidInputError: The region is neither a box on an image nor a mask of its size, or no part of it is
                visible at the target size.
        """
        sources = [given] * len(images)
        if isinstance(given, (list, tuple)):
            listed = cast("Sequence[Any]", given)
            sources = list(listed) if len(listed) == len(images) else [None] * len(images)
        return [self.place(image, size, source) for image, source in zip(images, sources, strict=True)]

    def finish(self, result: Image.Image, framed: FramedImage) -> tuple[Image.Image, Image.Image | None]:
        """Turn the model's result into what the caller asked for.

        Args:
            result: RGB image at the target size.
            framed: The caller's image.

        Returns:
            The image, and the mask of where it is the result (255) or the caller's image (0); None without
            `preserve` and `region`.
        """
        if framed.whole is not None:
            return self._paste_window(result, framed, framed.whole)
        placement, image = framed.placement, framed.source
        visible = placement.in_target
        source = apply_placement(image, placement).crop(visible)
        result = result.crop(visible)  # padding is not part of the image
        mask = None
        if self.preserve:
            # Before the result is restored: at the target size both have been scaled alike.
            mask, result = edited_mask(result, source)
        region = None if framed.region is None else self._soft_region(framed.region, placement)
        if self.restore:
            part, kept = map_back(result, placement, Image.Resampling.LANCZOS)
            border = border_mask(kept, ImageSize.of(image))
            if mask is None:
                mask = border
            else:
                touched = Image.new("L", image.size)
                touched.paste(map_back(mask, placement, Image.Resampling.BILINEAR)[0], kept[:2])
                mask = ImageChops.multiply(touched, border)
            source = image
            result = image.copy()
            result.paste(part, kept[:2])
            if framed.layer is not None:
                result, source = add_transparency(result, framed.layer), framed.layer
        if region is not None:
            mask = region if mask is None else ImageChops.multiply(mask, region)
        if mask is not None:
            result = Image.composite(result, source, mask)
        profile = source.info.get("icc_profile")
        # Pixels of the source keep their meaning; a profile of CMYK or gray has none for RGB.
        result.info = {"icc_profile": profile} if profile and profile[16:20] == b"RGB " else {}
        return result, mask if self.preserve or region is not None else None

    def finish_all(
        self, results: Sequence[Image.Image], framed: Sequence[FramedImage]
    ) -> tuple[list[Image.Image], list[Image.Image] | None]:
        """Finish all results of a call.

        Args:
            results: RGB images at the target size; the outputs of one image are adjacent.
            framed: The caller's images; their number divides that of the results.

        Returns:
            Images, and masks where `preserve` or `region` is on.
        """
        each = len(results) // len(framed)
        finished = [self.finish(result, framed[n // each]) for n, result in enumerate(results)]
        masks = [mask for _, mask in finished if mask is not None]
        return [image for image, _ in finished], masks or None

    def _place_window(self, image: Image.Image, size: ImageSize, given: Any) -> FramedImage:
        """Bring the region and what is around it to the target size."""
        region = region_mask(self.region, ImageSize.of(image))
        window = close_up_window(region, size)
        layer = layer_of(given)
        framed = self._of_part(region.crop(window)).place(image.crop(window), size)
        whole = image if layer is None else layer
        return replace(framed, layer=layer and layer.crop(window), whole=whole, window=window)

    def _paste_window(
        self, result: Image.Image, framed: FramedImage, whole: Image.Image
    ) -> tuple[Image.Image, Image.Image | None]:
        """Finish a close-up, and paste it back into the image that it is a part of."""
        part, part_mask = self._of_part(framed.region).finish(result, replace(framed, whole=None))
        mask = Image.new("L", whole.size)
        mask.paste(part_mask or 255, framed.window)
        finished = whole.copy()
        finished.paste(part, framed.window[:2])
        finished.info = part.info
        return finished, mask

    def _of_part(self, region: Image.Image | None) -> Framing:
        """Return the framing of a part of an image: all of it is shown, at the size of its own pixels or larger."""
        return replace(self, close_up=False, fit="pad", region=region)

    def _soft_region(self, region: Image.Image, placement: Placement) -> Image.Image:
        """Return the region's soft mask, at the caller's size with `restore`, else at the result's."""
        region = soften_region(region, self.feather)
        if self.restore:
            return region
        # Pixels of the target that are only partly inside are outside.
        inside = apply_placement(region.point(_WHERE_ANY), placement)
        inside = inside.point(_WHERE_ALL)
        return ImageChops.darker(apply_placement(region, placement), inside).crop(placement.in_target)
