"""What a file says about its colors without an ICC profile: PNG's chunks, code points of video, EXIF's Adobe RGB.

Each statement becomes an ICC profile, so that one conversion serves all. Sources: PNG, third edition, 11.3.2 (cHRM,
gAMA, sRGB, cICP); ITU-T H.273, tables 2 and 3 (code points); ISO 14496-12, 12.1.5 (`colr` box); BT.2100 (PQ, HLG);
DCF 2.0 (interoperability index); ICC.1:2010 (profiles).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy as np
    from PIL import Image

_ICC = "icc_profile"
_D65 = (0.3127, 0.3290)
_D50_XYZ = (0.9642, 1.0, 0.8249)  # white of ICC's connection space
_BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
_REFERENCE_WHITE = 203  # cd/m², of the white of a page or a shirt in HDR images (BT.2408)
_PQ_PEAK = 10_000
_TABLE_LENGTH = 4096
_INTEROPERABILITY, _INDEX, _ADOBE_RGB_INDEX = 0xA005, 1, "R03"


class Primaries(NamedTuple):
    """Chromaticities (x, y) of white, red, green and blue."""

    white: tuple[float, float]
    red: tuple[float, float]
    green: tuple[float, float]
    blue: tuple[float, float]


_SRGB = Primaries(_D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_ADOBE_RGB = Primaries(_D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
_PRIMARIES = {
    1: _SRGB,
    4: Primaries((0.310, 0.316), (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
    5: Primaries(_D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: Primaries(_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: Primaries(_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    9: Primaries(_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: Primaries((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: Primaries(_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}


@dataclass(frozen=True)
class Curve:
    """From samples (0 to 1) to light (0 to 1).

    Attributes:
        gamma: Exponent; None for sRGB's curve, or where `light` is given.
        light: Light of a sample, more than 1 where an ordinary image has no such light: it is cut off.
    """

    gamma: float | None = None
    light: Callable[[float], float] | None = None

    def tag(self) -> bytes:
        """Return the curve as a tag of a profile."""
        if self.light is not None:
            last = _TABLE_LENGTH - 1
            table = [round(65535 * min(1.0, self.light(number / last))) for number in range(_TABLE_LENGTH)]
            return struct.pack(f">4s4xI{_TABLE_LENGTH}H", b"curv", _TABLE_LENGTH, *table)
        if self.gamma is not None:
            return struct.pack(">4s4xHHi", b"para", 0, 0, _fixed(self.gamma))
        srgb = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
        return struct.pack(">4s4xHH5i", b"para", 3, 0, *map(_fixed, srgb))


def _pq(sample: float) -> float:
    root = sample ** (1 / 78.84375)
    light = max(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
    return light ** (1 / 0.1593017578125) * _PQ_PEAK / _REFERENCE_WHITE


def _hlg(sample: float) -> float:
    """Return the light on a display of 1,000 cd/m² (exponent 1.2), where a sample of .75 is the reference white."""

    def scene(sample: float) -> float:
        if sample <= 0.5:
            return sample**2 / 3
        return (math.exp((sample - 0.55991073) / 0.17883277) + 0.28466892) / 12

    return (scene(sample) / scene(0.75)) ** 1.2


_SRGB_CURVE = Curve()
# The curves of cameras (1, 6, 14, 15) are shown as sRGB by image viewers: the scene's light is not what is wanted.
_CURVES = {
    **dict.fromkeys((1, 6, 13, 14, 15), _SRGB_CURVE),
    4: Curve(gamma=2.2),
    5: Curve(gamma=2.8),
    8: Curve(gamma=1.0),
    16: Curve(light=_pq),
    18: Curve(light=_hlg),
}


def state_profile(image: Image.Image, content: bytes = b"") -> tuple[Image.Image, str | None]:
    """Give an image the profile that its file states in another way than as a profile.

    Args:
        image: An image as Pillow opened it. Its `info` has PNG's gamma and chromaticities, its EXIF data Adobe RGB.
        content: The file, for code points; without it there are none.

    Returns:
        The image with `info["icc_profile"]`, unless it is in sRGB; and a sentence where light is cut off.
    """
    codes = _read_codes(content)
    # Code points of a PNG come before its profile, those of HEIC and AVIF after it.
    if codes is not None and (content.startswith(b"\x89PNG") or not image.info.get(_ICC)):
        primaries, curve = codes
        note = (
            "it is an HDR image, whose highlights are cut off at white" if curve.light is not None else None
        )
        return _with_profile(image, primaries, curve), note
    if image.info.get(_ICC) or "srgb" in image.info:
        return image, None
    stated = _stated_in_png(image.info)
    if stated is None and _says_adobe_rgb(image):
        stated = _ADOBE_RGB, Curve(gamma=563 / 256)
    return image if stated is None else _with_profile(image, *stated), None


def matrix_profile(primaries: Primaries, curve: Curve) -> bytes:
    """Return an ICC profile of three primaries and one curve.

    Args:
        primaries: Chromaticities.
        curve: Curve of all three channels.

    Raises:
        InvalidInputError: No color has such chromaticities.
    """
    colorants = _colorants(primaries)
    tags = {
        b"desc": _text("Colors as the file states them"),
        b"cprt": _text("No copyright"),
        b"wtpt": _xyz(_D50_XYZ),
        **{name: _xyz(colorants[:, number]) for number, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve.tag()),
    }
    place = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        padded = tag + b"\0" * (-len(tag) % 4)
        table += struct.pack(">4sII", name, place + len(data), len(tag))
        data += padded
    header = struct.pack(
        ">I4sI4s4s4s6H4s24xI3i48x",
        *(place + len(data), b"\0\0\0\0", 0x04200000, b"mntr", b"RGB ", b"XYZ "),
        *(2026, 1, 1, 0, 0, 0, b"acsp", 1),
        *map(_fixed, _D50_XYZ),
    )
    return header + table + data


def _read_codes(content: bytes) -> tuple[Primaries, Curve] | None:
    """Return what the code points of a PNG (`cICP`) or of HEIC and AVIF (`colr`) mean; None where there are none."""
    if content.startswith(b"\x89PNG"):
        codes = _chunk(content, b"cICP")
    else:
        place = content.find(b"colrnclx", 0, 1 << 16) if content[4:8] == b"ftyp" else -1
        codes = content[place + 9 : place + 12 : 2] if place >= 0 else b""
    if len(codes) < 2 or codes[0] not in _PRIMARIES or codes[1] not in _CURVES:
        return None
    return _PRIMARIES[codes[0]], _CURVES[codes[1]]


def _chunk(content: bytes, name: bytes) -> bytes:
    """Return the data of a PNG's chunk that stands before its pixels; empty where it is missing."""
    place = 8
    while place + 12 <= len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        if kind == name:
            return content[place + 8 : place + 8 + length]
        if kind == b"IDAT":
            break
        place += 12 + length
    return b""


