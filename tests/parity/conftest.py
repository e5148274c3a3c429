"""Our pipelines beside diffusers', with the same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import random_models

if TYPE_CHECKING:
    from diffusers.pipelines.joyimage.pipeline_joyimage_edit import JoyImageEditPipeline as ReferencePipeline
    from diffusers.pipelines.joyimage.pipeline_joyimage_edit_plus import (
        JoyImageEditPlusPipeline as ReferencePlusPipeline,
    )

    from joyimage.pipeline.edit import JoyImageEditPipeline
    from joyimage.pipeline.edit_plus import JoyImageEditPlusPipeline


@pytest.fixture(scope="session")
def ours() -> JoyImageEditPipeline:
    """Our tiny pipeline."""
    return random_models.make_pipeline()


@pytest.fixture(scope="session")
def reference() -> ReferencePipeline:
    """Diffusers' pipeline with the weights of `ours`."""
    return random_models.make_reference_pipeline()


@pytest.fixture(scope="session")
def ours_plus() -> JoyImageEditPlusPipeline:
    """Our tiny pipeline for several references."""
    return random_models.make_plus_pipeline()


@pytest.fixture(scope="session")
def reference_plus() -> ReferencePlusPipeline:
    """Diffusers' pipeline for several references with the weights of `ours_plus`."""
    return random_models.make_reference_plus_pipeline()
