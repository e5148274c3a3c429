"""Sheets of images: what the network will see, and what it makes of held-out pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from joyimage.imaging import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SIDE_PX = 192
_GAP_PX = 8
_LINE_PX = 18
_LINE_CHARACTERS = 100


def write_sheet(path: Path, rows: Sequence[tuple[Sequence[Image.Image], str]]) -> None:
    """Write a PNG with a row of images and a line of text for each entry.

    Args:
        path: File to write.
        rows: Images of a row, and what stands above them.

    Raises:
        ImageError: The file cannot be written.
    """
    columns = max(len(images) for images, _ in rows)
    font = ImageFont.load_default(12)
    row_px = _SIDE_PX + _LINE_PX + _GAP_PX
    width = max(columns * (_SIDE_PX + _GAP_PX) + _GAP_PX, _LINE_CHARACTERS * 7)
    sheet = Image.new("RGB", (width, row_px * len(rows) + _GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (images, text) in enumerate(rows):
        top = _GAP_PX + number * row_px
        line = " ".join(text.split())
        draw.text((_GAP_PX, top), line[:_LINE_CHARACTERS], fill="black", font=font)
        for column, image in enumerate(images):
            shown = image.convert("RGB")
            scale = min(_SIDE_PX / shown.width, _SIDE_PX / shown.height)
            size = max(1, round(shown.width * scale)), max(1, round(shown.height * scale))
            shown = shown.resize(size, Image.Resampling.LANCZOS)
            sheet.paste(shown, (_GAP_PX + column * (_SIDE_PX + _GAP_PX), top + _LINE_PX))
    write_whole(path, lambda file: sheet.save(file, "PNG"))
