"""Our pipelines beside diffusers', with the same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import tiny

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
    return tiny.make_pipeline()


@pytest.fixture(scope="session")
def reference() -> ReferencePipeline:
    """Diffusers' pipeline with the weights of `ours`."""
    return tiny.make_reference_pipeline()


@pytest.fixture(scope="session")
def ours_plus() -> JoyImageEditPlusPipeline:
    """Our tiny pipeline for several references."""
    return tiny.make_plus_pipeline()


@pytest.fixture(scope="session")
def reference_plus() -> ReferencePlusPipeline:
    """Diffusers' pipeline for several references with the weights of `ours_plus`."""
    return tiny.make_reference_plus_pipeline()
