"""Everything that a server imports before its first job."""

from __future__ import annotations

import importlib
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
for name in (
    "uvicorn",
    "transformers",
    "joyimage.cli.serve",
    "joyimage.pipeline.edit",
    "joyimage.serving.app",
    "joyimage.serving.preview",
):
    importlib.import_module(name)
