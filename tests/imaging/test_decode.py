"""Image files as phones, cameras, scanners and programs write them: the right pixels, or one sentence."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from joyimage.errors import ImageError, InvalidInputError, UnknownFormatError
from joyimage.imaging import Limits, decode, read_image, read_mask, to_rgb

CASES = Path(__file__).parents[2] / "../shared/cases/images"
DISC = (210, 39, 40)


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_with_profile(profile: bytes, image: Image.Image) -> bytes:
    return file_of(image, "PNG", icc_profile=profile)


def wide_profile() -> bytes:
    """A matrix profile with Display P3's primaries and sRGB's curve, made by changing sRGB's own."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    primaries = {
        b"rXYZ": (0.5151, 0.2412, -0.0011),
        b"gXYZ": (0.2920, 0.6922, 0.0419),
        b"bXYZ": (0.1571, 0.0666, 0.7841),
    }
    for number in range(struct.unpack(">I", content[128:132])[0]):
        tag, offset, _ = struct.unpack(">4sII", content[132 + 12 * number : 144 + 12 * number])
        if tag in primaries:
            content[offset + 8 : offset + 20] = b"".join(
                struct.pack(">i", round(value * 65536)) for value in primaries[tag]
            )
        if tag == b"desc":  # so that it no longer calls itself sRGB
            start = content.find("sRGB".encode("utf-16-be"), offset)
            start, name = (
                (start, "Wide".encode("utf-16-be")) if start > 0 else (content.find(b"sRGB", offset), b"Wide")
            )
            content[start : start + len(name)] = name
    return bytes(content)


def linear_profile(space: bytes) -> bytes:
    """A profile for gray or RGB in which half of the largest value is half of the light."""
    curve = b"curv" + bytes(8)  # no entries: the identity
    points = {b"wtpt": (0.9642, 1.0, 0.8249)}
    if space == b"RGB ":
        points |= {
            b"rXYZ": (0.4361, 0.2225, 0.0139),
            b"gXYZ": (0.3851, 0.7169, 0.0971),
            b"bXYZ": (0.1431, 0.0606, 0.7141),
        }
    tags = {
        name: b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(65536 * one) for one in point))
        for name, point in points.items()
    }
    tags |= dict.fromkeys([b"kTRC"] if space == b"GRAY" else [b"rTRC", b"gTRC", b"bTRC"], curve)
    offset = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, offset + len(data), len(content))
        data += content
    body = table + data
    header = struct.pack(
        ">I4sI4s4s4s12x4s28x", 128 + len(body), b"lcms", 0x02400000, b"mntr", space, b"XYZ ", b"acsp"
    )
    return (header + tags[b"wtpt"][8:]).ljust(128, b"\0") + body


