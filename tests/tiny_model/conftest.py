"""What tests of training the embedded model share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from joyimage.tiny import checkpoint, language, train

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def short_corpus() -> Iterator[None]:
    """Train tokenizers and measure latents on a fraction of the scenes, which take long to draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_CORPUS_SCENES_PER_TASK", 40)
        patch.setattr(language, "_CORPUS_CASES_PER_TASK", 4)
        patch.setattr(language, "_PROMPT_SCENES_PER_TASK", 12)
        patch.setattr(language, "_LEAST_COUNT", 4)
        patch.setattr(train, "_STATISTICS_SCENES", 64)
        checkpoint._corpus_prompts.cache_clear()
        yield
    checkpoint._corpus_prompts.cache_clear()
