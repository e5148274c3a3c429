"""Everything that a server imports before its first job."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import uvicorn

from joyimage.cli.commands import serve
from joyimage.pipeline import edit, edit_plus
from joyimage.serving import app

__all__ = ["app", "edit", "edit_plus", "serve", "uvicorn"]
