"""Contact sheets: every edit before and after, on one page."""

from __future__ import annotations

import base64
import html
import io
import math
import os
from typing import IO, TYPE_CHECKING
from urllib.parse import quote

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from joyimage.errors import ImageError
from joyimage.imaging import read_image, to_rgb, write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SIDE = 192
_GAP = 8
_LINE = 18
_COLUMNS = 4
_MOST_ON_PNG = 200
_STYLE = (
    "body{font:14px system-ui;margin:1rem;background:#fff;color:#111}"
    "main{display:grid;grid-template-columns:repeat(auto-fill,minmax(400px,1fr));gap:1rem}"
    "figure{margin:0}img{width:49%;height:auto}figcaption{white-space:pre-wrap}"
)

Pair = tuple[str, "Path | None", "Path"]
"""Prompt, file before (None where there is none), file after."""


def write_contact_sheets(folder: Path, edits: Sequence[Pair]) -> None:
    """Write contact.html, which holds its images, and contact.png with the first 200 edits.

    Args:
        folder: Where the two files go.
        edits: The edits in their order. One is in memory at a time.

    Raises:
        ImageError: A file cannot be written. An image that has gone meanwhile is left out.
    """
    sheet = _empty_sheet(min(len(edits), _MOST_ON_PNG))

    def write_page(file: IO[bytes]) -> None:
        head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Edits</title>'
        file.write(f"{head}<style>{_STYLE}</style><main>".encode())
        for number, edit in enumerate(edits):
            thumbnails = [None if path is None else _thumbnail(path) for path in edit[1:]]
            file.write(_figure(edit, thumbnails).encode(errors="replace"))
            if number < _MOST_ON_PNG:
                _draw_pair(sheet, number, edit[0], thumbnails)
        file.write(b"</main></html>\n")

    write_whole(folder / "contact.html", write_page)
    info = PngImagePlugin.PngInfo()
    info.add_text("joyimage-contact", "1")  # so that a batch over this folder leaves it out
    write_whole(folder / "contact.png", lambda file: sheet.save(file, "PNG", pnginfo=info))


def _figure(edit: Pair, thumbnails: list[Image.Image | None]) -> str:
    prompt, _, path = edit
    text, name = html.escape(prompt, quote=True), html.escape(path.name)
    # A name may hold what addresses read otherwise (%, #, ?), or bytes that are not text.
    address = quote(os.fsencode(path.name))
    images = "".join(
        f'<img alt="{label}: {text}" src="data:image/jpeg;base64,{_encode(thumbnail)}">'
        for label, thumbnail in zip(("before", "after"), thumbnails, strict=True)
        if thumbnail is not None
    )
    return f'<figure>{images}<figcaption><a href="{address}">{name}</a>\n{text}</figcaption></figure>'


def _thumbnail(path: Path) -> Image.Image | None:
    try:
        image = to_rgb(read_image(path).image)
    except ImageError:
        return None
    image.thumbnail((_SIDE, _SIDE))
    return image


def _encode(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _empty_sheet(num: int) -> Image.Image:
    columns, rows = min(_COLUMNS, max(num, 1)), max(1, math.ceil(num / _COLUMNS))
    size = (columns * (2 * _SIDE + 2 * _GAP) + _GAP, rows * (_SIDE + _LINE + _GAP) + _GAP)
    return Image.new("RGB", size, "white")


def _draw_pair(sheet: Image.Image, number: int, prompt: str, thumbnails: list[Image.Image | None]) -> None:
    left = _GAP + number % _COLUMNS * (2 * _SIDE + 2 * _GAP)
    top = _GAP + number // _COLUMNS * (_SIDE + _LINE + _GAP)
    first_line = prompt.splitlines()[0] if prompt else ""
    ImageDraw.Draw(sheet).text((left, top), first_line[:60], fill="black", font=ImageFont.load_default(12))
    for place, thumbnail in enumerate(thumbnails):
        if thumbnail is not None:
            sheet.paste(thumbnail, (left + place * (_SIDE + _GAP // 2), top + _LINE))