@pytest.mark.parametrize("space", [b"GRAY", b"RGB "])
@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_profile_when_gray_and_linear_then_half_the_light_is_188(kind: str, mode: str, space: bytes) -> None:
    """Programs keep a profile of color when they save the grays of a color image."""
    image = Image.new("L", (4, 4), 128).convert("LA" if mode == "LA" else "L")
    if mode == "I;16":
        image = Image.fromarray(np.full((4, 4), 128 * 257, np.uint16))

    decoded = decode(file_of(image, kind, icc_profile=linear_profile(space)), "a")

    assert decoded.notes == ()
    assert to_rgb(decoded.image).getpixel((0, 0)) == pytest.approx((188, 188, 188), abs=1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_profile_when_wider_than_srgb_then_colors_are_converted(kind: str) -> None:
    options: dict[str, Any] = (
        {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    )
    content = file_of(Image.new("RGB", (16, 16), (192, 60, 53)), kind, icc_profile=wide_profile(), **options)

    decoded = decode(content, "a")

    red, green, blue = np.asarray(decoded.image.convert("RGB"))[8, 8].tolist()
    assert abs(red - DISC[0]) <= 4
    assert abs(green - DISC[1]) <= 6
    assert abs(blue - DISC[2]) <= 6
    assert "icc_profile" not in decoded.image.info
    assert decoded.notes == ()


def test_profile_when_srgb_then_not_one_pixel_changes() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    decoded = decode(png_with_profile(profile, Image.fromarray(pixels)), "a")

    assert np.array_equal(np.asarray(decoded.image), pixels)


@pytest.mark.parametrize("profile", [b"x", b"\0" * 200, wide_profile()[:300], bytes(range(256))])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_profile_when_damaged_then_read_as_srgb_with_one_note(profile: bytes, mode: str) -> None:
    image = Image.new("RGB", (8, 8), DISC).convert(mode)

    decoded = decode(png_with_profile(profile, image), "a")

    assert len(decoded.notes) == 1
    assert "sRGB" in decoded.notes[0]
    assert np.array_equal(np.asarray(decoded.image.convert("RGB")), np.asarray(image.convert("RGB")))


def test_profile_when_image_is_transparent_then_alpha_stays() -> None:
    image = Image.new("RGBA", (8, 8), (192, 60, 53, 128))

    decoded = decode(png_with_profile(wide_profile(), image), "a")

    assert decoded.image.mode == "RGBA"
    assert decoded.image.getchannel("A").getextrema() == (128, 128)
    assert abs(decoded.image.getpixel((0, 0))[0] - DISC[0]) <= 4  # pyright: ignore[reportIndexIssue, reportOptionalSubscript]


EXIF_JUNK = [
    b"",
    b"Exif\0\0",
    b"Exif\0\0garbage",
    b"Exif\0\0II*\0\xff\xff\xff\xff",
    b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("junk", EXIF_JUNK)
def test_exif_when_damaged_then_the_pixels_are_read(kind: str, junk: bytes) -> None:
    image = Image.new("RGB", (8, 16), DISC)
    content = file_of(image, kind, exif=junk, **({"lossless": True} if kind == "WEBP" else {}))

    decoded = decode(content, "a")

    assert decoded.image.size == (8, 16)
    assert to_rgb(decoded.image).size == (8, 16)


@settings(deadline=None, max_examples=150)
@given(kind=st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF"]), seed=st.integers(0, 10**6))
def test_exif_when_any_of_its_bytes_are_changed_then_never_an_error_of_another_kind(
    kind: str, seed: int
) -> None:
    image = Image.new("RGB", (8, 16), DISC)
    details = Image.Exif()
    details[0x0112] = 6
    details[0x0100] = 8
    details.get_ifd(0x8769)[0x9003] = "2026:01:31 12:00:00"
    dice = random.Random(seed)
    if kind == "TIFF":
        content = bytearray(file_of(image, kind, exif=details))
    else:
        raw = bytearray(details.tobytes())
        for _ in range(dice.randint(1, 6)):
            raw[dice.randrange(6, len(raw))] = dice.randrange(256)
        content = bytearray(file_of(image, kind, exif=bytes(raw)))
    if kind == "TIFF":
        content[dice.randrange(8, len(content))] = dice.randrange(256)

    try:
        decoded = decode(bytes(content), "a")
    except ImageError:
        assert kind == "TIFF"  # whose tags are the image itself
    else:
        assert sorted(decoded.image.size) == [8, 16] or kind == "TIFF"


def gradient() -> np.ndarray:
    return np.tile(np.linspace(0, 1, 64), (8, 1))


@pytest.mark.parametrize(
    ("array", "mode"),
    [
        (gradient().astype(np.float32), "F"),
        ((gradient() * 255).astype(np.float32), "F"),
        ((gradient() * 65535).astype(np.float32), "F"),
        ((gradient() * 65535).astype(np.uint16), "I;16"),
        ((gradient() * 65535).astype(np.int32), "I"),
        ((gradient() * 255).astype(np.int32), "I"),
        ((gradient() * 255).astype(np.uint8), "L"),
    ],
)
def test_samples_when_of_any_depth_then_the_same_gray(array: np.ndarray, mode: str) -> None:
    image = Image.fromarray(array)
    assert image.mode == mode
    decoded = decode(file_of(image, "TIFF"), "a")

    gray = np.asarray(to_rgb(decoded.image))[4, :, 1].astype(int)

    assert np.abs(gray - np.linspace(0, 255, 64)).max() <= 1.5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5, 70000.0])
def test_samples_when_not_finite_or_out_of_range_then_rejected_with_the_value(value: float) -> None:
    array = gradient().astype(np.float32)
    array[0, 0] = value

    with pytest.raises(InvalidInputError, match="`photo` holds the value"):
        to_rgb(Image.fromarray(array), "photo")
    with pytest.raises(ImageError, match=r"^photo\.tif holds the value"):
        decode(file_of(Image.fromarray(array), "TIFF"), "photo.tif")


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "La", "RGBa", "RGBX"]
)
def test_mode_when_pillow_knows_it_then_opaque_white_stays_white(mode: str) -> None:
    white = Image.new("RGBA", (8, 8), (255, 255, 255, 255))
    try:
        image = white.convert(mode)
    except ValueError:
        image = white.convert("LA" if mode in {"La", "PA"} else "RGB").convert(mode)

    made = to_rgb(image)

    assert made.mode == "RGB"
    assert np.asarray(made).min() >= 253


