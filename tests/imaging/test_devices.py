"""Files as phones, cameras and scanners write them, and what people take for images."""

from __future__ import annotations

import io
import itertools
import random
import struct
import time

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin, TiffTags

from joyimage.errors import ImageError, ImageTooLargeError
from joyimage.imaging import Limits, decode, to_rgb

DISC = (210, 39, 40)


def photo(size: tuple[int, int] = (64, 48)) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    image.paste(DISC, (16, 16, 48, 32))
    return image


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def assert_same(image: Image.Image, expected: Image.Image) -> None:
    found = np.asarray(to_rgb(image).crop((20, 20, 44, 28)), dtype=int)
    assert image.size == expected.size
    assert np.abs(found - DISC).max() <= 12


@pytest.mark.parametrize("seed", range(3))
def test_motion_photo_when_a_film_follows_the_jpeg_then_read_whatever_its_bytes(seed: int) -> None:
    film = b"\0\0\0\x18ftypmp42" + b"\xff\xda\x00\x02" * 500 + random.Random(seed).randbytes(20_000)

    decoded = decode(encode(photo(), "JPEG", quality=95) + film, "motion.jpg")

    assert_same(decoded.image, photo())


def test_jpeg_when_previews_in_its_metadata_have_scans_then_only_its_own_count() -> None:
    preview = encode(photo((32, 24)), "JPEG") + b"\xff\xda" * 200
    comment = b"\xff\xfe" + (len(preview) + 2).to_bytes(2, "big") + preview
    plain = encode(photo(), "JPEG", quality=95)

    decoded = decode(plain[:2] + comment + plain[2:], "preview.jpg", Limits(max_jpeg_scans=1))

    assert_same(decoded.image, photo())


def test_jpeg_when_its_own_scans_are_too_many_then_rejected_before_decoding() -> None:
    progressive = encode(photo(), "JPEG", progressive=True)
    end = progressive.rindex(b"\xff\xda")
    bomb = progressive[:end] + progressive[end:-2] * 80 + b"\xff\xd9"

    decode(progressive, "progressive.jpg")
    with pytest.raises(ImageError, match="scans; at most 64 are read"):
        decode(bomb, "bomb.jpg")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF"])
def test_image_when_decoding_takes_too_long_then_ended_with_a_sentence(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))

    with pytest.raises(ImageTooLargeError, match=r"slow.* takes more than 2 s to decode"):
        decode(encode(photo(), kind), "slow", Limits(max_seconds=2))
    decode(encode(photo(), kind), "patient", Limits(max_seconds=1e6))


@pytest.mark.parametrize("cut", [3, 5, 20, 100, 300])
def test_jpeg_when_cut_in_its_header_then_one_sentence(cut: int) -> None:
    with pytest.raises(ImageError, match=r"cut\.jpg"):
        decode(encode(photo(), "JPEG")[:cut], "cut.jpg")


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "group4", "mode": "1"},
        {"compression": "tiff_lzw"},
        {"compression": "jpeg", "mode": "L"},
        {"compression": "packbits", "mode": "P"},
        {"compression": "tiff_adobe_deflate", "mode": "CMYK"},
        {"tiffinfo": {282: 300.0, 283: 300.0, 296: 2}},
    ],
)
def test_scan_when_tiff_of_any_compression_then_read(options: dict[str, object]) -> None:
    image = photo().convert(str(options.pop("mode", "RGB")))

    assert to_rgb(decode(encode(image, "TIFF", **options), "scan.tiff").image).size == (64, 48)


def _raw(tag: int, value: object) -> bytes:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[tag] = value
    info.tagtype[tag] = TiffTags.UNDEFINED if tag == 50706 else TiffTags.LONG
    return encode(photo(), "TIFF", tiffinfo=info)


def _cr2() -> bytes:
    """One gray pixel in the layout of a CR2 file: its mark stands where other TIFF files begin."""
    entries = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 16, 277: 1, 278: 1, 279: 1}
    directory = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries.items())
    head = b"II*\0" + struct.pack("<I", 18) + b"CR\2\0\0\0\0\0"
    return head + b"\x80\0" + struct.pack("<H", len(entries)) + directory + b"\0" * 4


@pytest.mark.parametrize("kind", ["DNG", "NEF", "CR2"])
def test_raw_file_when_only_its_preview_could_be_read_then_rejected(kind: str) -> None:
    if kind == "DNG":
        content = _raw(50706, b"\1\4\0\0")
    elif kind == "NEF":
        content = _raw(254, 1)
    else:
        content = _cr2()

    with pytest.raises(ImageError, match=r"IMG_1\.raw is a camera's raw file"):
        decode(content, "IMG_1.raw")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<svg/>', "an SVG drawing"),
        (b"  <!DOCTYPE html><html></html>", "a web page"),
        (b"<HTML><body>404</body></HTML>", "a web page"),
        (b"PK\x03\x04" + b"\0" * 40, "a ZIP archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "a PostScript document"),
        (b'{"error": "not found"}', "not an image file that can be read"),
    ],
)
def test_content_when_people_take_it_for_an_image_then_says_what_it_is(content: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        decode(content, "photo.jpg")


def test_eps_when_ghostscript_is_installed_then_it_is_never_started(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    def run(*_: object, **__: object) -> None:
        raise AssertionError("another program was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)

    with pytest.raises(ImageError, match="PostScript"):
        decode(encode(photo(), "EPS"), "drawing.eps")
