"""Qwen3-VL's processor without the video part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

if TYPE_CHECKING:
    from os import PathLike


class JoyImageProcessor(Qwen3VLProcessor):
    """Pictures and text for Qwen3-VL.

    The library's own class insists on a video processor, which needs torchvision; no edit has a video.
    """

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessorPil | None = None,
        tokenizer: Qwen2Tokenizer | None = None,
        chat_template: str | None = None,
    ) -> None:
        """Take the parts by the names that a saved folder uses."""
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)

    def check_argument_for_proper_class(self, argument_name: str, argument: object) -> Any:
        """Let the missing video part pass."""
        if argument_name == "video_processor":
            return None
        return super().check_argument_for_proper_class(argument_name, argument)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride] - what it names, kwargs take
        cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any
    ) -> JoyImageProcessor:
        """Load a published `processor/` folder, whatever image processor class it names.

        Args:
            pretrained_model_name_or_path: Folder or hub id.
            **kwargs: `subfolder`, `revision` and the like, as in transformers.

        Returns:
            The processor.
        """
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(pretrained_model_name_or_path, **kwargs)
        tokenizer = Qwen2Tokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)
        path = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "", "chat_template.jinja")
        template = path.read_text(encoding="utf-8") if path.is_file() else tokenizer.chat_template
        return cls(image_processor, tokenizer, chat_template=template)
