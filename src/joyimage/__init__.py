"""Instruction-based image editing with JoyAI-Image-Edit.

The names below are loaded on first use, so importing the package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from joyimage.lazy_names import lazy_names

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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "JoyImageEditPipeline": "joyimage.pipeline.edit",
        "JoyImageEditPipelineOutput": "joyimage.pipeline.output",
        "JoyImageEditPlusPipeline": "joyimage.pipeline.edit_plus",
        "JoyImageEditTransformer3DModel": "joyimage.model.transformer",
    },
    "__version__",
)
