"""Any PIL image → upright sRGB pixels: orientation, color profiles, sample ranges, transparency."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageCms, ImageOps

from joyimage.errors import InvalidInputError
from joyimage.imaging.color_tags import state_profile

if TYPE_CHECKING:
    import numpy as np

_PROFILE = "icc_profile"
_METADATA = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
_WITH_ALPHA = {"RGBA", "LA", "PA", "La", "RGBa"}


def upright(image: Image.Image) -> Image.Image:
    """Apply the orientation of the EXIF data; damaged EXIF or XMP data counts as none."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001 - damaged metadata raises whatever its parser stumbles over
        plain = image.copy()
        plain.info = {name: value for name, value in image.info.items() if name not in _METADATA}
        return plain


def srgb(image: Image.Image) -> tuple[Image.Image, str | None]:
    """Convert an image with a color profile to sRGB.

    Args:
        image: Any image; the profile is in `info["icc_profile"]`.

    Returns:
        The image without a profile, and a sentence where its profile could not be used: then it counts as sRGB.

    Source: relative colorimetric intent with black point compensation, as image viewers convert.
    """
    content = image.info.get(_PROFILE)
    if not content:
        return image, None
    plain = image.copy()
    plain.info.pop(_PROFILE)
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        if "sRGB" in ImageCms.getProfileDescription(profile):
            return plain, None  # converting would only round
        return _convert(plain, profile), None
    except Exception as error:  # noqa: BLE001 - lcms raises what it likes for a damaged profile
        reason = str(error).strip() or type(error).__name__
        return plain, f"the color profile can't be used ({reason}); the colors are read as sRGB"


def to_rgb(image: Image.Image, name: str = "image") -> Image.Image:
    """Turn any image into upright 8-bit sRGB, transparent parts on white.

    Args:
        image: An image of any mode of Pillow.
        name: What messages call it.

    Raises:
        InvalidInputError: The image is empty, cannot be decoded, or its numbers are in no known range.
    """
    try:
        image.load()
    except Exception as error:  # noqa: BLE001 - decoders raise whatever a damaged file makes them stumble over
        reason = str(error).strip() or type(error).__name__
        raise InvalidInputError(
            f"`{name}` can't be decoded ({reason}); expected an open image of an undamaged file."
        ) from None
    if min(image.size) < 1:
        raise InvalidInputError(f"`{name}` has {image.width}x{image.height} pixels; expected at least one.")
    image, _ = state_profile(to_8_bit(upright(image), name))
    image, problem = srgb(image)
    if problem is not None:
        warnings.warn(f"`{name}`: {problem}.", stacklevel=2)
    return flatten(image)


def to_8_bit(image: Image.Image, name: str = "image") -> Image.Image:
    """Bring integer and float samples of more than 8 bits to 8 bits; other images come back as they are.

    16-bit integers span 0 to 65535. 32-bit integers and floats do not say what they span: 0 to 1 (floats), 0 to 255
    or 0 to 65535, by their largest value.

    Raises:
        InvalidInputError: A value is negative, above 65535, or not finite.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    import numpy as np

    if image.mode.startswith("I;16"):
        values = np.asarray(image, dtype=np.uint32)
        gray = _gray((values + 128) // 257, image)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):  # the one gray that a PNG declares transparent
            gray.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype("uint8")))
        return gray
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 65535:
        shown = values[~np.isfinite(values) | (values < 0) | (values > 65535)][0]
        raise InvalidInputError(
            f"`{name}` holds the value {shown:g}; expected finite numbers from 0 to 1, 0 to 255 or 0 to 65535."
        )
    largest = values.max()
    if image.mode == "F" and largest <= 1:
        return _gray(values * 255, image)
    return _gray(values / (257 if largest > 255 else 1), image)


def to_mask(image: Image.Image, name: str = "mask") -> Image.Image:
    """Turn any image into a mask, mode L: white counts, black and transparent parts do not.

    Args:
        image: An image of any mode of Pillow.
        name: What messages call it.

    Raises:
        InvalidInputError: Its numbers are in no known range.
    """
    image = to_8_bit(upright(image), name)
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        layer = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "black"), layer)
    return image.convert("L")


def flatten(image: Image.Image) -> Image.Image:
    """Return RGB; transparent parts are laid on white."""
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        layer = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _gray(values: np.ndarray, image: Image.Image) -> Image.Image:
    made = Image.fromarray(values.round().clip(0, 255).astype("uint8"))
    made.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return made


def _convert(image: Image.Image, profile: Any) -> Image.Image:
    """Convert color channels with a profile; an alpha channel stays as it is."""
    if image.mode in _WITH_ALPHA or image.mode == "P" or "transparency" in image.info:
        if image.mode == "La":
            image = image.convert("LA")
        is_gray = image.mode == "LA"
        layer = image if is_gray else image.convert("RGBA")
        alpha = layer.getchannel("A")
        colors = _transform(layer.getchannel("L") if is_gray else layer.convert("RGB"), profile)
        if alpha.getextrema() == (255, 255):
            return colors
        colors.putalpha(alpha)
        return colors
    if image.mode == "1":
        image = image.convert("L")
    return _transform(image, profile)


def _transform(image: Image.Image, profile: Any) -> Image.Image:
    if image.mode == "L" and profile.profile.xcolor_space.strip() == "RGB":
        image = image.convert("RGB")  # programs keep the profile when they save the grays of a color image
    made: Any = ImageCms.profileToProfile(
        image,
        profile,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    made.info.pop(_PROFILE, None)
    return made
