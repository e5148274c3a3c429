"""Colors that a file states without an ICC profile, against the formulas of the standards."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from joyimage.imaging import decode, to_rgb
from tests.imaging.test_decode import file_of

if TYPE_CHECKING:
    from collections.abc import Callable

COLOR = (192, 148, 60)
# Rows: linear sRGB of the primaries' linear red, green and blue (published matrices, white D65 for all).
P3_TO_SRGB = [[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]]
BT2020_TO_SRGB = [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
ADOBE_TO_SRGB = [[1.3983, -0.3983, 0.0], [0.0, 1.0, 0.0], [0.0, -0.0429, 1.0429]]
SAME = np.eye(3).tolist()
P3_CHRM = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
SRGB_CHRM = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


def srgb_light(samples: np.ndarray) -> np.ndarray:
    return np.where(samples <= 0.04045, samples / 12.92, ((samples + 0.055) / 1.055) ** 2.4)


def encode(light: np.ndarray) -> np.ndarray:
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def pq_light(samples: np.ndarray) -> np.ndarray:
    """EOTF of SMPTE ST 2084 in cd/m², of which 203 are white (BT.2408)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 4096 * 128, 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    root = samples ** (1 / m2)
    return 10_000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1) / 203


def expected(
    light: Callable[[np.ndarray], np.ndarray], matrix: Any, color: tuple[int, ...] = COLOR
) -> np.ndarray:
    return encode(np.array(matrix) @ np.minimum(light(np.array(color) / 255), 1))


def png(image: Image.Image, *chunks: tuple[bytes, bytes], **options: Any) -> bytes:
    """A PNG with chunks behind its header."""
    content = file_of(image, "PNG", **options)
    made = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return content[:33] + made + content[33:]


def gama(number: int) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", number)


def chrm(numbers: tuple[int, ...]) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *numbers)


def cicp(primaries: int, transfer: int) -> tuple[bytes, bytes]:
    return b"cICP", bytes([primaries, transfer, 0, 1])


def flat(color: tuple[int, ...] | int = COLOR, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (16, 16), color)


def color_of(content: bytes) -> np.ndarray:
    return np.array(decode(content, "a").image.convert("RGB").getpixel((8, 8)))


@pytest.mark.parametrize(
    ("chunks", "light", "matrix"),
    [
        ([gama(100_000)], lambda samples: samples, SAME),
        ([gama(55_556)], lambda samples: samples**1.8, SAME),
        ([gama(45_455), chrm(P3_CHRM)], srgb_light, P3_TO_SRGB),
        ([chrm(P3_CHRM)], srgb_light, P3_TO_SRGB),
        ([gama(100_000), chrm(P3_CHRM)], lambda samples: samples, P3_TO_SRGB),
        ([cicp(12, 13)], srgb_light, P3_TO_SRGB),
        ([cicp(9, 13)], srgb_light, BT2020_TO_SRGB),
        ([cicp(1, 8)], lambda samples: samples, SAME),
        ([cicp(1, 4)], lambda samples: samples**2.2, SAME),
        ([cicp(1, 16)], pq_light, SAME),
        ([cicp(12, 13), gama(100_000)], srgb_light, P3_TO_SRGB),
    ],
)
def test_color_when_stated_by_chunks_then_as_the_standard_says(
    chunks: list[tuple[bytes, bytes]], light: Callable[[np.ndarray], np.ndarray], matrix: Any
) -> None:
    assert np.abs(color_of(png(flat(), *chunks)) - expected(light, matrix)).max() <= 1.5


@pytest.mark.parametrize(
    "chunks",
    [
        [gama(45_455)],
        [gama(45_455), chrm(SRGB_CHRM)],
        [gama(0)],
        [gama(220_000)],
        [chrm((0,) * 8)],
        [chrm((31270, 32900, 64000, 33000, 64000, 33000, 15000, 6000))],
        [(b"sRGB", b"\0"), gama(100_000), chrm(P3_CHRM)],
        [cicp(1, 13), gama(100_000)],
        [cicp(2, 2)],
        [cicp(200, 13)],
        [(b"cICP", b"\x0c")],
    ],
)
def test_color_when_chunks_mean_srgb_or_nothing_then_no_pixel_changes(
    chunks: list[tuple[bytes, bytes]],
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)

    decoded = decode(png(Image.fromarray(pixels), *chunks), "a")

    assert np.array_equal(np.asarray(decoded.image), pixels)
    assert decoded.notes == ()


@pytest.mark.parametrize("transfer", [16, 18])
def test_color_when_hdr_then_white_is_white_and_a_note_tells(transfer: int) -> None:
    white = {16: 148, 18: 191}[transfer]  # 203 cd/m² in PQ, .75 in HLG

    decoded = decode(png(flat((white, white, white)), cicp(9, transfer)), "a")

    assert min(decoded.image.convert("RGB").getpixel((0, 0))) >= 253  # type: ignore[call-overload, type-var]
    assert decoded.notes == ("it is an HDR image, whose highlights are cut off at white",)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "I;16"])
def test_color_when_linear_in_any_mode_then_half_the_light_is_188(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((16, 16), 128 * 257, dtype=np.uint16))
    else:
        image = flat((128, 128, 128))
        image = image.quantize(4) if mode == "P" else image.convert(mode)

    color = color_of(png(image, gama(100_000)))

    assert set(color.tolist()) <= ({0, 255} if mode == "1" else {187, 188, 189})


def test_color_when_transparent_then_alpha_stays() -> None:
    decoded = decode(png(flat((128, 128, 128, 90), "RGBA"), gama(100_000)), "a")

    assert decoded.image.getpixel((0, 0)) == (188, 188, 188, 90)


def test_color_when_the_library_gets_an_opened_png_then_as_from_the_file() -> None:
    content = png(flat(), gama(100_000), chrm(P3_CHRM))

    assert to_rgb(Image.open(io.BytesIO(content))).getpixel((0, 0)) == tuple(color_of(content))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_color_when_a_camera_says_adobe_rgb_then_converted(kind: str) -> None:
    image = flat((60, 148, 60))
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 0xFFFF
    exif.get_ifd(0x8769)[0xA005] = {1: "R03", 2: b"0100"}
    options: dict[str, Any] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(
        kind, {}
    )

    color = color_of(file_of(image, kind, exif=exif.tobytes(), **options))

    wanted = expected(lambda samples: samples ** (563 / 256), ADOBE_TO_SRGB, (60, 148, 60))
    assert np.abs(color - wanted).max() <= 2.5


def test_color_when_avif_states_code_points_then_converted() -> None:
    content = bytearray(file_of(flat(), "AVIF", quality=100, subsampling="4:4:4"))
    place = content.index(b"colrnclx")
    content[place + 8 : place + 12] = struct.pack(">HH", 12, 13)

    assert np.abs(color_of(bytes(content)) - expected(srgb_light, P3_TO_SRGB)).max() <= 4


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 2**32 - 1), min_size=8, max_size=8),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=6),
)
def test_color_when_chunks_hold_anything_then_an_image_comes_back(
    numbers: list[int], gamma: int, codes: bytes
) -> None:
    content = png(flat(), gama(gamma), chrm(tuple(numbers)), (b"cICP", codes))

    assert decode(content, "a").image.size == (16, 16)
