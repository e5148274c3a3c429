"""Images of any kind in, upright RGB out; resize and crop to the size that the model sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from numpy.typing import NDArray
from PIL import Image

from joyimage.errors import InvalidInputError, InvalidTypeError
from joyimage.imaging import to_rgb
from joyimage.pipeline.buckets import bucket_sizes, nearest_bucket
from joyimage.pipeline.feature_cache import digest
from joyimage.spatial.frame import Placement
from joyimage.types import ImageSize

ImageInput: TypeAlias = Image.Image | NDArray[Any] | torch.Tensor | Sequence[Any]
"""What a pipeline takes as an image, or as several of them; see `to_images`."""


@dataclass(frozen=True)
class ModelImage:
    """An RGB image at the size that the model sees, which both the text encoder and the VAE read.

    Attributes:
        rgb: The image.
    """

    rgb: Image.Image

    @cached_property
    def digest(self) -> str:
        """Hash of the pixels, computed once; equal images share one encoding."""
        return digest(self.rgb)


class JoyImageEditImageProcessor(VaeImageProcessor):
    """Bring images to the sizes that the model was trained at, and turn pixels into images.

    Args:
        vae_scale_factor: Pixels per latent and side.
        base_size: Side of the square bucket in pixels.

    Raises:
        InvalidInputError: There is no such base size.
    """

    def __init__(self, vae_scale_factor: int = 8, base_size: int = 1024) -> None:
        super().__init__(vae_scale_factor=vae_scale_factor)
        bucket_sizes(base_size)  # rejects a base size that does not exist
        cast("Any", self).register_to_config(vae_scale_factor=vae_scale_factor, base_size=base_size)

    @property
    def base_size(self) -> int:
        """Side of the square bucket in pixels."""
        return int(self.config["base_size"])

    def choose_size(
        self, images: Sequence[Image.Image] = (), requested: ImageSize | None = None, name: str = "image"
    ) -> ImageSize:
        """Return the bucket for a request, for images, or the square bucket where there is neither.

        Args:
            images: Images of one batch; they need the same bucket unless there is a request.
            requested: Size that the caller asks for.
            name: Name of the argument that holds the images, for the error's message.

        Raises:
            InvalidInputError: The images need different buckets.
        """
        if requested is not None:
            return nearest_bucket(requested, self.base_size)
        if not images:
            return nearest_bucket(ImageSize(self.base_size, self.base_size), self.base_size)
        sizes = {nearest_bucket(ImageSize.of(image), self.base_size) for image in images}
        if len(sizes) > 1:
            named = " and ".join(map(str, sorted(sizes, key=lambda size: size.rows_columns)))
            raise InvalidInputError(
                f"`{name}` holds images of different shapes, which would become {named}; "
                "edit them in separate calls, or give `height` and `width` for all."
            )
        return sizes.pop()

    def preprocess(  # pyright: ignore[reportIncompatibleMethodOverride] - crops are chosen by bucket, not by argument
        self, image: ImageInput, height: int | None = None, width: int | None = None
    ) -> torch.Tensor:
        """Turn images into pixels of the chosen bucket, `[B, 3, H, W]` in [-1, 1].

        Args:
            image: One image or several, of any kind that `to_images` takes.
            height: Requested height in pixels; None, or `width` None, follows the images.
            width: Requested width in pixels.

        Raises:
            InvalidInputError: An image cannot be used, or the images need different buckets.
        """
        images = to_images(image)
        requested = None if height is None or width is None else ImageSize(width, height)
        size = self.choose_size(images, requested)
        fitted = [fit_to_size(one, size) for one in images]
        return to_pixels(fitted, torch.device("cpu"), torch.float32).squeeze(2)


def to_images(image: Any, name: str = "image") -> list[Image.Image]:
    """Turn every documented kind of image into upright RGB.

    Args:
        image: PIL image; numpy array `[H, W]`, `[H, W, C]` or `[B, H, W, C]`, 8-bit, 16-bit or float in
            [0, 1]; tensor `[C, H, W]` or `[B, C, H, W]`, 8-bit or float in [0, 1]; or a list of these.
        name: Name of the argument, for the error's message.

    Returns:
        RGB images in sRGB; transparent ones on white, EXIF rotation and color profile applied.

    Raises:
        InvalidTypeError: The image is of another type.
        InvalidInputError: Its shape or values are not accepted, or the list is empty.
    """
    if isinstance(image, (list, tuple)):
        if not image:
            raise InvalidInputError(
                f"`{name}` is an empty list; expected at least one image, or None for none."
            )
        return [rgb for one in cast("Sequence[Any]", image) for rgb in to_images(one, name)]
    if isinstance(image, Image.Image):
        return [to_rgb(image, name)]
    if isinstance(image, torch.Tensor):
        if image.is_meta or image.layout != torch.strided or image.is_quantized:
            raise InvalidInputError(
                f"`{name}` is a meta, sparse or quantized tensor; expected a dense one in memory."
            )
        tensor = image.detach().cpu()
        array: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        if array.ndim not in {3, 4} or array.shape[-3] not in {1, 3, 4} or array.size == 0:
            raise InvalidInputError(
                f"`{name}` is a tensor of shape {list(image.shape)}; expected [C, H, W] or [B, C, H, W] with 1, 3 "
                "or 4 channels."
            )
        return to_images(np.moveaxis(array, -3, -1), name)
    if isinstance(image, np.ndarray):
        array = cast("NDArray[Any]", image)
        if array.ndim == 4 and len(array):  # none would make an image from the prompt alone
            return [rgb for one in array for rgb in to_images(one, name)]
        return [_from_array(array, name)]
    raise InvalidTypeError(
        f"`{name}` is of type {type(image).__name__}; "
        "expected a PIL image, a numpy array, a torch tensor or a list of these."
    )


def apply_placement(image: Image.Image, placement: Placement) -> Image.Image:
    """Scale an image, then crop or pad it to its target size.

    Padding repeats the border's pixels: a border of another color would be content to the model.

    Args:
        image: RGB image, or a mask.
        placement: Scale and offset.

    Returns:
        The image at the target size.
    """
    scaled = image.resize(placement.scaled, Image.Resampling.BILINEAR)
    left, top = placement.offset
    width, height = placement.target
    if left >= 0 and top >= 0:
        return scaled.crop((left, top, left + width, top + height))
    pixels = np.asarray(scaled)
    before, above = max(0, -left), max(0, -top)
    behind, below = width - before - scaled.width, height - above - scaled.height
    margins = [(above, below), (before, behind)] + [(0, 0)] * (pixels.ndim - 2)
    return Image.fromarray(np.pad(pixels, margins, mode="edge"))


def fit_to_size(image: Image.Image, size: ImageSize) -> Image.Image:
    """Scale an image to cover a size (bilinear) and crop its center, offsets rounded down."""
    return apply_placement(image, Placement.crop(image.size, size.pil))


def to_pixels(images: Sequence[Image.Image], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Turn RGB images of one size into `[B, 3, 1, H, W]` in [-1, 1]."""
    array = np.stack([np.asarray(image) for image in images])
    return normalize_pixels(torch.as_tensor(array)).unsqueeze(2).to(device, dtype)


