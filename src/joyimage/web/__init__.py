"""The page in the browser: static files that `joyimage.serving` sends, with no build step."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

__all__ = ["page_folder"]


def page_folder() -> Path:
    """Return the folder of the page's files; `index.html` in it is the page."""
    return Path(str(files(__name__) / "static"))
