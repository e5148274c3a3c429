"""Checkpoint folders that a test may damage, and the original layout of the tiny parts."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def damaged(checkpoint: Path, tmp_path: Path) -> Path:
    """Copy of the tiny checkpoint, to be changed by the test."""
    return shutil.copytree(checkpoint, tmp_path / "checkpoint")


@pytest.fixture
def damaged_shards(legacy_checkpoint: Path, tmp_path: Path) -> Path:
    """Copy of the tiny checkpoint with sharded weights, to be changed by the test."""
    return shutil.copytree(legacy_checkpoint, tmp_path / "shards")
