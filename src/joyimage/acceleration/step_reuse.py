"""Run an edit under a speed preset: diffusers' SeaCache on the transformer while the edit runs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from diffusers.hooks.sea_cache import SeaCacheConfig

from joyimage.compat.diffusers import step_cache_of
from joyimage.compat.torch import without_compiler
from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Generator

    from joyimage.acceleration.presets import SpeedPreset


def check_preset(transformer: Any, name: str, preset: SpeedPreset) -> None:
    """Reject a preset that needs a step cache where the caller has enabled one.

    Raises:
        InvalidInputError: There is one.
    """
    enabled = step_cache_of(without_compiler(transformer))
    if preset.reuses_steps and enabled is not None:
        raise InvalidInputError(
            f'`speed` is "{name}", but the transformer has {enabled} enabled; call '
            '`pipe.transformer.disable_cache()`, or leave `speed` at "exact".'
        )


@contextmanager
def reusing_steps(transformer: Any, preset: SpeedPreset) -> Generator[None]:
    """Let steps reuse the blocks' results of earlier steps inside the `with`, as a preset says."""
    if preset.threshold is None:
        yield
        return
    model = without_compiler(transformer)
    model.enable_cache(
        SeaCacheConfig(
            threshold=preset.threshold,
            max_consecutive_cached=preset.max_reused_steps,
            retention_steps=preset.num_full_steps,
        )
    )
    try:
        yield
    finally:
        model.disable_cache()
