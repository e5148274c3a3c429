"""The model that an adapter is trained on: found before anything is loaded, then loaded one half at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from joyimage.model_source import find_source
from joyimage.pipeline.components import PUBLISHED_FOLDER
from joyimage.pipeline.folder_checks import read_index
from joyimage.pipeline.loading import pipeline_class, published_class, resolve_folder
from joyimage.pipeline.streamed import load_from_disk, stream_from_host
from joyimage.training.framing import Checkpoint

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    import torch

    from joyimage.training.config import TrainingConfig

_PUBLISHED_BASE_SIZE = 1024


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A model by its files.

    Attributes:
        checkpoint: What the framing of pairs depends on.
        cls: Class of the pipeline.
        source: What `from_pretrained` is given.
        folder: The checkpoint's folder on this machine, or that of the published configs.
        files: Part → weight file, for the parts that do not come from the folder.
    """

    checkpoint: Checkpoint
    cls: Any
    source: str | PathLike[str]
    folder: Path
    files: dict[str, Path]

    @classmethod
    def find(cls, config: TrainingConfig) -> BaseModel:
        """Find the model of a run; one of the hub is downloaded.

        Args:
            config: The run.

        Raises:
            CheckpointError: There is no such model, or a part of it is missing.
            InvalidInputError: The transformer is given twice.
        """
        found = find_source(
            config.model, transformer=config.transformer, text_encoder=config.text_encoder, vae=config.vae
        )
        made = published_class(found.name) if found.base is None else pipeline_class(str(found.base))
        folder = (
            PUBLISHED_FOLDER if found.base is None else resolve_folder(made, str(found.base), found.files)
        )
        index = read_index(folder / "model_index.json")
        checkpoint = Checkpoint(
            model=found.name,
            takes_several=made.__name__ == "JoyImageEditPlusPipeline",
            base_size=index.get("base_size") or _PUBLISHED_BASE_SIZE,
        )
        source = PUBLISHED_FOLDER if found.base is None else found.base
        return cls(checkpoint=checkpoint, cls=made, source=source, folder=folder, files=found.files)

    def load_encoders(self, dtype: torch.dtype, device: torch.device, offload: str) -> Any:
        """Load text encoder and VAE.

        Args:
            dtype: Precision of the weights.
            device: Where they run.
            offload: "none", or "block" or "disk" to stream the text encoder's blocks.

        Returns:
            A pipeline without transformer.
        """
        return self._load("text_encoder", {"transformer": None}, dtype, device, offload, None)

    def load_transformer(
        self, dtype: torch.dtype, device: torch.device, offload: str, quantization: str | None
    ) -> Any:
        """Load transformer and VAE.

        Args:
            dtype: Precision of the weights that are not quantized.
            device: Where they run.
            offload: "none", or "block" or "disk" to stream the transformer's blocks.
            quantization: As in `load_pipeline`.

        Returns:
            A pipeline without text encoder.
        """
        return self._load("transformer", {"text_encoder": None}, dtype, device, offload, quantization)

    def _load(
        self,
        part: str,
        without: dict[str, Any],
        dtype: torch.dtype,
        device: torch.device,
        offload: str,
        quantization: str | None,
    ) -> Any:
        """Load a pipeline whose part `part` is streamed as `offload` says."""
        given = {name: path for name, path in self.files.items() if name not in without}
        if offload == "disk":
            given |= load_from_disk(
                self.folder, self.files, dtype=dtype, device=device, quantization=quantization, parts=(part,)
            )
        pipe = self.cls.from_pretrained(
            str(self.source), dtype=dtype, quantization=quantization, **without, **given
        )
        if offload == "block":
            stream_from_host(pipe, device)
        elif offload == "disk":
            pipe.vae.to(device)
        else:
            pipe.to(device)
        return pipe
