"""Any picture in → RGB; resize and crop to a bucket."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from joyimage.errors import InvalidInputError, InvalidTypeError
from joyimage.imaging import to_rgb
from joyimage.pipeline.buckets import bucket_sizes, nearest_bucket
from joyimage.pipeline.framing import lay
from joyimage.spatial.frame import Placement


class JoyImageEditImageProcessor(VaeImageProcessor):
    """Bring pictures to the sizes that the model was trained at, and turn pixels into pictures.

    Args:
        vae_scale_factor: Pixels per latent.
        base_size: Side in pixels of the square size.
    """

    def __init__(self, vae_scale_factor: int = 8, base_size: int = 1024) -> None:
        super().__init__(vae_scale_factor=vae_scale_factor)
        bucket_sizes(base_size)  # refuses a base that doesn't exist
        self.register_to_config(vae_scale_factor=vae_scale_factor, base_size=base_size)

    def choose_size(
        self, pictures: list[Image.Image] | None = None, height: int | None = None, width: int | None = None
    ) -> tuple[int, int]:
        """Return the size (height, width) for the wish, the pictures, or nothing, which is the square.

        Raises:
            InvalidInputError: The pictures need different sizes.
        """
        return choose_size(pictures, height, width, self.config["base_size"])

    def fit(self, picture: Image.Image, height: int, width: int) -> Image.Image:
        """Scale a picture to cover the size and crop its center."""
        return fit_to_size(picture, height, width)

    def preprocess(self, image: Any, height: int | None = None, width: int | None = None) -> torch.Tensor:  # type: ignore[override]
        """Turn pictures into pixels of the chosen size, `[B, 3, H, W]` in [-1, 1]."""
        pictures = to_pictures(image)
        size = self.choose_size(pictures, height, width)
        fitted = [self.fit(picture, *size) for picture in pictures]
        return to_pixels(fitted, torch.device("cpu"), torch.float32).squeeze(2)


def to_pictures(image: Any, name: str = "image") -> list[Image.Image]:
    """Turn every documented kind of picture into upright RGB.

    Args:
        image: PIL image; numpy array `[H, W]`, `[H, W, C]` or `[B, H, W, C]`, 8-bit, 16-bit or float in
            [0, 1]; tensor `[C, H, W]` or `[B, C, H, W]`, 8-bit or float in [0, 1]; or a list of these.
        name: Of the argument, for the error's sentence.

    Returns:
        RGB images in sRGB; transparent ones on white, EXIF rotation and color profile applied.

    Raises:
        InvalidTypeError: The picture is of another type.
        InvalidInputError: Its shape or values don't fit, or the list is empty.
    """
    if isinstance(image, (list, tuple)):
        if not image:
            raise InvalidInputError(
                f"`{name}` is an empty list; expected at least one picture, or None for none."
            )
        return [picture for one in image for picture in to_pictures(one, name)]
    if isinstance(image, Image.Image):
        return [to_rgb(image, name)]
    if isinstance(image, torch.Tensor):
        array = image.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()
        if array.ndim not in {3, 4}:
            raise InvalidInputError(
                f"`{name}` is a tensor of shape {list(image.shape)}; expected [C, H, W] or [B, C, H, W]."
            )
        return to_pictures(np.moveaxis(array, -3, -1), name)
    if isinstance(image, np.ndarray):
        if image.ndim == 4:
            return [picture for one in image for picture in to_pictures(one, name)]
        return [_from_array(image, name)]
    raise InvalidTypeError(
        f"`{name}` is of type {type(image).__name__}; "
        "expected a PIL image, a numpy array, a torch tensor or a list of these."
    )


def fit_to_size(picture: Image.Image, height: int, width: int) -> Image.Image:
    """Scale a picture to cover the size (bilinear) and crop its center, offsets rounded down."""
    return lay(picture, Placement.crop(picture.size, (width, height)))


def choose_size(
    pictures: list[Image.Image] | None, height: int | None, width: int | None, base_size: int
) -> tuple[int, int]:
    """Return the bucket (height, width) of the wish, the pictures, or the square.

    Raises:
        InvalidInputError: The pictures of one batch need different buckets.
    """
    if height is not None and width is not None:
        return nearest_bucket(height, width, base_size)
    if not pictures:
        return nearest_bucket(base_size, base_size, base_size)
    sizes = {nearest_bucket(picture.height, picture.width, base_size) for picture in pictures}
    if len(sizes) > 1:
        named = " and ".join(f"{width}x{height}" for height, width in sorted(sizes))
        raise InvalidInputError(
            f"`image` holds pictures of unlike shape, which would become {named}; "
            "edit them in separate calls, or give `height` and `width` for all."
        )
    return sizes.pop()


def to_pixels(pictures: list[Image.Image], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Turn RGB pictures of one size into `[B, 3, 1, H, W]` in [-1, 1]."""
    array = np.stack([np.asarray(picture) for picture in pictures])
    pixels = torch.from_numpy(array).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels.unsqueeze(2).to(device, dtype)


def group_pictures(pictures: list[Image.Image], num_prompts: int) -> list[list[Image.Image]]:
    """Give each prompt its pictures: one for all, or the same number for each in turn.

    Raises:
        InvalidInputError: The pictures can't be shared out evenly.
    """
    if len(pictures) == 1:
        return [pictures] * num_prompts
    if len(pictures) % num_prompts:
        raise InvalidInputError(
            f"`images` holds {len(pictures)} pictures for {num_prompts} prompts; expected as many for each."
        )
    each = len(pictures) // num_prompts
    return [pictures[i * each : (i + 1) * each] for i in range(num_prompts)]


def is_nested(images: Any) -> bool:
    """Tell whether pictures come as one list per prompt."""
    return isinstance(images, (list, tuple)) and any(isinstance(group, (list, tuple)) for group in images)


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[-1] not in {1, 3, 4} or array.size == 0:
        raise InvalidInputError(
            f"`{name}` is an array of shape {list(array.shape)}; expected [H, W], [H, W, C] or [B, H, W, C] "
            "with 1, 3 or 4 channels."
        )
    if array.dtype == np.uint16:
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
