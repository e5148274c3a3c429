"""Image files in and out: the one place where bytes become pixels and pixels become files. No torch."""

from joyimage.imaging.atomic import clear_partial, write_text, write_whole
from joyimage.imaging.decode import DecodedImage, Limits, decode, read_image, read_mask
from joyimage.imaging.encode import SUFFIXES, check_output, encode, write_image
from joyimage.imaging.metadata import RECORD_KEY, read_record
from joyimage.imaging.pixels import srgb, to_mask, to_rgb, upright

__all__ = [
    "RECORD_KEY",
    "SUFFIXES",
    "DecodedImage",
    "Limits",
    "check_output",
    "clear_partial",
    "decode",
    "encode",
    "read_image",
    "read_mask",
    "read_record",
    "srgb",
    "to_mask",
    "to_rgb",
    "upright",
    "write_image",
    "write_text",
    "write_whole",
]
