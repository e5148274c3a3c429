"""Contact sheets: every edit before and after, on one page."""

from __future__ import annotations

import base64
import html
import io
import math
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from joyimage.cli.pictures import read_picture, write_picture, write_text

if TYPE_CHECKING:
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


def write_contact_sheets(folder: Path, edits: list[tuple[str, Path, Path]]) -> None:
    """Write contact.html, which holds its pictures, and contact.png with the first 200 edits.

    Args:
        folder: Where they go.
        edits: Prompt, file before, file after.

    Raises:
        ImageError: A file can't be read or written.
    """
    figures = []
    sheet = _empty_sheet(min(len(edits), _MOST_ON_PNG))
    for number, (prompt, *paths) in enumerate(edits):
        thumbnails = [_thumbnail(path) for path in paths]
        text = html.escape(prompt, quote=True)
        pictures = "".join(
            f'<img alt="{label}: {text}" src="data:image/jpeg;base64,{_encode(thumbnail)}">'
            for label, thumbnail in zip(("before", "after"), thumbnails, strict=True)
        )
        name = html.escape(paths[1].name)
        figures.append(
            f'<figure>{pictures}<figcaption><a href="{name}">{name}</a>\n{text}</figcaption></figure>'
        )
        if number < _MOST_ON_PNG:
            _draw_pair(sheet, number, prompt, thumbnails)
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Edits</title><style>{_STYLE}</style>'
    write_text(folder / "contact.html", f"{page}<main>{''.join(figures)}</main></html>\n")
    write_picture(sheet, folder / "contact.png")


def _thumbnail(path: Path) -> Image.Image:
    picture = read_picture(path).convert("RGB")
    picture.thumbnail((_SIDE, _SIDE))
    return picture


def _encode(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _empty_sheet(num: int) -> Image.Image:
    columns, rows = min(_COLUMNS, max(num, 1)), max(1, math.ceil(num / _COLUMNS))
    size = (columns * (2 * _SIDE + 2 * _GAP) + _GAP, rows * (_SIDE + _LINE + _GAP) + _GAP)
    return Image.new("RGB", size, "white")


def _draw_pair(sheet: Image.Image, number: int, prompt: str, thumbnails: list[Image.Image]) -> None:
    left = _GAP + number % _COLUMNS * (2 * _SIDE + 2 * _GAP)
    top = _GAP + number // _COLUMNS * (_SIDE + _LINE + _GAP)
    first_line = prompt.splitlines()[0] if prompt else ""
    ImageDraw.Draw(sheet).text((left, top), first_line[:60], fill="black", font=ImageFont.load_default(12))
    for place, thumbnail in enumerate(thumbnails):
        sheet.paste(thumbnail, (left + place * (_SIDE + _GAP // 2), top + _LINE))