@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "RGBa"])
def test_transparency_when_whole_then_white_whatever_lies_below(mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    image = image.convert("LA").convert(mode) if mode.startswith("L") else image.convert(mode)

    assert np.asarray(to_rgb(image)).min() == 255


def test_transparency_when_a_palette_index_or_color_then_white_there() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    content = file_of(palette, "PNG", transparency=1)
    color = file_of(Image.new("RGB", (8, 8), (1, 2, 3)), "PNG", transparency=(1, 2, 3))

    for one in (content, color):
        assert np.asarray(to_rgb(decode(one, "a").image)).min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_when_given_then_upright_once(orientation: int) -> None:
    image = Image.new("RGB", (16, 8), "white")
    image.paste((255, 0, 0), (0, 0, 4, 4))
    details = Image.Exif()
    details[0x0112] = orientation

    decoded = decode(file_of(image, "JPEG", exif=details, quality=100, subsampling=0), "a").image

    assert decoded.size == ((16, 8) if orientation < 5 else (8, 16))
    assert to_rgb(decoded).tobytes() == to_rgb(to_rgb(decoded)).tobytes()


def test_animation_when_read_then_first_frame_and_a_note() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        content = file_of(frames[0], kind, save_all=True, append_images=frames[1:])

        decoded = decode(content, "a")

        assert decoded.notes[0].startswith("it has 3 ")
        assert np.asarray(decoded.image.convert("RGB"))[4, 4, 0] > 240


def test_metadata_when_there_then_resolution_and_date_are_known() -> None:
    details = Image.Exif()
    details.get_ifd(0x8769)[0x9003] = "2026:01:31 12:00:00"
    content = file_of(Image.new("RGB", (8, 8)), "JPEG", dpi=(300, 300), exif=details)

    decoded = decode(content, "a")

    assert decoded.dpi == (300, 300)
    assert decoded.date == "2026:01:31 12:00:00"


@pytest.mark.parametrize("is_stated", [False, True])
@pytest.mark.parametrize("kind", ["TIFF", "JPEG", "PNG", "camera"])
def test_resolution_when_the_file_states_none_then_none_is_made_up(kind: str, is_stated: bool) -> None:
    details = Image.Exif()
    details[0x010F] = "Maker"
    if is_stated:
        details[0x011A], details[0x0128] = 300, 2
    options: dict[str, Any] = {"dpi": (300, 300)} if is_stated else {}
    image = Image.new("RGB", (8, 8))
    if kind == "camera":  # EXIF alone, without the header of JFIF
        content = file_of(image, "JPEG", exif=details)
        content = content[:2] + content[4 + int.from_bytes(content[4:6], "big") :]
    else:
        content = file_of(image, kind, **options, **({"exif": details} if kind == "JPEG" else {}))

    found = decode(content, "a").dpi

    assert found == (pytest.approx((300, 300), abs=0.01) if is_stated else None)


def test_heic_when_the_package_is_there_then_read_and_when_not_then_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    import pillow_heif

    pillow_heif.register_heif_opener()
    content = file_of(Image.new("RGB", (64, 64), DISC), "HEIF", quality=100)

    assert np.abs(np.asarray(decode(content, "a").image, dtype=int)[32, 32] - DISC).max() <= 6
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"joyimage\[heif\]"):
        decode(content, "phone.heic")


def test_limits_when_exceeded_then_rejected_before_decoding() -> None:
    image = Image.new("RGB", (64, 64))
    png = file_of(image, "PNG")
    jpeg = file_of(image, "JPEG", progressive=True)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    bomb = jpeg[:-2] + scan * 100 + jpeg[-2:]

    assert decode(jpeg, "a").image.size == (64, 64)
    with pytest.raises(ImageError, match="scans"):
        decode(bomb, "bomb.jpg")
    with pytest.raises(ImageError, match="64x64 pixels"):
        decode(png, "a", Limits(max_pixels=4095))
    with pytest.raises(ImageError, match="bytes"):
        decode(png, "a", Limits(max_bytes=10))
    with pytest.raises(ImageError, match="not an image"):
        decode(png, "a", formats=("JPEG",))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"<html>",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b"\0\0\0\x18ftypheic",
    ],
)
def test_content_when_no_image_then_one_sentence_with_the_name(content: bytes) -> None:
    with pytest.raises(ImageError, match="the-file"):
        decode(content, "the-file")


@settings(deadline=None, max_examples=80)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"]),
    cut=st.floats(0, 1),
    seed=st.integers(0, 999),
)
def test_content_when_cut_or_changed_then_an_image_or_one_sentence(kind: str, cut: float, seed: int) -> None:
    content = bytearray(file_of(Image.radial_gradient("L").resize((40, 40)).convert("RGB"), kind))
    dice = random.Random(seed)
    for _ in range(dice.randint(0, 4)):
        content[dice.randrange(len(content))] = dice.randrange(256)

    try:
        to_rgb(decode(bytes(content[: max(1, int(cut * len(content)))]), "a").image)
    except (ImageError, InvalidInputError) as error:
        assert str(error)  # noqa: PT017 - an image is as good an end


