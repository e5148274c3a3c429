"""What tests of training the embedded model share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from joyimage.tiny import checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def short_corpus() -> Iterator[None]:
    """Train tokenizers on a tenth of the prompts, whose scenes take long to draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_CORPUS_SCENES_PER_TASK", 40)
        checkpoint._corpus_prompts.cache_clear()
        yield
    checkpoint._corpus_prompts.cache_clear()
