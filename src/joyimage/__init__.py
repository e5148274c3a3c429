"""Instruction-based image editing with JoyAI-Image-Edit.

The names below are loaded on first use, so importing the package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from joyimage.model.transformer import JoyImageEditTransformer3DModel
    from joyimage.pipeline.edit import JoyImageEditPipeline
    from joyimage.pipeline.edit_plus import JoyImageEditPlusPipeline
    from joyimage.pipeline.output import JoyImageEditPipelineOutput

__version__ = "0.1.0"

__all__ = [
    "JoyImageEditPipeline",
    "JoyImageEditPipelineOutput",
    "JoyImageEditPlusPipeline",
    "JoyImageEditTransformer3DModel",
    "__version__",
]

_MODULES = {
    "JoyImageEditPipeline": "joyimage.pipeline.edit",
    "JoyImageEditPipelineOutput": "joyimage.pipeline.output",
    "JoyImageEditPlusPipeline": "joyimage.pipeline.edit_plus",
    "JoyImageEditTransformer3DModel": "joyimage.model.transformer",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'joyimage' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
