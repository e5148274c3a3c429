"""Fixtures that several test folders share; the parts they are made of stand in `tests.random_models`."""

from __future__ import annotations

import os

# Before the first import of a library that reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
# Test processes share the cores: threads that spin for one another took five times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import random_models

if TYPE_CHECKING:
    from PIL.Image import Image

PUBLISHED_LAYOUT = Path(__file__).parents[1] / "../shared/data/checkpoint_layout"


@pytest.fixture(scope="session")
def published_layout() -> Path:
    """Folder with the published configurations and tokenizer, where this checkout has it beside it."""
    if not PUBLISHED_LAYOUT.is_dir():
        pytest.skip(f"{PUBLISHED_LAYOUT} is not here")
    return PUBLISHED_LAYOUT.resolve()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny checkpoint in the published layout; to be read only."""
    return random_models.write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def plus_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny Edit-Plus checkpoint in the published layout; to be read only."""
    return random_models.write_checkpoint(tmp_path_factory.mktemp("plus_checkpoint"), plus=True)


@pytest.fixture(scope="session")
def legacy_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny checkpoint with the older transformer settings and sharded weights; to be read only."""
    folder = tmp_path_factory.mktemp("legacy_checkpoint")
    return random_models.write_checkpoint(folder, legacy_config=True, max_shard_size="300KB")


@pytest.fixture(scope="session")
def picture() -> Image:
    """A square RGB picture of the smallest base size."""
    return random_models.make_picture()
