"""Fixtures that several test folders share; the models are made in `tests.random_models`.

That module imports torch, diffusers and transformers, which takes seconds: only fixtures that use it do.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile

# A home of its own for every test process, before anything asks where the user's is.
_HOME = tempfile.mkdtemp(prefix="joyimage-test-home-")
_OWNER = os.getpid()
os.environ["HOME"] = os.environ["USERPROFILE"] = _HOME
for _name in ("CONFIG", "DATA", "CACHE", "STATE"):
    os.environ[f"XDG_{_name}_HOME"] = f"{_HOME}/{_name.lower()}"
# Forked children inherit this; only the process that made the folder removes it.
atexit.register(lambda: os.getpid() == _OWNER and shutil.rmtree(_HOME, ignore_errors=True))

# Before the first import of a library that reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
# Test processes share the cores: with threads that wait for one another by spinning, tests took five times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Generator

    from PIL.Image import Image

# Words in the reason of a skip that must not happen, such as "Chromium,PostgreSQL": set where all is installed.
_REQUIRED = [word for word in os.environ.get("JOYIMAGE_TESTS_REQUIRE", "").split(",") if word]

# No test depends on the load of the machine.
settings.register_profile("joyimage", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("joyimage")

PUBLISHED_LAYOUT = Path(__file__).parents[1] / "../shared/data/checkpoint_layout"


def pytest_collection_finish() -> None:
    """Leave what has been imported out of garbage collections, each of which takes a third of a second with it."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # libraries report what is left when the interpreter ends


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Fail a test that was skipped for want of something that has to be there."""
    report: pytest.TestReport = yield
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if any(word in reason for word in _REQUIRED):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} must not be skipped here: {reason}"
    return report


@pytest.fixture(scope="session")
def published_configs() -> Path:
    """Folder with the transformer configurations of the published checkpoint."""
    return Path(__file__).parent / "data" / "published"


@pytest.fixture(scope="session")
def published_layout() -> Path:
    """Folder with all published configurations and the tokenizer, if this checkout has it beside it."""
    if not PUBLISHED_LAYOUT.is_dir():
        pytest.skip(f"the published tokenizer (4 MB) is not part of the project: no {PUBLISHED_LAYOUT}")
    return PUBLISHED_LAYOUT.resolve()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny checkpoint in the published layout; to be read only."""
    from tests import random_models

    return random_models.write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def plus_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny Edit-Plus checkpoint in the published layout; to be read only."""
    from tests import random_models

    return random_models.write_checkpoint(tmp_path_factory.mktemp("plus_checkpoint"), plus=True)


@pytest.fixture(scope="session")
def legacy_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny checkpoint with the older transformer settings and sharded weights; to be read only."""
    from tests import random_models

    folder = tmp_path_factory.mktemp("legacy_checkpoint")
    return random_models.write_checkpoint(folder, legacy_config=True, max_shard_size="300KB")


@pytest.fixture(scope="session")
def image() -> Image:
    """A square RGB image of the smallest base size."""
    from tests import random_models

    return random_models.make_image()
