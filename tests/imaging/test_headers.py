"""What the first bytes of a file tell."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from joyimage.errors import ImageTooLargeError, UnknownFormatError
from joyimage.imaging.decode import Limits, decode
from joyimage.imaging.headers import is_heif, read_size
from joyimage.types import ImageSize


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_size_when_read_from_a_header_then_as_pillow_decodes_it(kind: str) -> None:
    for size in ((1, 1), (37, 90), (300, 17)):
        image = Image.new("RGB", size, "red")
        assert read_size(file_of(image, kind)) == ImageSize(*size)
        assert read_size(file_of(image, kind, exif=b"Exif\0\0" + bytes(20))) == ImageSize(*size)
    if kind == "WEBP":
        assert read_size(file_of(Image.new("RGBA", (37, 90)), "WEBP", lossless=True)) == ImageSize(37, 90)
    if kind == "JPEG":
        assert read_size(file_of(Image.new("RGB", (37, 90)), "JPEG", progressive=True)) == ImageSize(37, 90)


def test_size_when_the_header_claims_none_then_none() -> None:
    content = bytearray(file_of(Image.new("L", (3, 3)), "PNG"))
    content[16:20] = bytes(4)

    assert read_size(bytes(content)) is None


def test_image_when_its_header_claims_too_many_pixels_then_rejected_before_it_is_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = file_of(Image.new("RGB", (20, 20)), "PNG")
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("a decoder was asked"))

    with pytest.raises(ImageTooLargeError, match="20x20 pixels; at most 399"):
        decode(content, "x.png", Limits(max_pixels=399))


def test_file_when_no_image_then_rejected_by_its_format() -> None:
    assert not is_heif(b"%PDF-1.7 and more")
    with pytest.raises(UnknownFormatError, match="a PDF document"):
        decode(b"%PDF-1.7 and more", "x.pdf")
