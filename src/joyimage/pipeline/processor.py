"""Qwen3-VL's processor without its video part, whose class can't be imported without torchvision."""

from os import PathLike
from typing import Any

from transformers import AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor


class JoyImageProcessor(Qwen3VLProcessor):
    """Turn pictures into patches and prompts into tokens.

    Args:
        image_processor: Makes the patches, with PIL and numpy.
        tokenizer: Of the text encoder.
        chat_template: Kept for those who chat with the text encoder; editing has a template of its own.
    """

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessorPil | None = None,
        tokenizer: Any = None,  # noqa: ANN401 - transformers' tokenizers share no public type
        chat_template: str | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)

    def check_argument_for_proper_class(self, argument_name: str, argument: object) -> Any:  # noqa: ANN401
        """Check a part's class; see `ProcessorMixin`. A missing video part is what this class is for."""
        if argument_name == "video_processor":
            return None
        return super().check_argument_for_proper_class(argument_name, argument)

    @classmethod
    def _get_arguments_from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        processor_dict: dict[str, Any] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> list[Any]:
        # The published folder names the torchvision classes; the ones on PIL compute the same.
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return [image_processor, AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)]
