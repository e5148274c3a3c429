"""Everything that a server imports before its first job."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import uvicorn

import joyimage.cli.serve

__all__ = ["joyimage", "uvicorn"]
