"""`joyimage info`: how an image was made."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from joyimage.cli.sources import read_made


def info(image: Path, *, json: Annotated[bool, Parameter(negative=[])] = False) -> None:
    """Show the edit that is recorded in an image.

    Args:
        image: Image that joyimage wrote: PNG, JPEG, WebP, AVIF or TIFF; - reads from standard input.
        json: Print the record as JSON.

    Raises:
        ImageError: The file cannot be read, or no edit is recorded in it.
    """
    record = read_made(image)
    if json:
        print(json_format.dumps(record, ensure_ascii=False))
        return
    width = max(map(len, record))
    for name, value in record.items():
        print(f"{name:<{width}}  {'-' if value is None else value}")
