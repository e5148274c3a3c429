"""Which files are images, and what the others are."""

from __future__ import annotations

from PIL import Image

from joyimage.errors import ImageError

# Starts of files that people take for images, each with what to do.
_OTHER_KINDS = (
    (b"%PDF", "a PDF document; export the page as PNG"),
    (b"<svg", "an SVG drawing; export it as PNG"),
    (b"<!doctype html", "a web page; download the image itself"),
    (b"<html", "a web page; download the image itself"),
    (b"%!PS", "a PostScript document; export it as PNG"),
    (b"\xc5\xd0\xd3\xc6", "an EPS document; export it as PNG"),
    (b"8BPS", "a Photoshop document that can't be read; export it as PNG"),
    (b"PK\x03\x04", "a ZIP archive; unpack it"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file with `git lfs pull`"),
    (b"\xff\x0a", "a JPEG XL image, which can't be read; save it as PNG or JPEG"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image, which can't be read; save it as PNG or JPEG"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image, which can't be read; save it as PNG or TIFF"),
    (b"#?RADIANCE", "a Radiance HDR image, which can't be read; save it as PNG or TIFF"),
    (b"\x1a\x45\xdf\xa3", "a video; export one frame as PNG"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
)
# Starts of formats that are read where the file is whole.
_KNOWN_KINDS = (
    (b"\x89PNG", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
)
_IMAGE_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"mif1": "HEIC",
    b"msf1": "HEIC",
}
_NEW_SUBFILE_TYPE, _DNG_VERSION = 254, 50706


def check_raw(image: Image.Image, content: bytes, name: str) -> None:
    """Reject the raw file of a camera, of which only a small preview would be read.

    Raises:
        ImageError: It is one.
    """
    if image.format != "TIFF":
        return
    tags = getattr(image, "tag_v2", {})
    is_preview = bool(tags.get(_NEW_SUBFILE_TYPE, 0) & 1)
    if is_preview or _DNG_VERSION in tags or content[8:10] == b"CR":
        raise ImageError(f"{name} is a camera's raw file; develop it, and save it as TIFF, PNG or JPEG.")


def readable_formats() -> tuple[str, ...]:
    """Return all formats of Pillow but those that start another program."""
    Image.init()
    return tuple(kind for kind in Image.ID if kind != "EPS")


def describe_content(content: bytes) -> str:
    """Return what a file is that is not an image."""
    if not content:
        return "empty"
    start = content[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<?xml") and b"<svg" in content[:4096].lower():
        start = b"<svg"
    for magic, description in _OTHER_KINDS:
        if start.startswith(magic.lower()):
            return description
    kind = next((name for magic, name in _KNOWN_KINDS if content.startswith(magic)), None)
    if content[4:8] == b"ftyp":
        brand = content[8:12]
        if brand == b"crx ":
            return "a camera's raw file; develop it, and save it as TIFF, PNG or JPEG"
        kind = _IMAGE_BRANDS.get(brand)
        if kind is None:
            return "a video; export one frame as PNG"
    elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        kind = "WebP"
    if kind is not None:
        return f"a damaged or incomplete {kind} file; fetch or export it again"
    return "not an image file that can be read"
