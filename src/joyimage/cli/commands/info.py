"""`joyimage info`: how a picture was made."""

from __future__ import annotations

import json as json_format
from pathlib import Path

from joyimage.cli.pictures import read_metadata
from joyimage.errors import ImageError


def info(image: Path, *, json: bool = False) -> None:
    """Show the edit that is recorded in a picture.

    Args:
        image: PNG that `joyimage edit` wrote.
        json: Print it as JSON.

    Raises:
        ImageError: No edit is recorded in it.
    """
    recipe = read_metadata(image)
    if recipe is None:
        raise ImageError(f"{image} holds no record of an edit by joyimage.")
    if json:
        print(json_format.dumps(recipe, ensure_ascii=False))
        return
    width = max(map(len, recipe))
    for name, value in recipe.items():
        print(f"{name:<{width}}  {'-' if value is None else value}")
