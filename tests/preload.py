"""What processes that fork off for a test have imported before."""

from __future__ import annotations

import atexit
import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import uvicorn

from joyimage.cli.commands import batch, serve
from joyimage.pipeline import edit, edit_plus
from joyimage.serving import app
from tests import random_models

__all__ = ["app", "batch", "edit", "edit_plus", "random_models", "serve", "uvicorn"]

# A garbage collection takes a third of a second with all of this, in each of the processes.
gc.freeze()
atexit.register(gc.unfreeze)  # libraries report what is left when the interpreter ends
