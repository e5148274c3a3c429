"""The weights of one part of the model, from files of any format, by our names and one at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from joyimage.errors import CheckpointError
from joyimage.model.checkpoint.encodings.float4 import Nvfp4
from joyimage.model.checkpoint.encodings.float8 import MicroscalingFloat8
from joyimage.model.checkpoint.files import WeightFile
from joyimage.model.checkpoint.grouping import StoredWeight, group_weights
from joyimage.model.checkpoint.headers import StoredTensor, check_tensors
from joyimage.model.checkpoint.parts import our_names
from joyimage.model.checkpoint.shards import find_weight_files
from joyimage.model.file_kind import describe_contents

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor

    from joyimage.model.checkpoint.encodings.base import EncodedWeight, Shape

_PADDING = 32
"""Sides of mxfp8 and nvfp4 matrices are padded to multiples of this number at most."""


class WeightSource:
    """Weights of the transformer, the text encoder or the VAE, in one file or several.

    Attributes:
        part: "transformer", "text_encoder" or "vae".
        where: File, or folder of the files, for messages.
        weights: Weights by our names, not read yet.
    """

    def __init__(self, paths: Sequence[Path], part: str) -> None:
        """Read the tables of the files; no weight is read.

        Args:
            paths: Files in any format of `grouping`; several are the shards of one model.
            part: "transformer", "text_encoder" or "vae".

        Raises:
            CheckpointError: A file cannot be read, holds something else, or repeats a weight.
        """
        self.part = part
        self.where = paths[0] if len(paths) == 1 else paths[0].parent
        files = [WeightFile(path) for path in paths]
        # Of all shards together: one of them may hold language layers alone.
        tensors = [name for file in files for name in file.tensors]
        foreign = describe_contents(tensors, files[0].metadata if files[0].is_gguf else None)
        if foreign is not None:
            raise CheckpointError(f"{self.where} is {foreign}")
        grouped: dict[str, StoredWeight] = {}
        for file in files:
            for name, weight in group_weights(file).items():
                if name in grouped:
                    raise CheckpointError(
                        f"{file.path} has `{name}`, which another file of this model has too."
                    )
                grouped[name] = weight
        names = our_names(grouped, part, self.where)
        self.weights = {ours: grouped[theirs] for ours, theirs in names.items()}

    @classmethod
    def from_folder(cls, folder: Path, part: str, stem: str, variant: str | None = None) -> WeightSource:
        """Open the weights in a folder of the published layout.

        Args:
            folder: The part's own folder.
            part: "transformer", "text_encoder" or "vae".
            stem: What the names of the weight files start with.
            variant: Such as "fp16".

        Raises:
            CheckpointError: The files are missing, or cannot be read.
        """
        return cls(find_weight_files(folder, stem, variant), part)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shapes of the values, by our names."""
        return {name: weight.shape for name, weight in self.weights.items()}

    @property
    def formats(self) -> Counter[str]:
        """Number of weights in each format."""
        return Counter(weight.encoding.name for weight in self.weights.values())

    @property
    def is_quantized(self) -> bool:
        """Whether any weight is stored in a quantized format."""
        return set(self.formats) != {"plain"}

    @property
    def num_bytes(self) -> int:
        """Number of bytes of all weights in the files."""
        return sum(weight.num_bytes for weight in self.weights.values())

    def check(self, expected: Mapping[str, Shape], optional: Collection[str] = ()) -> None:
        """Check that the files hold exactly the weights of a model, and take the model's shapes.

        Args:
            expected: Name and shape of each weight of the model.
            optional: Names that may be missing.

        Raises:
            CheckpointError: A missing or unexpected weight, or another shape.
        """
        for name, shape in expected.items():
            weight = self.weights.get(name)
            if weight is not None and weight.shape != shape and _can_be(weight, shape):
                self.weights[name] = replace(weight, shape=shape)
        found = {name: StoredTensor(weight.shape, weight.file.path) for name, weight in self.weights.items()}
        check_tensors(found, expected, self.where, optional)

    def read(self, name: str) -> EncodedWeight:
        """Return a weight as stored; its memory is that of the file.

        Args:
            name: Our name of the weight.

        Raises:
            CheckpointError: The type of a tensor is not known.
        """
        return self.weights[name].read()

    def unmap(self) -> None:
        """Let go of all files until the next read; tensors in use keep their memory."""
        for file in {id(weight.file): weight.file for weight in self.weights.values()}.values():
            file.unmap()

    def decoded(self, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        """Yield names and values, one weight at a time.

        Args:
            dtype: Precision of the values.

        Yields:
            Our name, and the values.

        Raises:
            CheckpointError: The type of a tensor is not known.
        """
        for name in self.weights:
            yield name, self.read(name).decode(dtype)


def _can_be(weight: StoredWeight, shape: Shape) -> bool:
    """Whether a weight can have a shape: flattened by the format, or without the padding of the format."""
    sizes = [1, 1]
    for index, one in enumerate((weight.shape, shape)):
        for size in one:
            sizes[index] *= size
    if sizes[0] == sizes[1]:
        # GGUF files have at most four dimensions, and some programs flatten convolutions.
        return weight.shape[0] == shape[0] or weight.file.is_gguf
    if not isinstance(weight.encoding, Nvfp4 | MicroscalingFloat8) or len(shape) != 2:
        return False
    return all(stored - _PADDING < size <= stored for stored, size in zip(weight.shape, shape, strict=True))
