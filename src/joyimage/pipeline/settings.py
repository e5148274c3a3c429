"""Settings of a checkpoint that stand in its `model_index.json`, remembered with its components.

diffusers' users build one pipeline from another's parts: `OtherPipeline(**pipe.components)`. The settings are
no component, so they are kept here beside the components, for as long as these live.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """Settings of a checkpoint; the defaults are those of the published one.

    Attributes:
        text_token_max_length: Most prompt tokens without an image.
        base_size: Side in pixels of the square bucket; the other buckets have about its area.
        default_num_inference_steps: Denoising steps where a caller gives none.
        default_guidance_scale: Guidance scale where a caller gives none.
    """

    text_token_max_length: int = 2048
    base_size: int = 1024
    default_num_inference_steps: int = 40
    default_guidance_scale: float = 4.0


_SETTINGS: WeakKeyDictionary[nn.Module, CheckpointSettings] = WeakKeyDictionary()
"""Settings with which each component was first put into a pipeline."""


def resolve_settings(
    components: Iterable[object], published: CheckpointSettings | None = None, **given: Any
) -> CheckpointSettings:
    """Return the settings of a new pipeline, and remember them with components that have none yet.

    Args:
        components: Parts of the pipeline; only modules can remember.
        published: Settings where neither the components nor the caller know any.
        **given: Settings by name; None leaves one to the components, and to the published default where they
            remember nothing.
    """
    modules = [component for component in components if isinstance(component, nn.Module)]
    known = [_SETTINGS[module] for module in modules if module in _SETTINGS]
    settings = replace(
        known[0] if known else published or CheckpointSettings(),
        **{name: value for name, value in given.items() if value is not None},
    )
    for module in modules:
        _SETTINGS.setdefault(module, settings)
    return settings