def normalize_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """Turn 8-bit pixels `[B, H, W, C]` into `[B, C, H, W]` in [-1, 1], fp32."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def group_images(images: Any, num_prompts: int) -> list[list[Image.Image]]:
    """Give each prompt its images.

    Args:
        images: One list per prompt, one image for all prompts, or the same number for each prompt in turn.
        num_prompts: Number of prompts.

    Returns:
        Upright RGB images of each prompt.

    Raises:
        InvalidTypeError: An image is of a type that is not accepted.
        InvalidInputError: The images cannot be shared out evenly, or one of them cannot be used.
    """
    if is_nested(images):
        return [to_images(group, "images") for group in images]
    flat = to_images(images, "images")
    if len(flat) == 1:
        return [flat] * num_prompts
    if len(flat) % num_prompts:
        raise InvalidInputError(
            f"`images` holds {len(flat)} images for {num_prompts} prompts; expected the same number for each."
        )
    each = len(flat) // num_prompts
    return [flat[i * each : (i + 1) * each] for i in range(num_prompts)]


def is_nested(images: Any) -> bool:
    """Tell whether images come as one list per prompt."""
    return isinstance(images, (list, tuple)) and any(
        isinstance(group, (list, tuple)) for group in cast("Sequence[Any]", images)
    )


def _from_array(array: NDArray[Any], name: str) -> Image.Image:
    """Turn an array `[H, W]` or `[H, W, C]` into an RGB image.

    Raises:
        InvalidInputError: Its shape, type or values are not accepted.
    """
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[-1] not in {1, 3, 4} or array.size == 0:
        raise InvalidInputError(
            f"`{name}` is an array of shape {list(array.shape)}; expected [H, W], [H, W, C] or [B, H, W, C] "
            "with 1, 3 or 4 channels."
        )
    if np.issubdtype(array.dtype, np.uint16):  # in either byte order
        array = (array / 257).round().astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise InvalidInputError(
                f"`{name}` has float values outside [0, 1]; expected [0, 1], or 8-bit integers."
            )
        array = (array * 255).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise InvalidInputError(
            f"`{name}` is an array of {array.dtype}; expected uint8, uint16 or float in [0, 1]."
        )
    return to_rgb(Image.fromarray(array[:, :, 0] if array.shape[-1] == 1 else array), name)
