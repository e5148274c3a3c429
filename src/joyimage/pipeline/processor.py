"""Qwen3-VL's processor without its video part, which it keeps for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

if TYPE_CHECKING:
    from os import PathLike
    from typing import Self

PUBLISHED_CLASS = Qwen3VLProcessor.__name__
"""Class that saved folders name, so that transformers and diffusers find theirs."""

VIDEO_FILE = "video_preprocessor_config.json"


class JoyImageProcessor(Qwen3VLProcessor):
    """Processor of images and text for Qwen3-VL.

    transformers' own class requires a video processor, which needs torchvision, and no edit has a video. The
    settings of that part are kept as they were loaded, and saved again.
    """

    video_settings: dict[str, Any] | None = None

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessorPil | None = None,
        tokenizer: Qwen2Tokenizer | None = None,
        chat_template: str | None = None,
    ) -> None:
        """Take the parts by the names that a saved folder uses."""
        cast("Any", super()).__init__(image_processor, tokenizer, None, chat_template=chat_template)

    def check_argument_for_proper_class(self, argument_name: str, argument: object) -> Any:
        """Accept None for the video part; see `ProcessorMixin`."""
        if argument_name == "video_processor":
            return None
        return cast("Any", super()).check_argument_for_proper_class(argument_name, argument)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride] - what it names, kwargs take
        cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any
    ) -> Self:
        """Load a published `processor/` folder, whatever image processor class it names.

        Args:
            pretrained_model_name_or_path: Folder or hub id.
            **kwargs: `subfolder`, `revision` and other arguments of transformers.

        Returns:
            The processor.
        """
        image_processor = cast("Any", Qwen2VLImageProcessorPil).from_pretrained(
            pretrained_model_name_or_path, **kwargs
        )
        tokenizer = cast("Any", Qwen2Tokenizer).from_pretrained(pretrained_model_name_or_path, **kwargs)
        folder = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        path = folder / "chat_template.jinja"
        template = path.read_text(encoding="utf-8") if path.is_file() else tokenizer.chat_template
        processor = cls(image_processor, tokenizer, chat_template=template)
        processor.video_settings = _read_video_settings(folder)
        return processor

    def save_pretrained(
        self, save_directory: str | PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Save the processor so that transformers and diffusers open the folder too.

        Args:
            save_directory: Folder to write; created where missing.
            push_to_hub: Upload the folder too; see `ProcessorMixin.save_pretrained`.
            **kwargs: Arguments for the upload.

        Returns:
            Paths of the written files, as transformers returns them.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        # First, so that an upload has it.
        settings = self.video_settings or self._default_video_settings()
        _write_json(folder / VIDEO_FILE, settings)
        written = cast("Any", super()).save_pretrained(str(folder), push_to_hub=push_to_hub, **kwargs)
        path = folder / "tokenizer_config.json"  # the tokenizer is told our class's name while it is saved
        config = json.loads(path.read_text(encoding="utf-8"))
        _write_json(path, {**config, "processor_class": PUBLISHED_CLASS})
        return [*written, str(folder / VIDEO_FILE)]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings for `processor_config.json`, under the name of the published class."""
        return {**super().to_dict(), "processor_class": PUBLISHED_CLASS}

    def _default_video_settings(self) -> dict[str, Any]:
        """Return settings for a video part that fit the image part; the others are the class's defaults."""
        shared = ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std")
        return {
            **{name: getattr(self.image_processor, name) for name in shared},
            "processor_class": PUBLISHED_CLASS,
            "video_processor_type": "Qwen3VLVideoProcessor",
        }


def _read_video_settings(folder: Path) -> dict[str, Any] | None:
    """Return the settings of the video part, from either of the files that may hold them, or None."""
    for name, key in ((VIDEO_FILE, None), ("processor_config.json", "video_processor")):
        if (folder / name).is_file():
            settings: Any = json.loads((folder / name).read_text(encoding="utf-8"))
            settings = settings if key is None else settings.get(key)
            if isinstance(settings, dict):
                return cast("dict[str, Any]", settings)
    return None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