def _stated_in_png(info: Mapping[str | tuple[int, int], object]) -> tuple[Primaries, Curve] | None:
    """Return what the chunks gAMA and cHRM mean; None where they are missing, or no encoder can have meant them."""
    gamma, numbers = info.get("gamma"), info.get("chromaticity")
    if not (isinstance(gamma, float) and 0.2 <= gamma <= 1.5):
        gamma = None
    primaries = None
    if isinstance(numbers, tuple) and len(numbers) == 8:
        x_y = [float(number) for number in numbers]
        primaries = Primaries(*zip(x_y[::2], x_y[1::2], strict=True))
    if gamma is None and primaries is None:
        return None
    # Programs write 1/2.2 for sRGB, whose curve it approximates.
    is_srgb = gamma is None or abs(gamma * 2.2 - 1) < 0.05
    return primaries or _SRGB, _SRGB_CURVE if is_srgb else Curve(gamma=1 / (gamma or 1))


def _says_adobe_rgb(image: Image.Image) -> bool:
    """Return whether a camera wrote the image in Adobe RGB: it says so by an index, and attaches no profile."""
    try:
        index = image.getexif().get_ifd(_INTEROPERABILITY).get(_INDEX)
    except Exception:  # noqa: BLE001 - damaged metadata raises whatever its parser stumbles over
        return False
    return isinstance(index, str) and index.strip("\0 ") == _ADOBE_RGB_INDEX


def _with_profile(image: Image.Image, primaries: Primaries, curve: Curve) -> Image.Image:
    """Return the image with the profile; without any where it would be sRGB's, or is impossible."""
    is_srgb = curve == _SRGB_CURVE and _is_near(primaries, _SRGB)
    if is_srgb and _ICC not in image.info:  # as most AVIF files say
        return image
    made = image.copy()
    made.info.pop(_ICC, None)
    if not is_srgb:
        try:
            made.info[_ICC] = matrix_profile(primaries, curve)
        except InvalidInputError:
            return image
    return made


def _is_near(primaries: Primaries, others: Primaries) -> bool:
    return all(math.dist(one, other) < 0.005 for one, other in zip(primaries, others, strict=True))


def _colorants(primaries: Primaries) -> np.ndarray:
    """Return red, green and blue as columns (X, Y, Z), adapted to ICC's white.

    Raises:
        InvalidInputError: No color has such chromaticities.
    """
    import numpy as np  # a command that only sends an image to a server reads it without

    if min(y for _, y in primaries) <= 0:
        raise InvalidInputError("a chromaticity has no luminance")
    white, *colors = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in primaries)
    matrix = np.stack(colors, 1)
    if abs(np.linalg.det(matrix)) < 1e-6:
        raise InvalidInputError("the primaries lie on a line")
    matrix = matrix * np.linalg.solve(matrix, white)
    bradford = np.array(_BRADFORD)
    cones = bradford @ np.array(_D50_XYZ) / (bradford @ white)
    adapted = np.linalg.inv(bradford) @ np.diag(cones) @ bradford @ matrix
    if not np.isfinite(adapted).all() or np.abs(adapted).max() > 100:
        raise InvalidInputError("the primaries are no colors")
    return adapted


def _fixed(number: float) -> int:
    return round(number * 65536)


def _xyz(numbers: Iterable[float]) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *(_fixed(float(number)) for number in numbers))


def _text(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return struct.pack(">4s4xII2s2sII", b"mluc", 1, 12, b"en", b"US", len(encoded), 28) + encoded