def with_chunk(kind: bytes, data: bytes, *, crc: int | None = None) -> bytes:
    """A red PNG with one more chunk before its pixels."""
    plain = file_of(Image.new("RGB", (8, 8), "red"), "PNG")
    check = zlib.crc32(kind + data) if crc is None else crc
    return plain[:33] + struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check) + plain[33:]


@pytest.mark.parametrize(
    "content",
    [
        with_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 80_000_000)),
        with_chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(b"x" * 2_000_000)),
        with_chunk(b"zTXt", b"a\0\0not compressed"),
        with_chunk(b"tIME", b"\x07\xe8\1\1\0\0\0", crc=1),
        with_chunk(b"pHYs", b"\0", crc=2),
    ],
)
def test_png_when_its_text_is_a_bomb_or_damaged_then_the_pixels_are_read(content: bytes) -> None:
    assert to_rgb(decode(content, "a.png").image).getpixel((3, 3)) == (255, 0, 0)


def test_png_when_its_pixels_are_damaged_then_one_sentence() -> None:
    with pytest.raises(ImageError, match=r"a\.png can't be read: it is damaged"):
        decode(with_chunk(b"zTXt", b"x")[:-30], "a.png")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG\r\n\x1a\n", "incomplete PNG"),
        (b"\xff\xd8\xff", "incomplete JPEG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50), "incomplete HEIC"),
        (b"\0\0\0\x18ftypmp42" + bytes(50), "a video"),
        (b"\0\0\0\x18ftypcrx " + bytes(50), "raw file"),
        (b"\xff\x0a" + bytes(50), "JPEG XL"),
        (b"\x76\x2f\x31\x01" + bytes(50), "OpenEXR"),
    ],
)
def test_content_when_of_another_kind_then_said_which(content: bytes, words: str) -> None:
    with pytest.raises(UnknownFormatError, match=words):
        decode(content, "a")


def test_gray_of_16_bits_when_one_level_is_transparent_then_white_there() -> None:
    image = Image.fromarray(np.array([[0, 30000]], dtype=np.uint16))
    image.info["transparency"] = 30000

    assert [to_rgb(image).getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (255, 255, 255)]


def test_file_when_missing_or_a_folder_then_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="directory"):
        read_image(tmp_path)


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not beside this checkout")
def test_cases_when_read_then_the_disc_has_its_color() -> None:
    names = ["icc_p3.png", "icc_p3.jpg", "icc_prophoto.webp", "icc_adobe.tiff", "icc_srgb.png"]
    for name in names:
        image = to_rgb(read_image(CASES / name).image)
        pixel = np.asarray(image)[image.height // 2, image.width // 2].astype(int)
        assert np.abs(pixel - DISC).max() <= 8, (name, pixel)


def _mask_variants() -> dict[str, Image.Image]:
    """The left half may change, in every mode that programs write masks in."""
    half = Image.new("L", (8, 4))
    half.paste(255, (0, 0, 4, 4))
    alpha = Image.new("RGBA", (8, 4), (255, 255, 255, 0))
    alpha.paste((255, 255, 255, 255), (0, 0, 4, 4))
    deep = Image.fromarray(np.asarray(half).astype(np.uint16) * 257)
    palette = half.convert("P")
    keyed = half.convert("RGB")
    keyed.info["transparency"] = (0, 0, 0)
    return {
        "L": half,
        "1": half.convert("1"),
        "RGB": half.convert("RGB"),
        "16-bit": deep,
        "P": palette,
        "RGBA with black": half.convert("RGBA"),
        "white on transparent": alpha,
        "LA": alpha.convert("LA"),
        "color key": keyed,
        "CMYK": half.convert("RGB").convert("CMYK"),
    }


@pytest.mark.parametrize("name", sorted(_mask_variants()))
def test_mask_when_in_any_mode_then_white_counts_and_black_or_transparent_does_not(
    name: str, tmp_path: Path
) -> None:
    variant = _mask_variants()[name]
    path = tmp_path / ("mask.tiff" if name == "CMYK" else "mask.png")
    variant.save(path)

    mask = read_mask(path, (8, 4))

    assert mask.mode == "L"
    assert (np.asarray(mask)[1] > 127).tolist() == [True] * 4 + [False] * 4
    if name == "16-bit":  # grays are read by value, not cut at 255
        Image.fromarray(np.full((4, 8), 0x4000, np.uint16)).save(path)
        assert read_mask(path, (8, 4)).getpixel((0, 0)) == 64
    with pytest.raises(InvalidInputError, match="has 8x4 pixels; expected 4x8"):
        read_mask(path, (4, 8))
