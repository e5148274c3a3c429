"""Find out where the parts of a model come from: a checkpoint, weight files, or both. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from joyimage.errors import CheckpointError, InvalidInputError
from joyimage.model.file_kind import part_of_file

if TYPE_CHECKING:
    from os import PathLike


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where the parts of a model come from.

    Attributes:
        name: What the model is called in reports: the checkpoint, or the transformer's file.
        base: Checkpoint with configs and all parts that are not given as files; None for the configs of the
            published model, which ship with this package.
        files: Part → weight file.
    """

    name: str
    base: str | PathLike[str] | None
    files: dict[str, Path]


def find_source(
    model: str | PathLike[str] | None = None,
    *,
    transformer: str | PathLike[str] | None = None,
    text_encoder: str | PathLike[str] | None = None,
    vae: str | PathLike[str] | None = None,
) -> ModelSource:
    """Find out where the parts of a model come from, from the tables of the files and without torch.

    Args:
        model: A checkpoint folder, a hub id, a registered name, a weight file with the transformer, or None.
        transformer: Weight file of the transformer.
        text_encoder: Weight file of the text encoder.
        vae: Weight file of the VAE.

    Raises:
        CheckpointError: A file is missing or holds something else, or a part is missing.
        InvalidInputError: The transformer is given twice.
    """
    given = {"transformer": transformer, "text_encoder": text_encoder, "vae": vae}
    files = {part: Path(path) for part, path in given.items() if path is not None}
    name = str(model)
    if model is not None and Path(model).is_file():
        if transformer is not None:
            raise InvalidInputError(
                f"`model` is the file {model}, and `transformer` is {transformer}; expected one of them to be"
                " the transformer. Leave out `model`."
            )
        files = {"transformer": Path(model), **files}
        model = None
    for part, path in files.items():
        if not path.is_file():
            raise CheckpointError(f"`{part}` is {path}, which is not a file; expected a weight file.")
        found = part_of_file(path)
        if found != part:
            raise CheckpointError(
                f"{path} holds the {found.replace('_', ' ')}; expected the {part.replace('_', ' ')}. Give it"
                f" with --{found.replace('_', '-')}."
            )
    if model is not None:
        return ModelSource(name=name, base=model, files=files)
    missing = [part for part in given if part not in files]
    if missing:
        options = " and ".join(f"--{part.replace('_', '-')} FILE" for part in missing)
        raise CheckpointError(
            f"The weights of the {' and the '.join(part.replace('_', ' ') for part in missing)} are missing: give"
            f" {options}, or a checkpoint folder that has them with --model."
        )
    return ModelSource(name=str(files["transformer"]), base=None, files=files)
